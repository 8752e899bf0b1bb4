"""Recurrent cells that are called step by step in Python, for the test of what the exporters write."""

from __future__ import annotations

import torch
from torch import nn

STEPS, FEATURES, UNITS = 5, 3, 4


class Steps(nn.Module):
    """A cell over a sequence: all results, or the last."""

    def __init__(self, cell, *, batch_first=False, backwards=False, last=False):
        super().__init__()
        self.cell = cell
        self.axis = 1 if batch_first else 0
        self.backwards = backwards
        self.last = last

    def forward(self, x):
        """x: steps and batch, in either order, and features."""
        lstm = isinstance(self.cell, nn.LSTMCell)
        batch = x.shape[1 - self.axis]
        state = x.new_zeros(batch, UNITS)
        state = (state, state) if lstm else state
        results = []
        for step in range(STEPS)[:: -1 if self.backwards else 1]:
            state = self.cell(x.select(self.axis, step), state)
            results.append(state[0] if lstm else state)
        if self.last:
            return results[-1]
        return torch.stack(results[:: -1 if self.backwards else 1], self.axis)


class Stacked(nn.Module):
    """Two layers, step by step."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        """x: steps, batch, features."""
        lower = upper = (x.new_zeros(x.shape[1], UNITS),) * 2
        results = []
        for step in range(STEPS):
            lower = self.first(x[step], lower)
            upper = self.second(lower[0], upper)
            results.append(upper[0])
        return torch.stack(results)


class ByHand(nn.Module):
    """An LSTM of which the input was multiplied for all steps at once, or joined with the state."""

    def __init__(self, *, joined):
        super().__init__()
        self.joined = joined
        self.of_x = nn.Linear(FEATURES + (UNITS if joined else 0), 4 * UNITS)
        self.of_h = nn.Linear(UNITS, 4 * UNITS, bias=False)

    def forward(self, x):
        """x: steps, batch, features."""
        h = c = x.new_zeros(x.shape[1], UNITS)
        wide = None if self.joined else self.of_x(x)
        for step in range(STEPS):
            if wide is None:
                gates = self.of_x(torch.cat([x[step], h], 1))
            else:
                gates = wide[step] + self.of_h(h)
            forget, enter, new, out = gates.chunk(4, -1)
            c = torch.sigmoid(forget + 1) * c + torch.sigmoid(enter) * torch.tanh(new)
            h = torch.sigmoid(out) * torch.tanh(c)
        return torch.cat([h, c], 1)


class OneStep(nn.Module):
    """A cell of a stream: state in, state out."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        """x: batch, features and state."""
        state = x[:, FEATURES:]
        return self.cell(x[:, :FEATURES], (state, state) if isinstance(self.cell, nn.LSTMCell) else state)


MODULES = {
    "lstm": lambda: Steps(nn.LSTMCell(FEATURES, UNITS)),
    "lstm_batch_first": lambda: Steps(nn.LSTMCell(FEATURES, UNITS), batch_first=True),
    "lstm_backwards": lambda: Steps(nn.LSTMCell(FEATURES, UNITS), backwards=True),
    "lstm_last": lambda: Steps(nn.LSTMCell(FEATURES, UNITS, bias=False), last=True),
    "lstm_stacked": lambda: Stacked(nn.LSTMCell(FEATURES, UNITS), nn.LSTMCell(UNITS, UNITS)),
    "lstm_whole": lambda: ByHand(joined=False),
    "lstm_joined": lambda: ByHand(joined=True),
    "lstm_one": lambda: OneStep(nn.LSTMCell(FEATURES, UNITS)),
    "gru": lambda: Steps(nn.GRUCell(FEATURES, UNITS)),
    "gru_batch_first": lambda: Steps(nn.GRUCell(FEATURES, UNITS), batch_first=True),
    "gru_backwards": lambda: Steps(nn.GRUCell(FEATURES, UNITS), backwards=True),
    "gru_last": lambda: Steps(nn.GRUCell(FEATURES, UNITS, bias=False), last=True),
    "gru_one": lambda: OneStep(nn.GRUCell(FEATURES, UNITS)),
}


def make(name: str, dynamic: bool = False):
    """A factory for ``graphopt.models.export``: the module, an input, and whether its batch may change."""
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    batch = 0 if name.endswith(("batch_first", "one")) else 1
    shape = [STEPS, 2, FEATURES]
    if batch == 0:
        shape = [2, FEATURES + UNITS] if name.endswith("one") else [2, STEPS, FEATURES]
    settings = {}
    if dynamic:
        shapes = {"x": {batch: torch.export.Dim.DYNAMIC}}
        settings = {"dynamic_axes": {"x": {batch: "N"}}, "dynamic_shapes": shapes}
    return module, {"x": torch.randn(shape)}, settings

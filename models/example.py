"""What a factory returns, checked: a torch module, its example inputs under their names, and options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError

OPTIONS = ("input_names", "output_names", "dynamic_shapes", "dynamic_axes")


def load_torch() -> Any:
    """The torch package, imported when it is used. It is an extra, so nothing here relies on its types."""
    return import_module("torch")


@dataclass(frozen=True)
class Example:
    """A module in eval mode with the inputs to export and compare it on.

    Attributes:
        module: the torch module.
        positional: inputs by position.
        named: inputs by the names of ``forward``'s arguments.
        input_names: of all tensors among the inputs, in their order.
        options: what the factory asks of the exporter.
    """

    module: Any
    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    input_names: tuple[str, ...]
    options: Mapping[str, Any]

    def feeds(self) -> dict[str, np.ndarray]:
        """The inputs as ONNX Runtime takes them."""
        arrays = _arrays((self.positional, dict(self.named)))
        return dict(zip(self.input_names, arrays, strict=True))

    def outputs(self) -> list[np.ndarray]:
        """What torch computes, flattened as the exporters flatten it."""
        with load_torch().no_grad():
            return _arrays(self.module(*self.positional, **self.named))


def example_of(made: Any, name: str) -> Example:
    """Checks what the factory ``name`` made.

    Raises:
        GraphoptError: it is neither ``(module, inputs)`` nor ``(module, inputs, options)``; unknown options.
    """
    torch = load_torch()
    shape = "a factory returns (torch.nn.Module, inputs) or (torch.nn.Module, inputs, options)"
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], torch.nn.Module):
        raise GraphoptError("the factory returns something else than a module and its inputs", name, shape)
    module, inputs = made[0].eval(), made[1]
    options = dict(made[2]) if len(made) == 3 else {}
    for option in options:
        if option not in OPTIONS:
            close = get_close_matches(option, OPTIONS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(OPTIONS)}"
            raise GraphoptError(f"the factory gives an unknown option {option!r}", name, hint)
    named = dict(inputs) if isinstance(inputs, Mapping) else {}
    positional: tuple[Any, ...] = ()
    if not isinstance(inputs, Mapping):
        positional = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    names = options.get("input_names") or _names(module, positional, named)
    count = len(_arrays((positional, named)))
    if len(names) != count:
        raise GraphoptError(f"there are {len(names)} input names for {count} tensors", name, "give input_names")
    return Example(module, positional, named, tuple(names), options)


def _names(module: Any, positional: tuple[Any, ...], named: Mapping[str, Any]) -> list[str]:
    """``forward``'s own names; numbered where one argument holds several tensors."""
    arguments = [
        p.name
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    arguments += [f"input_{place}" for place in range(len(arguments), len(positional))]
    names: list[str] = []
    for argument, value in [*zip(arguments, positional, strict=False), *named.items()]:
        count = len(_arrays(value))
        names += [argument] if count == 1 else [f"{argument}_{place}" for place in range(count)]
    return names


def _arrays(tree: Any) -> list[np.ndarray]:
    """All tensors in nested tuples, lists, dicts and model outputs, as arrays."""
    torch = load_torch()
    leaves, _ = torch.utils._pytree.tree_flatten(tree)
    return [leaf.detach().cpu().numpy() for leaf in leaves if isinstance(leaf, torch.Tensor)]

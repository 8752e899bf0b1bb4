"""Small torch modules, one for each operator that the fuse family should find in what exporters write."""

from __future__ import annotations

import math

import torch
from torch import nn


class Of(nn.Module):
    """A module made of a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        """x is float32 of rank 3 or 4."""
        return self.function(x)


class RMSNorm(nn.Module):
    """As Llama writes it."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, x):
        """x: N x S x size."""
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Self-attention of 4 heads; grouped, causal, masked, rotary on request."""

    def __init__(self, *, heads=4, groups=4, size=8, causal=False, fused=True, rotary=False):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, size
        self.causal, self.fused, self.rotary = causal, fused, rotary
        self.q = nn.Linear(heads * size, heads * size)
        self.k = nn.Linear(heads * size, groups * size)
        self.v = nn.Linear(heads * size, groups * size)
        self.out = nn.Linear(heads * size, heads * size)

    def forward(self, x):
        """x: N x S x hidden."""
        n, s, _ = x.shape
        q = self.q(x).view(n, s, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(n, s, self.groups, self.size).transpose(1, 2)
        v = self.v(x).view(n, s, self.groups, self.size).transpose(1, 2)
        if self.rotary:
            q, k = self.turned(q), self.turned(k)
        repeats = self.heads // self.groups
        if repeats > 1:
            k, v = (
                item[:, :, None].expand(n, self.groups, repeats, s, self.size).reshape(n, self.heads, s, self.size)
                for item in (k, v)
            )
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
            if self.causal:
                allowed = torch.ones(s, s, dtype=torch.bool).tril()
                scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, s, self.heads * self.size))

    def turned(self, x):
        """Rotary embedding in the rotate-half form."""
        positions = torch.arange(x.shape[2]).float()
        angles = positions[:, None] * (10000.0 ** (-torch.arange(0, self.size, 2).float() / self.size))[None]
        angles = torch.cat((angles, angles), -1)
        cos, sin = angles.cos()[None, None], angles.sin()[None, None]
        half = self.size // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class RepVGG(nn.Module):
    """The block of RepVGG at training time."""

    def __init__(self, channels):
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.point = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.same = nn.BatchNorm2d(channels)

    def forward(self, x):
        """x: N x channels x H x W."""
        return torch.relu(self.wide(x) + self.point(x) + self.same(x))


def _mean_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)


FLAT, IMAGE = (2, 6, 32), (2, 8, 6, 6)
MODULES = {
    "gelu": (lambda: nn.GELU(), FLAT),
    "gelu_tanh": (lambda: nn.GELU(approximate="tanh"), FLAT),
    "gelu_by_hand": (lambda: Of(lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))), FLAT),
    "quick_gelu": (lambda: Of(lambda x: x * torch.sigmoid(1.702 * x)), FLAT),
    "silu": (lambda: nn.SiLU(), FLAT),
    "mish": (lambda: nn.Mish(), FLAT),
    "hardswish": (lambda: Of(lambda x: x * nn.functional.relu6(x + 3) / 6), IMAGE),
    "layer_norm": (lambda: nn.LayerNorm(32), FLAT),
    "layer_norm_by_hand": (lambda: Of(_mean_norm), FLAT),
    "rms_norm": (lambda: RMSNorm(32), FLAT),
    "group_norm": (lambda: nn.GroupNorm(4, 8), IMAGE),
    "instance_norm": (lambda: nn.InstanceNorm2d(8, affine=True), IMAGE),
    "attention": (lambda: Attention(), FLAT),
    "attention_causal": (lambda: Attention(causal=True), FLAT),
    "attention_by_hand": (lambda: Attention(fused=False), FLAT),
    "attention_causal_by_hand": (lambda: Attention(fused=False, causal=True), FLAT),
    "attention_grouped": (lambda: Attention(groups=2), FLAT),
    "rotary": (lambda: Attention(rotary=True), FLAT),
    "repvgg": (lambda: RepVGG(8), IMAGE),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "pixel_unshuffle": (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, 4, 3, padding=1)), IMAGE),
    "einsum": (lambda: Of(lambda x: torch.einsum("bsd,btd->bst", x, x)), FLAT),
}


class Wrapped(nn.Module):
    """Calls its input x, whatever the module inside calls it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        """x: what the inner module takes."""
        return self.inner(x)


def make(name: str):
    """A factory for ``graphopt.models.export``: the module, an input, and which of its axes may change."""
    torch.manual_seed(0)
    build, shape = MODULES[name]
    module = Wrapped(build()).eval()
    for item in module.modules():
        if isinstance(item, nn.BatchNorm2d):
            item.running_mean.uniform_(-1, 1)
            item.running_var.uniform_(0.5, 2)
    axes = {0: "N", 1: "S"} if len(shape) == 3 else {0: "N"}
    shapes = {"x": dict.fromkeys(axes, torch.export.Dim.DYNAMIC)}
    return module, {"x": torch.randn(shape)}, {"dynamic_axes": {"x": axes}, "dynamic_shapes": shapes}

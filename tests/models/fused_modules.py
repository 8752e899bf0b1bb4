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


class MultiHead(nn.Module):
    """torch.nn.MultiheadAttention, in its forms."""

    def __init__(self, *, causal=False, cross=False, weights=False, batch_first=True):
        super().__init__()
        self.inner = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.causal, self.cross, self.weights = causal, cross, weights

    def forward(self, x):
        """x: N x S x 32."""
        other = x[:, 1:] * 2 if self.cross else x
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.causal else None
        return self.inner(x, other, other, attn_mask=mask, need_weights=self.weights)[0]


class Shared(nn.Module):
    """One head of keys and values for all queries, which broadcasting repeats."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(32, 8)

    def forward(self, x):
        """x: N x S x 32."""
        q = self.q(x).view(*x.shape[:2], 4, 8).transpose(1, 2)
        k, v = self.k(x)[:, None], self.v(x)[:, None]
        y = ((q @ k.transpose(-1, -2)) * 8**-0.5).softmax(-1) @ v
        return y.transpose(1, 2).reshape(x.shape)


class Cross(nn.Module):
    """Attention to a part of the input, by F.scaled_dot_product_attention; grouped, masked on request."""

    def __init__(self, *, grouped=False, masked=False):
        super().__init__()
        self.q, self.k = nn.Linear(32, 32), nn.Linear(32, 16 if grouped else 32)
        self.grouped, self.masked = grouped, masked

    def forward(self, x):
        """x: N x S x 32."""
        other = x[:, 1:]
        q = self.q(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k = self.k(other).unflatten(-1, (2 if self.grouped else 4, 8)).transpose(1, 2)
        mask = (other.sum(-1) > 0)[:, None, None, :].expand(-1, 1, x.shape[1], -1) if self.masked else None
        k = k.repeat_interleave(2, 1) if self.grouped else k
        y = nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask)
        return y.transpose(1, 2).flatten(2)


class Window(nn.Module):
    """A block of Swin: shifted windows of 2 x 2 with a bias for relative positions."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(2, 4, 4))
        self.register_buffer("mask", torch.randint(0, 2, (9, 4, 4)).float() * -100)

    def forward(self, x):
        """x: N x 8 x 6 x 6."""
        n = x.shape[0]
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        x = x.view(n, 3, 2, 3, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(n * 9, 4, 8)
        q, k, v = self.qkv(x).reshape(n * 9, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        a = (q * 0.5) @ k.transpose(-2, -1) + self.bias[None]
        a = (a.view(n, 9, 2, 4, 4) + self.mask[None, :, None]).view(-1, 2, 4, 4)
        return (a.softmax(-1) @ v).transpose(1, 2).reshape(n, 36, 8)


class Decoder(nn.Module):
    """A layer of a decoder that looks at itself and at something else."""

    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerDecoderLayer(32, 4, 48, batch_first=True)

    def forward(self, x):
        """x: N x S x 32."""
        return self.inner(x, x * 2)


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
    "attention_causal_grouped": (lambda: Attention(fused=False, causal=True, groups=2), FLAT),
    "attention_one_head_of_keys": (lambda: Shared(), FLAT),
    "attention_cross": (lambda: Cross(), FLAT),
    "attention_cross_masked": (lambda: Cross(masked=True), FLAT),
    "attention_cross_grouped": (lambda: Cross(grouped=True), FLAT),
    "attention_windows": (lambda: Window(), IMAGE),
    "multihead": (lambda: MultiHead(), FLAT),
    "multihead_causal": (lambda: MultiHead(causal=True), FLAT),
    "multihead_cross": (lambda: MultiHead(cross=True), FLAT),
    "multihead_weights": (lambda: MultiHead(weights=True), FLAT),
    "multihead_batch_second": (lambda: MultiHead(batch_first=False), FLAT),
    "encoder_layer": (lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), FLAT),
    "decoder_layer": (lambda: Decoder(), FLAT),
    "rotary": (lambda: Attention(rotary=True), FLAT),
    "repvgg": (lambda: RepVGG(8), IMAGE),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "pixel_unshuffle": (lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, 4, 3, padding=1)), IMAGE),
    "einsum": (lambda: Of(lambda x: torch.einsum("bsd,btd->bst", x, x)), FLAT),
}


# The TorchScript exporter writes a wrong shape for what torch.nn.MultiheadAttention splits when sizes are not fixed.
FIXED = {name for name in MODULES if name.startswith(("multihead", "encoder", "decoder"))}


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
    torch.backends.mha.set_fastpath_enabled(False)  # operators that have no ONNX form
    build, shape = MODULES[name]
    module = Wrapped(build()).eval()
    for item in module.modules():
        if isinstance(item, nn.BatchNorm2d):
            item.running_mean.uniform_(-1, 1)
            item.running_var.uniform_(0.5, 2)
    axes = {} if name in FIXED else {0: "N", 1: "S"} if len(shape) == 3 else {0: "N"}
    shapes = {"x": dict.fromkeys(axes, torch.export.Dim.DYNAMIC)}
    return module, {"x": torch.randn(shape)}, {"dynamic_axes": {"x": axes}, "dynamic_shapes": shapes}

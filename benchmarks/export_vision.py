"""MLP-Mixer, MobileNetV3 and ResNet in torch, small, after their papers (needs no timm, no torchvision).

Tolstikhin et al., MLP-Mixer (2021), figure 1; Howard et al., Searching for MobileNetV3 (2019), table 2;
He et al., Deep residual learning (2015), table 1 (18 layers).
"""

from __future__ import annotations

import torch
from torch import nn


def settle(module: nn.Module) -> None:
    """Gives every BatchNorm2d statistics of a trained one, neither zero nor one."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.1)
            nn.init.normal_(part.bias, 0.0, 0.1)
            nn.init.normal_(part.running_mean, 0.0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


class _Mix(nn.Module):
    """One Mixer layer: an MLP over patches, then one over channels, each behind a LayerNorm."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches = nn.Sequential(nn.Linear(patches, 64), nn.GELU(), nn.Linear(64, patches))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, patches, width] to the same."""
        x = x + self.patches(self.before(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.between(x))


class Mixer(nn.Module):
    """MLP-Mixer with 64 patches of 8 x 8."""

    def __init__(self, width: int = 128, layers: int = 4, classes: int = 100) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.layers = nn.Sequential(*(_Mix(64, width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[N, 3, 64, 64] to [N, classes]."""
        x = self.layers(self.stem(pixels).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


def _conv(into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]


class _Excite(nn.Module):
    """Squeeze and excite with HardSigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 4, 1),
            nn.ReLU(),
            nn.Conv2d(width // 4, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` scaled by channel."""
        return x * self.gate(x)


class _Inverted(nn.Module):
    """Expand, depthwise, squeeze-excite, project."""

    def __init__(self, into: int, wide: int, out: int, kernel: int, stride: int, excite: bool, hard: bool) -> None:
        super().__init__()
        act = nn.Hardswish if hard else nn.ReLU
        parts = [*_conv(into, wide, 1), act(), *_conv(wide, wide, kernel, stride, wide)]
        parts += [_Excite(wide)] if excite else []
        self.body = nn.Sequential(*parts, act(), *_conv(wide, out, 1))
        self.adds = stride == 1 and into == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, into, H, W] to [N, out, H / stride, W / stride]."""
        return x + self.body(x) if self.adds else self.body(x)


class MobileNetV3(nn.Module):
    """MobileNetV3-small's eleven blocks."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        blocks = [
            (16, 16, 16, 3, 2, True, False),
            (16, 72, 24, 3, 2, False, False),
            (24, 88, 24, 3, 1, False, False),
            (24, 96, 40, 5, 2, True, True),
            (40, 240, 40, 5, 1, True, True),
            (40, 240, 40, 5, 1, True, True),
            (40, 120, 48, 5, 1, True, True),
            (48, 144, 48, 5, 1, True, True),
            (48, 288, 96, 5, 2, True, True),
            (96, 576, 96, 5, 1, True, True),
            (96, 576, 96, 5, 1, True, True),
        ]
        self.stem = nn.Sequential(*_conv(3, 16, 3, 2), nn.Hardswish())
        self.blocks = nn.Sequential(*(_Inverted(*block) for block in blocks))
        self.last = nn.Sequential(*_conv(96, 576, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        hidden = (nn.Linear(576, 256), nn.Hardswish(), nn.Dropout(0.2))
        self.head = nn.Sequential(*hidden, nn.Linear(256, classes))
        settle(self)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, classes]."""
        return self.head(self.last(self.blocks(self.stem(pixels))))


class _Basic(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(into, out, 3, stride), nn.ReLU(), *_conv(out, out, 3))
        plain = stride == 1 and into == out
        self.short = nn.Identity() if plain else nn.Sequential(*_conv(into, out, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, into, H, W] to [N, out, H / stride, W / stride]."""
        return torch.relu(self.body(x) + self.short(x))


class ResNet(nn.Module):
    """ResNet-18 of half the width."""

    def __init__(self, classes: int = 100) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(3, 32, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        for into, out in ((32, 32), (32, 64), (64, 128), (128, 256)):
            blocks += [_Basic(into, out, 1 if into == out else 2), _Basic(out, out, 1)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(256, classes)
        settle(self)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, classes]."""
        x = self.blocks(self.stem(pixels))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))

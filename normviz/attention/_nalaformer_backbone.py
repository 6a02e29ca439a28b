"""NaLaFormer's block and image backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.attention._nalaformer_layers import GatedSoftmaxAttention, NormAwareLinearAttention
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["NaLaFormer", "NaLaFormerBlock"]

_HEAD_WIDTH = 1024


class PixelLinear(nn.Conv2d):
    """A Linear at every pixel of [B, C, H, W], with Linear's initialisation."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, H, W], eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise every pixel."""
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class DropPath(nn.Module):
    """Zero whole samples with probability p in training and scale the others by 1 / (1 - p)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = check_real("drop_path", p, 0, 1, high_open=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        if self.p == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, 1, 1), self.p, self.training)

    def extra_repr(self) -> str:
        """Probability, for ``repr``."""
        return f"p={self.p:g}"


class ConvFFN(nn.Module):
    """Linear, GELU, ``h + dw(h)``, Linear, at every pixel."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PixelLinear(dim, hidden)
        self.dw = depthwise3x3(hidden)
        self.fc2 = PixelLinear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        h = F.gelu(self.fc1(x))
        out: Tensor = self.fc2(h + self.dw(h))
        return out


def depthwise3x3(channels: int) -> nn.Conv2d:
    """3 x 3 convolution of every channel by itself, size kept."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)


def _init_convolutions(module: nn.Module) -> None:
    """Official start: convolutions N(0, 0.02^2) truncated, biases 0; Linear layers keep the framework's."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and not isinstance(part, PixelLinear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class NaLaFormerBlock(nn.Module):
    """One block on [B, C, H, W]: depthwise convolution, attention, depthwise convolution, feed-forward, all with skips.

        x = x + dw1(x)
        x = x + DropPath(gamma1 * attn(norm1(x)))
        x = x + dw2(x)
        x = x + DropPath(gamma2 * ffn(norm2(x)))

    Args:
        dim: C.
        num_heads: of the attention.
        mlp_ratio: hidden width int(mlp_ratio * C) of the feed-forward part. Default 4.
        drop_path: probability of dropping a branch for a sample, in [0, 1). Default 0.
        layer_scale_init: first value of gamma1 and gamma2. Default 1.
        attention: "linear" (:class:`NormAwareLinearAttention`, default) or "softmax" (its twin).
        **attn_kw: further arguments of the attention layer: rotary, lepe_kernel, qkv_bias; for "linear" also direction,
            lam, tau, alpha, eps.

    Attributes:
        dw1, dw2: depthwise 3 x 3 convolutions.
        norm1, norm2: layer norms over channels, eps 1e-6.
        attn, ffn: the branches; ``ffn.fc1``, ``ffn.dw``, ``ffn.fc2``.
        gamma1, gamma2: (C,), layer scale.

    Raises:
        ValueError: as the attention layer; unknown attention, drop_path outside [0, 1), mlp_ratio that leaves no hidden
            unit, layer_scale_init not a number.
        TypeError: an argument that the attention layer does not have.

    Reference: Meng et al. 2025 (NaLaFormer), arXiv 2506.21137; order of the layers as in the official release.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4,
        drop_path: float = 0.0,
        layer_scale_init: float = 1.0,
        attention: str = "linear",
        **attn_kw: Any,
    ) -> None:
        super().__init__()
        check_choice("attention", attention, ("linear", "softmax"))
        check_real("mlp_ratio", mlp_ratio, 0, math.inf, low_open=True, high_open=True)
        check_real("layer_scale_init", layer_scale_init)
        layer = NormAwareLinearAttention if attention == "linear" else GatedSoftmaxAttention
        if attn_kw.get("causal"):
            raise ValueError("causal must be False in an image block, got True.")
        self.attn: nn.Module = layer(dim, num_heads, **attn_kw)
        hidden = check_integer("int(mlp_ratio * dim)", int(mlp_ratio * dim), 1)
        self.dw1, self.dw2 = depthwise3x3(dim), depthwise3x3(dim)
        self.norm1, self.norm2 = ChannelNorm(dim), ChannelNorm(dim)
        self.ffn = ConvFFN(dim, hidden)
        self.gamma1 = nn.Parameter(torch.full((dim,), float(layer_scale_init)))
        self.gamma2 = nn.Parameter(torch.full((dim,), float(layer_scale_init)))
        self.drop_path = DropPath(drop_path)
        _init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        x = x + self.dw1(x)
        x = x + self.drop_path(self.gamma1[:, None, None] * self.attn(self.norm1(x)))
        x = x + self.dw2(x)
        out: Tensor = x + self.drop_path(self.gamma2[:, None, None] * self.ffn(self.norm2(x)))
        return out


@dataclass(frozen=True)
class _Variant:
    dims: Sequence[int]
    depths: Sequence[int]
    heads: Sequence[int]
    mlp_ratio: float
    drop_path: float
    layer_scale_init: float | Sequence[float]


_VARIANTS = {
    "XT": _Variant((32, 64, 128, 384), (2, 2, 2, 2), (1, 2, 4, 12), 3.5, 0.10, 1.0),
    "T": _Variant((64, 128, 256, 512), (2, 2, 6, 2), (1, 2, 4, 8), 4, 0.10, 1.0),
    "S": _Variant((64, 128, 320, 512), (3, 5, 9, 3), (1, 2, 5, 8), 3.5, 0.15, 1.0),
    "B": _Variant((96, 192, 384, 512), (4, 6, 12, 6), (1, 2, 6, 8), 4, 0.40, (1.0, 1.0, 1e-6, 1e-6)),
    "L": _Variant((96, 192, 448, 640), (4, 7, 19, 8), (1, 2, 7, 10), 3.5, 0.55, 1e-6),
}


class NaLaFormer(nn.Module):
    """The image classifier: convolutional stem (/4), four stages of blocks with a stride-2 convolution between, head.

    In every released variant stages 1 and 2 use linear attention and stages 3 and 4 softmax; for a backbone that is
    linear throughout give ``attention=("linear",) * 4``.

    =======  =================  ============  ============  =========  =========  =================
    variant  dims               depths        heads         mlp_ratio  drop_path  layer_scale_init
    =======  =================  ============  ============  =========  =========  =================
    XT       32, 64, 128, 384   2, 2, 2, 2    1, 2, 4, 12   3.5        0.10       1
    T        64, 128, 256, 512  2, 2, 6, 2    1, 2, 4, 8    4          0.10       1
    S        64, 128, 320, 512  3, 5, 9, 3    1, 2, 5, 8    3.5        0.15       1
    B        96, 192, 384, 512  4, 6, 12, 6   1, 2, 6, 8    4          0.40       1, 1, 1e-6, 1e-6
    L        96, 192, 448, 640  4, 7, 19, 8   1, 2, 7, 10   3.5        0.55       1e-6
    =======  =================  ============  ============  =========  =========  =================

    Args:
        variant: a row of the table ("XT").
        num_classes: number of logits (1000).
        in_chans: channels of the image (3).
        attention: "linear" or "softmax" for each of the four stages.
        direction: of the linear stages. Default "sign" (official release); "cosine" is the paper's.
        dims, depths, heads: four values each, in place of the variant's.
        mlp_ratio, drop_path: in place of the variant's; drop-path rates rise linearly from 0 to ``drop_path``.
        layer_scale_init: in place of the variant's, one value or one per stage.

    Raises:
        ValueError: unknown variant, direction or attention, not four values for the stages, an odd or too small width,
            a value out of range.

    Example:
        >>> model = NaLaFormer("XT", num_classes=10, dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2))
        >>> model(torch.randn(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Reference: Meng et al. 2025 (NaLaFormer), arXiv 2506.21137; variants and layers as in the official release.
    """

    def __init__(
        self,
        variant: str = "XT",
        num_classes: int = 1000,
        in_chans: int = 3,
        attention: Sequence[str] = ("linear", "linear", "softmax", "softmax"),
        direction: str = "sign",
        *,
        dims: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        mlp_ratio: float | None = None,
        drop_path: float | None = None,
        layer_scale_init: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_integer("num_classes", num_classes, 1)
        check_integer("in_chans", in_chans, 1)
        check_choice("direction", direction, ("cosine", "sign"))
        given = {
            "dims": dims,
            "depths": depths,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "drop_path": drop_path,
            "layer_scale_init": layer_scale_init,
        }
        v = replace(
            _VARIANTS[check_choice("variant", variant, _VARIANTS)],
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
        scales = v.layer_scale_init
        scales = scales if isinstance(scales, Sequence) else (scales,) * 4
        for name, values in {
            "attention": attention,
            "dims": v.dims,
            "depths": v.depths,
            "heads": v.heads,
            "layer_scale_init": scales,
        }.items():
            if isinstance(values, str) or len(values) != 4:
                raise ValueError(f"{name} must have one value for each of the four stages, got {values!r}.")
        check_real("drop_path", v.drop_path, 0, 1, high_open=True)
        for i, depth in enumerate(v.depths):
            check_integer(f"depths[{i}]", depth, 1)
        if check_integer("dims[0]", v.dims[0], 2) % 2:
            raise ValueError(f"dims[0] must be even, as the stem starts at half of it, got {v.dims[0]}.")

        self.stem = _stem(in_chans, v.dims[0])
        self.stages = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        blocks_before, blocks = 0, sum(v.depths)
        for stage in range(4):
            kind = check_choice(f"attention[{stage}]", attention[stage], ("linear", "softmax"))
            options = {"direction": direction} if kind == "linear" else {}
            self.stages.append(
                nn.Sequential(
                    *(
                        NaLaFormerBlock(
                            v.dims[stage],
                            v.heads[stage],
                            v.mlp_ratio,
                            v.drop_path * (blocks_before + i) / max(blocks - 1, 1),
                            scales[stage],
                            kind,
                            **options,
                        )
                        for i in range(v.depths[stage])
                    )
                )
            )
            blocks_before += v.depths[stage]
            if stage < 3:
                self.downsamples.append(_conv_bn(v.dims[stage], v.dims[stage + 1], 2))
        self.head = nn.Sequential(
            PixelLinear(v.dims[3], _HEAD_WIDTH),
            nn.BatchNorm2d(_HEAD_WIDTH),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(_HEAD_WIDTH, num_classes, 1),
            nn.Flatten(),
        )
        _init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, in_chans, H, W] of any size -> logits [B, num_classes]."""
        x = self.stem(x)
        for stage, blocks in enumerate(self.stages):
            if stage > 0:
                x = self.downsamples[stage - 1](x)
            x = blocks(x)
        logits: Tensor = self.head(x)
        return logits


def _conv_bn(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """3 x 3 convolution and batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1), nn.BatchNorm2d(out_channels)
    )


def _stem(in_chans: int, dim: int) -> nn.Sequential:
    """Four convolutions, /4."""
    half = dim // 2
    return nn.Sequential(
        *_conv_bn(in_chans, half, 2),
        nn.GELU(),
        *_conv_bn(half, half, 1),
        nn.GELU(),
        *_conv_bn(half, half, 1),
        nn.GELU(),
        *_conv_bn(half, dim, 2),
    )

"""A small residual network for digits and CIFAR-sized images, with pre-activation blocks.

He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016, arXiv 1603.05027. Pre-activation is chosen
because there every norm is followed by its activation, so that a joint normalization-activation layer (EvoNorm) fits in
every slot and the arms differ in nothing else:

    a = act1(norm1(x));   y = shortcut(x) + conv2(act2(norm2(conv1(a))))

where the shortcut is x itself, or a strided 1 x 1 convolution of a where the shape changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, build, conv2d, linear, make_activation

__all__ = ["ResNet", "ResNetBlock"]


def _norm_and_activation(
    channels: int, norm: NormFactory | None, norm_act: NormFactory | None, activation: Activation
) -> tuple[nn.Module, nn.Module]:
    if norm_act is not None:
        return build("norm_act", norm_act, channels), nn.Identity()
    return build("norm", norm, channels), make_activation(activation)


class ResNetBlock(nn.Module):
    """One pre-activation block: two 3 x 3 convolutions, each behind a norm and an activation.

    Args:
        in_channels: channels of the input (N, C, H, W).
        out_channels: channels of the output.
        stride: stride of the first convolution (1 by default).
        norm: channels -> norm layer, or None.
        norm_act: channels -> joint normalization-activation layer in place of norm and activation, or None.
        activation: a name ("relu" by default) or a factory without arguments.
        bias: whether convolutions have a bias (True by default).

    Raises:
        ValueError: a size below 1, an unknown activation, a factory that is not callable.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: NormFactory | None = None,
        norm_act: NormFactory | None = None,
        activation: Activation = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        _checks.size("in_channels", in_channels)
        _checks.size("out_channels", out_channels)
        _checks.size("stride", stride)
        self.norm1, self.act1 = _norm_and_activation(in_channels, norm, norm_act, activation)
        self.conv1 = conv2d(in_channels, out_channels, 3, stride=stride, bias=bias)
        self.norm2, self.act2 = _norm_and_activation(out_channels, norm, norm_act, activation)
        self.conv2 = conv2d(out_channels, out_channels, 3, bias=bias)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv2d(in_channels, out_channels, 1, stride=stride, bias=bias, init="lecun")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        a = self.act1(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(a)
        out: Tensor = skip + self.conv2(self.act2(self.norm2(self.conv1(a))))
        return out


class ResNet(nn.Module):
    """Stem convolution, stages of pre-activation blocks, norm, global average pooling, linear ``head``.

    (N, in_channels, H, W) -> (N, num_classes). Every stage but the first halves the resolution in its first block.
    Norm layers are ``blocks.<i>.norm1``, ``blocks.<i>.norm2`` and ``norm_out``; depth is 2 * sum(depths) + 2.

    Args:
        in_channels: channels of the image.
        channels: width of each stage, e.g. (16, 32, 64) (ResNet-20's widths).
        num_classes: number of logits.
        depths: blocks per stage: one int for all (1 by default) or one per stage; 3 gives the depth of ResNet-20.
        norm: channels -> norm layer on (N, C, H, W), or None (default) for no norm.
        norm_act: channels -> joint normalization-activation layer (EvoNorm) in place of every norm and activation.
        activation: a name ("relu" by default) or a factory without arguments; unused with ``norm_act``.
        bias: whether convolutions have a bias (True by default).

    Raises:
        ValueError: a size below 1, ``depths`` of another length than ``channels``, both ``norm`` and ``norm_act``,
            an unknown activation, a factory that is not callable.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> ResNet(1, (8, 16), 10, norm=nn.BatchNorm2d)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        num_classes: int,
        *,
        depths: int | Sequence[int] = 1,
        norm: NormFactory | None = None,
        norm_act: NormFactory | None = None,
        activation: Activation = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        _checks.size("in_channels", in_channels)
        widths = _checks.sizes("channels", channels)
        _checks.size("num_classes", num_classes)
        counts = (
            (_checks.size("depths", depths),) * len(widths)
            if isinstance(depths, int)
            else _checks.sizes("depths", depths)
        )
        if len(counts) != len(widths):
            raise ValueError(f"depths must have one entry per stage ({len(widths)}), got {len(counts)}.")
        if norm is not None and norm_act is not None:
            raise ValueError("norm_act replaces norm and activation: give norm or norm_act, not both.")
        self.stem = conv2d(in_channels, widths[0], 3, bias=bias)
        self.blocks = nn.ModuleList()
        width_in = widths[0]
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for i in range(count):
                self.blocks.append(
                    ResNetBlock(
                        width_in,
                        width,
                        stride=2 if stage > 0 and i == 0 else 1,
                        norm=norm,
                        norm_act=norm_act,
                        activation=activation,
                        bias=bias,
                    )
                )
                width_in = width
        self.norm_out, self.act_out = _norm_and_activation(width_in, norm, norm_act, activation)
        self.head = linear(width_in, num_classes, init="lecun")

    def features(self, x: Tensor) -> Tensor:
        """The input of the head: channel means of the last activation, (N, channels[-1])."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.act_out(self.norm_out(x)).mean((-2, -1))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        out: Tensor = self.head(self.features(x))
        return out

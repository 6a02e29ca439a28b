"""A small convolutional network for 8 x 8 digits up to 32 x 32 images.

Reading of one block, in order: ``conv`` -> ``norm`` -> ``activation``; with ``depthwise`` the 3 x 3 convolution
works on each channel alone and ``conv`` (1 x 1) mixes them afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from normviz.models import _checks
from normviz.models._layers import INITS, Activation, NormFactory, build, conv2d, linear, make_activation

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """3 x 3 convolutions with norm and activation, global average pooling, linear ``head``.

    (N, in_channels, H, W) -> (N, num_classes). Norm layers are ``blocks.<i>.norm``; with ``norm_act`` the joint layer
    has that name and ``activation`` is the identity.

    Args:
        in_channels: channels of the image.
        channels: output channels of the blocks, e.g. (16, 32, 32).
        num_classes: number of logits.
        norm: channels -> norm layer on (N, C, H, W), or None (default) for no norm.
        norm_act: channels -> joint normalization-activation layer (EvoNorm), in place of both ``norm`` and
            ``activation``.
        activation: a name ("relu" by default) or a factory without arguments; unused with ``norm_act``.
        strides: stride of each block; by default 1 for the first and 2 for all others.
        depthwise: depthwise 3 x 3 followed by pointwise 1 x 1 convolutions (default False).
        bias: whether convolutions have a bias (True by default).
        init: weight law of the convolutions, as for :class:`normviz.models.MLP`; "he" by default.

    Raises:
        ValueError: a size below 1, ``strides`` of another length than ``channels``, both ``norm`` and ``norm_act``,
            an unknown activation or init, a factory that is not callable.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> ConvNet(1, (16, 32), 10, norm=nn.BatchNorm2d)(torch.zeros(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        num_classes: int,
        *,
        norm: NormFactory | None = None,
        norm_act: NormFactory | None = None,
        activation: Activation = "relu",
        strides: Sequence[int] | None = None,
        depthwise: bool = False,
        bias: bool = True,
        init: str = "he",
    ) -> None:
        super().__init__()
        widths = [_checks.size("in_channels", in_channels), *_checks.sizes("channels", channels)]
        _checks.size("num_classes", num_classes)
        _checks.choice("init", init, INITS)
        if norm is not None and norm_act is not None:
            raise ValueError("norm_act replaces norm and activation: give norm or norm_act, not both.")
        steps = (1, *[2] * (len(channels) - 1)) if strides is None else _checks.sizes("strides", strides)
        if len(steps) != len(channels):
            raise ValueError(f"strides must have one entry per block ({len(channels)}), got {len(steps)}.")
        self.blocks = nn.ModuleList()
        for width_in, width, stride in zip(widths[:-1], widths[1:], steps, strict=True):
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if depthwise:
                layers["depthwise"] = conv2d(
                    width_in, width_in, 3, stride=stride, groups=width_in, bias=bias, init=init
                )
                layers["conv"] = conv2d(width_in, width, 1, bias=bias, init=init)
            else:
                layers["conv"] = conv2d(width_in, width, 3, stride=stride, bias=bias, init=init)
            layers["norm"] = build("norm_act", norm_act, width) if norm_act else build("norm", norm, width)
            layers["activation"] = nn.Identity() if norm_act else make_activation(activation)
            self.blocks.append(nn.Sequential(layers))
        self.head = linear(widths[-1], num_classes, init="lecun")

    def features(self, x: Tensor) -> Tensor:
        """The input of the head: channel means of the last block, (N, channels[-1])."""
        for block in self.blocks:
            x = block(x)
        return x.mean((-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        out: Tensor = self.head(self.features(x))
        return out

"""The discriminator of pix2pixHD and SPADE: the same patch judge at several scales, all its maps returned."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from normviz.norms._placement import place
from normviz.norms._semantic_layout import check_images, start_like_spade
from normviz.validation import check_integer

__all__ = ["MultiscaleDiscriminator"]


class _PatchDiscriminator(nn.Module):
    """4 x 4 convolutions with padding 2; every map after its leaky ReLU, the last one raw."""

    def __init__(self, in_channels: int, base: int, layers: int) -> None:
        super().__init__()
        widths = [in_channels, *(base * min(2**i, 8) for i in range(layers))]
        self.stages = nn.ModuleList()
        for i, (fin, fout) in enumerate(pairwise(widths)):
            conv = nn.Conv2d(fin, fout, 4, stride=1 if i == layers - 1 else 2, padding=2, bias=i == 0)
            start_like_spade(conv)
            normed = (conv,) if i == 0 else (spectral_norm(conv), nn.InstanceNorm2d(fout))
            self.stages.append(nn.Sequential(*normed, nn.LeakyReLU(0.2)))
        last = nn.Conv2d(widths[-1], 1, 4, padding=2)
        start_like_spade(last)
        self.stages.append(last)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class MultiscaleDiscriminator(nn.Module):
    """Judges patches of an image at full size and at halves of it.

    SPADE's (Park et al., arXiv 1903.07291, appendix A, after pix2pixHD, arXiv 1711.11585), used by SSTAN (arXiv
    2308.10111). At each scale: ``layers`` convolutions 4 x 4 with padding 2 and leaky ReLU 0.2, widths base x
    min(2^i, 8), stride 2 but for the last; then one to a single channel with stride 1. Spectral and instance norm are
    on all but the first and the last. The next scale is the average pool 3, stride 2, padding 1, without counting
    padding. The caller puts layout, image (and domain, as constant one-hot channels) together along the channels.

    Submodule ``discriminators``: one per scale, x -> list. A module with spectral norm cannot be pickled (torch).

    Args:
        in_channels: channels of x.
        base: width unit. Default 64 (SPADE).
        layers: convolutions before the prediction. Default 4 (SPADE).
        scales: Default 2 (SPADE).
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument below 1; x of another shape, or so small that an instance norm has one pixel (torch).
        TypeError: x not floating point.

    Example:
        >>> import torch
        >>> maps = MultiscaleDiscriminator(7, base=4)(torch.randn(2, 7, 32, 32))
        >>> len(maps), len(maps[0]), maps[0][-1].shape
        (2, 5, torch.Size([2, 1, 7, 7]))
    """

    def __init__(
        self,
        in_channels: int,
        base: int = 64,
        layers: int = 4,
        scales: int = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_integer("in_channels", in_channels, 1)
        check_integer("base", base, 1)
        check_integer("layers", layers, 1)
        check_integer("scales", scales, 1)
        self.discriminators = nn.ModuleList(
            _PatchDiscriminator(in_channels, base, layers) for _ in range(scales)
        )
        place(self, device, dtype)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """For each scale, full size first, the ``layers`` + 1 maps of x (N, in_channels, H, W); the last is raw."""
        check_images("x", x, self.in_channels)
        scales = []
        for i, discriminator in enumerate(self.discriminators):
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
            scales.append(discriminator(x))
        return scales

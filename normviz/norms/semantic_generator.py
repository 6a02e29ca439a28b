"""The generator of SPADE with the norm as a choice: residual blocks in which every norm sees the condition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from normviz.norms._placement import place
from normviz.norms._semantic_layout import (
    NORMS,
    check_vectors,
    one_hot_layout,
    resized,
    start_like_spade,
)
from normviz.norms.sean import SEAN
from normviz.norms.semantic_norms import SPADE, SSTAN, StyleOnlyNorm
from normviz.validation import check_choice, check_integer

__all__ = ["SemanticGenerator", "SemanticResBlock"]

_SLOPE = 0.2
"""Of every leaky ReLU (SPADE)."""

_WIDTHS = {
    5: (16, 16, 16, 16, 8, 4, 2, 1),
    3: (4, 4, 4, 2, 1),
}
"""Channels before and after each block, in units of ``base``, by the number of upsamplings."""

_UPSAMPLED = {5: (1, 3, 4, 5, 6), 3: (1, 2, 3)}
"""Blocks with an upsampling before them."""


class SemanticResBlock(nn.Module):
    """SPADE's residual block: norm, leaky ReLU, convolution, twice, beside a learned or plain skip.

    Park et al., arXiv 1903.07291, appendix A; slope 0.2 and the widths as in the official code. With
    fmid = min(fin, fout)::

        y = conv_1(lrelu(norm_1(conv_0(lrelu(norm_0(x))))))       3 x 3, fin -> fmid -> fout
        skip = x, or conv_s(norm_s(x)) if fin != fout             1 x 1 without bias, no activation before it
        out = skip + y

    Spectral norm (arXiv 1802.05957) is on the three convolutions of the block and not inside the norms. A module with
    it cannot be pickled (torch); save its state_dict.

    Args:
        fin: channels in.
        fout: channels out.
        norm_factory: channels -> norm layer, called as ``norm(h, *cond)``.
        spectral: spectral norm. Default True (SPADE).
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: a width below 1, a factory that is not callable.

    Example:
        >>> import torch
        >>> block = SemanticResBlock(8, 4, lambda channels: SPADE(channels, 3))
        >>> block(torch.randn(2, 8, 6, 6), torch.randint(3, (2, 6, 6))).shape
        torch.Size([2, 4, 6, 6])
    """

    norm_s: nn.Module | None
    conv_s: nn.Module | None

    def __init__(
        self,
        fin: int,
        fout: int,
        norm_factory: Callable[[int], nn.Module],
        spectral: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("fin", fin, 1)
        check_integer("fout", fout, 1)
        if not callable(norm_factory):
            raise ValueError(f"norm_factory must be a callable of the channels, got {norm_factory!r}.")
        fmid = min(fin, fout)
        self.norm_0 = norm_factory(fin)
        self.conv_0 = _conv(fin, fmid, spectral)
        self.norm_1 = norm_factory(fmid)
        self.conv_1 = _conv(fmid, fout, spectral)
        learned = fin != fout
        self.norm_s = norm_factory(fin) if learned else None
        self.conv_s = _conv(fin, fout, spectral, size=1) if learned else None
        place(self, device, dtype)

    def forward(self, x: Tensor, *cond: object) -> Tensor:
        """Map (N, fin, H, W) to (N, fout, H, W); every norm is given ``cond``."""
        y = self.conv_0(F.leaky_relu(self.norm_0(x, *cond), _SLOPE))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, *cond), _SLOPE))
        if self.norm_s is not None and self.conv_s is not None:
            x = self.conv_s(self.norm_s(x, *cond))
        out: Tensor = x + y
        return out


def _conv(fin: int, fout: int, spectral: bool, size: int = 3) -> nn.Module:
    """A convolution that keeps the size, started as SPADE's; 1 x 1 without bias."""
    conv = nn.Conv2d(fin, fout, size, padding=size // 2, bias=size > 1)
    start_like_spade(conv)
    return spectral_norm(conv) if spectral else conv


class SemanticGenerator(nn.Module):
    """From a semantic layout and a style to an image, with SSTAN, SPADE, SEAN or style-only norms.

    The generator of SPADE (Park et al., arXiv 1903.07291, appendix A; official code), as SSTAN (arXiv 2308.10111)
    builds on it. z goes through ``fc`` to the first small map in every method but SEAN, so that methods differ in
    their norms alone. Then come residual blocks with nearest upsampling between them, and
    ``tanh(conv_img(lrelu(h)))``. Widths in units of ``base``:

    - 5 upsamplings: 16->16, up, 16->16, 16->16, up, 16->8, up, 8->4, up, 4->2, up, 2->1; first map image_size / 32.
    - 3 upsamplings: 4->4, up, 4->4, up, 4->2, up, 2->1; first map image_size / 8.

    Conditions: "sstan" layout and z; "spade" the layout (z at the input only); "style" z alone, no layout anywhere;
    "sean" layout and ``styles``, starts from the layout by a convolution and not from z, and its last block has the
    layout branch alone.

    Submodules: ``fc`` (Linear; SEAN: Conv2d), ``blocks`` (7 or 4 :class:`SemanticResBlock`), ``conv_img``.

    Args:
        label_channels: classes L.
        latent_dim: width Z. Default 256 (SPADE).
        base: width unit. Default 64 (SPADE).
        image_size: height and width, a multiple of 2^upsamplings. Default 256 (SPADE).
        norm: "sstan" (default), "spade", "sean" or "style".
        param_free: the norm inside: "batch" (default) or "instance".
        upsamplings: 5 (default, SPADE) or 3 (small, ours).
        hidden: channels inside the layout's modulation. Default 128 (SPADE).
        style_dim: width of the style inside the norms. Default None: 128, and 512 for SEAN.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; ``segmap``, z or ``styles`` missing where needed or of another shape.
        TypeError: a tensor of another kind.

    Example:
        >>> import torch
        >>> net = SemanticGenerator(4, latent_dim=8, base=4, image_size=16, upsamplings=3, hidden=8, style_dim=8)
        >>> net(torch.randint(4, (2, 16, 16)), torch.randn(2, 8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        label_channels: int,
        latent_dim: int = 256,
        base: int = 64,
        image_size: int = 256,
        norm: str = "sstan",
        *,
        param_free: str = "batch",
        upsamplings: int = 5,
        hidden: int = 128,
        style_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.label_channels = check_integer("label_channels", label_channels, 1)
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        check_integer("base", base, 1)
        self.image_size = check_integer("image_size", image_size, 1)
        self.norm = check_choice("norm", norm, ("sstan", "spade", "sean", "style"))
        check_choice("param_free", param_free, NORMS)
        if isinstance(upsamplings, bool) or upsamplings not in _WIDTHS:
            raise ValueError(f"upsamplings must be 3 or 5, got {upsamplings!r}.")
        self.upsamplings = upsamplings
        self.start = self.image_size // 2**upsamplings
        if self.start * 2**upsamplings != self.image_size:
            raise ValueError(f"image_size must be a multiple of {2**upsamplings}, got {image_size}.")
        check_integer("hidden", hidden, 1)
        default = 512 if self.norm == "sean" else 128
        self.style_dim = default if style_dim is None else check_integer("style_dim", style_dim, 1)

        widths = [base * unit for unit in _WIDTHS[upsamplings]]
        self.fc: nn.Module = (
            nn.Conv2d(label_channels, widths[0], 3, padding=1)
            if self.norm == "sean"
            else nn.Linear(latent_dim, widths[0] * self.start**2)
        )
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)
        start_like_spade(self)
        last = len(widths) - 2
        self.blocks = nn.ModuleList(
            SemanticResBlock(fin, fout, self._norm_factory(param_free, hidden, use_style=i < last))
            for i, (fin, fout) in enumerate(pairwise(widths))
        )
        place(self, device, dtype)

    def _norm_factory(self, param_free: str, hidden: int, use_style: bool) -> Callable[[int], nn.Module]:
        labels, z, s = self.label_channels, self.latent_dim, self.style_dim
        factories: dict[str, Callable[[int], nn.Module]] = {
            "sstan": partial(
                SSTAN, label_channels=labels, latent_dim=z, style_dim=s, hidden=hidden, norm=param_free
            ),
            "spade": partial(SPADE, label_channels=labels, hidden=hidden, norm=param_free),
            "style": partial(StyleOnlyNorm, latent_dim=z, style_dim=s, norm=param_free),
            "sean": partial(
                SEAN,
                label_channels=labels,
                style_dim=s,
                hidden=hidden,
                norm=param_free,
                use_style=use_style,
            ),
        }
        return factories[self.norm]

    def forward(self, segmap: Tensor, z: Tensor | None, styles: Tensor | None = None) -> Tensor:
        """An image for each layout.

        Args:
            segmap: one-hot (N, L, H', W') of any floating dtype, or integer labels (N, H', W'), of any size.
            z: (N, Z). SEAN ignores it; None is allowed there.
            styles: (N, L, style_dim) for SEAN; ignored elsewhere.

        Returns:
            (N, 3, image_size, image_size) with values in [-1, 1].
        """
        if not isinstance(segmap, Tensor) or segmap.ndim < 1:
            raise TypeError(f"segmap must be a tensor (N, L, H, W) or (N, H, W), got {segmap!r}.")
        samples = segmap.shape[0]
        if self.norm == "sean":
            if styles is None:
                raise ValueError('styles must be given to a generator with norm="sean".')
            check_vectors("styles", styles, (samples, self.label_channels, self.style_dim))
            maps = one_hot_layout(segmap, self.label_channels, samples, styles.dtype)
            x = self.fc(resized(maps, (self.start, self.start)))
            return self._images(x, (maps, styles))
        if z is None:
            raise ValueError(f"z must be given to a generator with norm={self.norm!r}.")
        check_vectors("z", z, (samples, self.latent_dim))
        maps = one_hot_layout(segmap, self.label_channels, samples, z.dtype)
        x = self.fc(z).view(samples, -1, self.start, self.start)
        conditions: dict[str, tuple[Tensor, ...]] = {"sstan": (maps, z), "spade": (maps,), "style": (z,)}
        return self._images(x, conditions[self.norm])

    def _images(self, x: Tensor, cond: tuple[Tensor, ...]) -> Tensor:
        for i, block in enumerate(self.blocks):
            if i in _UPSAMPLED[self.upsamplings]:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, *cond)
        return torch.tanh(self.conv_img(F.leaky_relu(x, _SLOPE)))

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        return f"norm={self.norm!r}, image_size={self.image_size}, upsamplings={self.upsamplings}"

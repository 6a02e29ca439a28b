"""SEAN: a norm whose scale and shift mix a layout branch and a branch of region styles; and the means over regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype
from normviz.norms._semantic_layout import (
    check_images,
    check_kernel_size,
    check_vectors,
    modulate,
    one_hot_layout,
    parameter_free_norm,
    resized,
    start_like_spade,
)
from normviz.norms.semantic_norms import LayoutModulation
from normviz.validation import check_integer

__all__ = ["SEAN", "region_average_pool"]


def region_average_pool(feat: Tensor, segmap: Tensor) -> Tensor:
    """Mean feature of each region of a layout.

    As SEAN reads a style vector from each region of an image (Zhu et al., arXiv 1911.12861, section 3.1).

    Args:
        feat: (N, S, H, W).
        segmap: one-hot (N, L, H', W') of any real dtype; resized to H x W by the nearest pixel.

    Returns:
        (N, L, S) in the dtype of ``feat``; zeros for a class without a pixel.

    Raises:
        ValueError: another shape, or different N.
        TypeError: ``feat`` not floating point, ``segmap`` no tensor of real numbers.

    Example:
        >>> import torch
        >>> left = torch.tensor([[1.0, 0.0]])
        >>> segmap = torch.stack([left, 1 - left])[None]
        >>> region_average_pool(torch.tensor([[[[5.0, 7.0]]]]), segmap).flatten()
        tensor([5., 7.])
    """
    computing_dtype("feat", feat)
    if not isinstance(segmap, Tensor) or segmap.is_complex():
        raise TypeError(f"segmap must be a tensor of real numbers, got {getattr(segmap, 'dtype', segmap)!r}.")
    if feat.ndim != 4:
        raise ValueError(f"feat must have shape (N, S, H, W), got {tuple(feat.shape)}.")
    if segmap.ndim != 4 or segmap.shape[0] != feat.shape[0]:
        raise ValueError(f"segmap must have shape ({feat.shape[0]}, L, H, W), got {tuple(segmap.shape)}.")
    maps = resized(segmap.to(feat.dtype), (feat.shape[2], feat.shape[3]))
    sums = torch.einsum("nshw,nlhw->nls", feat, maps)
    pixels = maps.sum((2, 3)).unsqueeze(2)  # (N, L, 1)
    return torch.where(pixels > 0, sums / torch.where(pixels > 0, pixels, 1), 0)


class SEAN(nn.Module):
    """Semantic region-adaptive normalization: two maps of scale and shift, mixed by two learned weights.

    Zhu, Abdal, Qin, Wonka, "SEAN: Image Synthesis with Semantic Region-Adaptive Normalization", CVPR 2020, arXiv
    1911.12861, section 3.2; the ACE block of the official code (ZPdesu/SEAN). A baseline of SSTAN (arXiv 2308.10111).
    For x (N, C, H, W), layout m and style vectors (N, L, S)::

        h = norm(x + noise_scale_c * n)                       one map n ~ N(0, 1) per sample for all channels
        M = at each pixel ReLU(fc_l(style_l)) of its class l  (N, S, H, W)
        gamma = a conv_gamma(M) + (1 - a) gamma_o             a = sigmoid(alpha_gamma), gamma_o of the SPADE branch
        beta likewise with alpha_beta;                        out = h (1 + gamma) + beta

    The noise is drawn in training and eval mode alike, and starts with scale 0. Both alphas start at 0, a = 1/2. The
    state is in ``norm``, ``noise_scale`` (None with ``noise=False``), ``fc`` (one Linear per class), ``conv_gamma``,
    ``conv_beta`` (of M), ``spade`` (``conv_shared``, ``conv_gamma``, ``conv_beta``), ``alpha_gamma``, ``alpha_beta``.
    With ``use_style=False`` the SPADE branch is alone and fc, conv_gamma, conv_beta and both alphas are None.

    Args:
        num_features: channels C.
        label_channels: classes L.
        style_dim: width S. Default 512 (SEAN).
        hidden: channels of the SPADE branch. Default 128.
        kernel_size: of all convolutions, odd. Default 3.
        norm: "batch" (default) or "instance": torch's, without gain and bias.
        noise: add noise before the norm. Default True (SEAN).
        use_style: have the style branch. Default True; False in the last block of SEAN's generator.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; x, ``segmap`` or ``styles`` of another shape; no ``styles`` with
            ``use_style``; what torch's norms refuse in training.
        TypeError: x or ``styles`` not floating point, ``segmap`` neither floating nor integer.

    Example:
        >>> import torch
        >>> layer = SEAN(8, label_channels=4, style_dim=16)
        >>> layer(torch.randn(2, 8, 6, 6), torch.randint(4, (2, 6, 6)), torch.randn(2, 4, 16)).shape
        torch.Size([2, 8, 6, 6])
    """

    noise_scale: nn.Parameter | None
    fc: nn.ModuleList | None
    conv_gamma: nn.Conv2d | None
    conv_beta: nn.Conv2d | None
    alpha_gamma: nn.Parameter | None
    alpha_beta: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        label_channels: int,
        style_dim: int = 512,
        hidden: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        noise: bool = True,
        use_style: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spade = LayoutModulation(num_features, label_channels, hidden, kernel_size)
        self.num_features, self.label_channels = self.spade.num_features, self.spade.label_channels
        self.style_dim = check_integer("style_dim", style_dim, 1)
        self.norm = parameter_free_norm("norm", norm, num_features)
        self.noise_scale = nn.Parameter(torch.zeros(num_features)) if noise else None
        k = check_kernel_size(kernel_size)
        if use_style:
            self.fc = nn.ModuleList(nn.Linear(style_dim, style_dim) for _ in range(label_channels))
            self.conv_gamma = nn.Conv2d(style_dim, num_features, k, padding=k // 2)
            self.conv_beta = nn.Conv2d(style_dim, num_features, k, padding=k // 2)
            self.alpha_gamma = nn.Parameter(torch.zeros(()))
            self.alpha_beta = nn.Parameter(torch.zeros(()))
        else:
            self.fc = self.conv_gamma = self.conv_beta = self.alpha_gamma = self.alpha_beta = None
        start_like_spade(self)
        place(self, device, dtype)

    def forward(self, x: Tensor, segmap: Tensor, styles: Tensor | None = None) -> Tensor:
        """Normalise and modulate.

        Args:
            x: (N, C, H, W).
            segmap: one-hot (N, L, H', W') of any floating dtype, or integer labels (N, H', W').
            styles: (N, L, S); ignored with ``use_style=False``.

        Returns:
            Same shape and dtype as x.
        """
        check_images("x", x, self.num_features)
        maps = one_hot_layout(segmap, self.label_channels, x.shape[0], x.dtype)
        maps = resized(maps, (x.shape[2], x.shape[3]))
        gamma, beta = self.spade(maps)
        if self.fc is not None:
            gamma, beta = self._mixed(gamma, beta, maps, styles)
        noisy = x
        if self.noise_scale is not None:
            noisy = x + self.noise_scale.to(x.dtype).view(1, -1, 1, 1) * torch.randn_like(x[:, :1])
        return modulate(self.norm(noisy), gamma, beta, x.dtype)

    def _mixed(
        self, gamma: Tensor, beta: Tensor, maps: Tensor, styles: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        assert self.fc is not None
        assert self.conv_gamma is not None
        assert self.conv_beta is not None
        assert self.alpha_gamma is not None
        assert self.alpha_beta is not None
        if styles is None:
            raise ValueError("styles must be given, because the layer has a style branch (use_style=True).")
        check_vectors("styles", styles, (maps.shape[0], self.label_channels, self.style_dim))
        vectors = torch.stack([F.relu(fc(styles[:, i])) for i, fc in enumerate(self.fc)], 1)  # (N, L, S)
        style_map = torch.einsum("nlhw,nls->nshw", maps, vectors.to(maps.dtype))
        a, b = self.alpha_gamma.sigmoid(), self.alpha_beta.sigmoid()
        return (
            a * self.conv_gamma(style_map) + (1 - a) * gamma,
            b * self.conv_beta(style_map) + (1 - b) * beta,
        )

    def extra_repr(self) -> str:
        """Sizes that the submodules do not name."""
        return (
            f"{self.num_features}, label_channels={self.label_channels}, style_dim={self.style_dim}, "
            f"noise={self.noise_scale is not None}, use_style={self.fc is not None}"
        )

"""SPADE, SSTAN and style-only: norms whose scale and shift come from a layout, from a layout and a style, from a style.

SSTAN is a reconstruction from the published description, see :mod:`normviz.norms.sstan`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
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
from normviz.validation import check_integer

__all__ = ["SPADE", "SSTAN", "LayoutModulation", "StyleOnlyNorm"]


class LayoutModulation(nn.Module):
    """SPADE's scale and shift from a layout, without a norm: the branch that SEAN mixes with its style branch.

    ``e = ReLU(conv_shared(m))``, ``gamma = conv_gamma(e)``, ``beta = conv_beta(e)``; k x k, zero padding. Park et al.,
    arXiv 1903.07291, section 3.

    Args:
        num_features: channels C of gamma and beta.
        label_channels: classes L of the layout.
        hidden: channels of e. Default 128 (SPADE).
        kernel_size: k, odd. Default 3 (SPADE).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, num_features: int, label_channels: int, hidden: int = 128, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.label_channels = check_integer("label_channels", label_channels, 1)
        self.hidden = check_integer("hidden", hidden, 1)
        self.kernel_size = check_kernel_size(kernel_size)
        self._build(self.label_channels)
        start_like_spade(self)

    def _build(self, inputs: int) -> None:
        k, pad = self.kernel_size, self.kernel_size // 2
        self.conv_shared = nn.Conv2d(inputs, self.hidden, k, padding=pad)
        self.conv_gamma = nn.Conv2d(self.hidden, self.num_features, k, padding=pad)
        self.conv_beta = nn.Conv2d(self.hidden, self.num_features, k, padding=pad)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """gamma and beta, (N, C, H, W) each, from maps (N, L, H, W)."""
        e = F.relu(self.conv_shared(maps))  # (N, hidden, H, W)
        return self.conv_gamma(e), self.conv_beta(e)

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.num_features}, label_channels={self.label_channels}, hidden={self.hidden}, "
            f"kernel_size={self.kernel_size}"
        )


class SPADE(nn.Module):
    """Spatially adaptive normalization: scale and shift of every pixel from the semantic layout.

    Park, Liu, Wang, Zhu, "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019, arXiv
    1903.07291, equation 1; sizes and start as in the official code (NVlabs/SPADE). For x (N, C, H, W)::

        out = norm(x) (1 + gamma(m)) + beta(m),    e = ReLU(conv_shared(m)),  gamma, beta = conv_gamma(e), conv_beta(e)

    m is the layout resized to H x W by the nearest pixel. Weights start Xavier normal with gain 0.02, biases at 0. The
    whole state is in ``norm``, ``conv_shared``, ``conv_gamma``, ``conv_beta``.

    Args:
        num_features: channels C.
        label_channels: classes L.
        hidden: channels of e. Default 128 (SPADE).
        kernel_size: of the three convolutions, odd. Default 3 (SPADE).
        norm: "batch" (default) or "instance": torch's, without gain and bias.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; x or ``segmap`` of another shape, a label outside 0..L-1; what torch's
            norms refuse in training (one value per channel; one pixel for "instance").
        TypeError: x not floating point, ``segmap`` neither floating nor integer.

    Example:
        >>> import torch
        >>> labels = torch.randint(4, (2, 16, 16))
        >>> SPADE(8, 4)(torch.randn(2, 8, 8, 8), labels).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        num_features: int,
        label_channels: int,
        hidden: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        branch = LayoutModulation(num_features, label_channels, hidden, kernel_size)
        self.num_features, self.label_channels = branch.num_features, branch.label_channels
        self.norm = parameter_free_norm("norm", norm, num_features)
        self.conv_shared, self.conv_gamma = branch.conv_shared, branch.conv_gamma
        self.conv_beta = branch.conv_beta
        place(self, device, dtype)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """Normalise and modulate.

        Args:
            x: (N, C, H, W).
            segmap: one-hot (N, L, H', W') of any floating dtype, or integer labels (N, H', W').

        Returns:
            Same shape and dtype as x.
        """
        check_images("x", x, self.num_features)
        maps = one_hot_layout(segmap, self.label_channels, x.shape[0], x.dtype)
        e = F.relu(self.conv_shared(resized(maps, (x.shape[2], x.shape[3]))))
        return modulate(self.norm(x), self.conv_gamma(e), self.conv_beta(e), x.dtype)

    def extra_repr(self) -> str:
        """Sizes that the submodules do not name."""
        return f"{self.num_features}, label_channels={self.label_channels}"


class SSTAN(nn.Module):
    """Spatially style-adaptive normalization: scale and shift of every pixel from layout and style together.

    Huang, Iizuka, Simo-Serra, Fukui, "Controllable Multi-domain Semantic Artwork Synthesis", Computational Visual
    Media 2023, arXiv 2308.10111. The inside of the published layer could not be read, so this is a reconstruction from
    the paper's description ("jointly normalizing semantics and style"); the form, k and the hidden width are SPADE's.
    For x (N, C, H, W), layout m and style code z (N, Z)::

        s = ReLU(style(z))                                    (N, S), the same at every pixel
        e = ReLU(conv_shared([m, s]))                         layout channels first, then style
        out = norm(x) (1 + conv_gamma(e)) + conv_beta(e)

    The ReLU over the sum of both responses makes it joint: the mixed difference of the output in m and z is not zero,
    which it is where two maps are added (SEAN). With the style's columns of ``conv_shared`` at zero it is SPADE.

    The whole state is in ``norm``, ``style``, ``conv_shared``, ``conv_gamma``, ``conv_beta``. Weights start Xavier
    normal with gain 0.02, biases at 0 (SPADE).

    Args:
        num_features: channels C.
        label_channels: classes L.
        latent_dim: width Z.
        style_dim: width S. Default 128 (ours).
        hidden: channels of e. Default 128 (SPADE).
        kernel_size: of the three convolutions, odd. Default 3 (SPADE).
        norm: "batch" (default) or "instance": torch's, without gain and bias.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; x, ``segmap`` or z of another shape, a label outside 0..L-1; what torch's
            norms refuse in training.
        TypeError: x or z not floating point, ``segmap`` neither floating nor integer.

    Example:
        >>> import torch
        >>> layer = SSTAN(8, label_channels=4, latent_dim=16)
        >>> layer(torch.randn(2, 8, 8, 8), torch.randint(4, (2, 16, 16)), torch.randn(2, 16)).shape
        torch.Size([2, 8, 8, 8])
    """

    def __init__(
        self,
        num_features: int,
        label_channels: int,
        latent_dim: int,
        style_dim: int = 128,
        hidden: int = 128,
        kernel_size: int = 3,
        norm: str = "batch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.label_channels = check_integer("label_channels", label_channels, 1)
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        self.style_dim = check_integer("style_dim", style_dim, 1)
        check_integer("hidden", hidden, 1)
        k = check_kernel_size(kernel_size)
        self.norm = parameter_free_norm("norm", norm, num_features)
        self.style = nn.Linear(latent_dim, style_dim)
        self.conv_shared = nn.Conv2d(label_channels + style_dim, hidden, k, padding=k // 2)
        self.conv_gamma = nn.Conv2d(hidden, num_features, k, padding=k // 2)
        self.conv_beta = nn.Conv2d(hidden, num_features, k, padding=k // 2)
        start_like_spade(self)
        place(self, device, dtype)

    def modulation(self, segmap: Tensor, z: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Scale and shift of every pixel.

        Args:
            segmap: one-hot (N, L, H', W') of any floating dtype, or integer labels (N, H', W').
            z: (N, Z).
            size: (H, W) of the result.

        Returns:
            gamma and beta, (N, C, H, W) each; features are scaled by 1 + gamma.
        """
        if not isinstance(z, Tensor) or z.ndim != 2:
            given = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ValueError(f"z must have shape (N, {self.latent_dim}), got {given}.")
        check_vectors("z", z, (z.shape[0], self.latent_dim))
        height, width = (check_integer("size", length, 1) for length in size)
        maps = one_hot_layout(segmap, self.label_channels, z.shape[0], z.dtype)
        return self._modulation(resized(maps, (height, width)), z)

    def _modulation(self, maps: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        s = F.relu(self.style(z))  # (N, S)
        tiled = s[:, :, None, None].expand(-1, -1, *maps.shape[-2:])
        e = F.relu(self.conv_shared(torch.cat([maps, tiled], 1)))  # (N, hidden, H, W)
        return self.conv_gamma(e), self.conv_beta(e)

    def forward(self, x: Tensor, segmap: Tensor, z: Tensor) -> Tensor:
        """Normalise and modulate.

        Args:
            x: (N, C, H, W).
            segmap: one-hot (N, L, H', W') of any floating dtype, or integer labels (N, H', W').
            z: (N, Z).

        Returns:
            Same shape and dtype as x.
        """
        check_images("x", x, self.num_features)
        maps = one_hot_layout(segmap, self.label_channels, x.shape[0], x.dtype)
        check_vectors("z", z, (x.shape[0], self.latent_dim))
        gamma, beta = self._modulation(resized(maps, (x.shape[2], x.shape[3])), z)
        return modulate(self.norm(x), gamma, beta, x.dtype)

    def extra_repr(self) -> str:
        """Sizes that the submodules do not name."""
        return f"{self.num_features}, label_channels={self.label_channels}, latent_dim={self.latent_dim}"


class StyleOnlyNorm(nn.Module):
    """A norm with scale and shift from a style code alone, the same at every pixel.

    The control of SSTAN (arXiv 2308.10111) that sees no layout; in the way of AdaIN as StyleGAN has it (arXiv
    1812.04948, equation 1). ``s = ReLU(style(z))``, ``[gamma | beta] = affine(s)``,
    ``out = norm(x) (1 + gamma) + beta``. The whole state is in ``norm``, ``style``, ``affine``; weights start Xavier
    normal with gain 0.02, biases at 0.

    Args:
        num_features: channels C.
        latent_dim: width Z.
        style_dim: width S. Default 128 (ours).
        norm: "batch" (default) or "instance": torch's, without gain and bias.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; x or z of another shape; what torch's norms refuse in training.
        TypeError: x or z not floating point.

    Example:
        >>> import torch
        >>> StyleOnlyNorm(8, 16)(torch.randn(2, 8, 4, 4), torch.randn(2, 16)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        style_dim: int = 128,
        norm: str = "batch",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = check_integer("num_features", num_features, 1)
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        check_integer("style_dim", style_dim, 1)
        self.norm = parameter_free_norm("norm", norm, num_features)
        self.style = nn.Linear(latent_dim, style_dim)
        self.affine = nn.Linear(style_dim, 2 * num_features)
        start_like_spade(self)
        place(self, device, dtype)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Normalise x (N, C, H, W) and modulate it by z (N, Z); same shape and dtype out."""
        check_images("x", x, self.num_features)
        check_vectors("z", z, (x.shape[0], self.latent_dim))
        gamma, beta = self.affine(F.relu(self.style(z)))[:, :, None, None].chunk(2, 1)  # (N, C, 1, 1)
        return modulate(self.norm(x), gamma, beta, x.dtype)

    def extra_repr(self) -> str:
        """Sizes that the submodules do not name."""
        return f"{self.num_features}, latent_dim={self.latent_dim}"

"""Encoders of style: a variational one for each art domain, and SEAN's of one style vector for each region."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from normviz.norms._placement import place
from normviz.norms._rows import values_readable
from normviz.norms._semantic_layout import check_images, start_like_spade
from normviz.norms.sean import region_average_pool
from normviz.norms.sstan_losses import clamped_log_variance
from normviz.validation import check_integer

__all__ = ["DomainVariationalEncoder", "RegionStyleEncoder"]


class DomainVariationalEncoder(nn.Module):
    """Mean and log variance of an image's style code, by the encoder of the image's domain.

    Huang et al., arXiv 2308.10111, "domain-dependent variational encoders". That there are several is the paper's;
    separate weights are our reading, and ``share_trunk=True`` is the other one. Each has the form of SPADE's encoder
    (arXiv 1903.07291, appendix A): log2(image_size) - 2 convolutions 3 x 3 of stride 2 and padding 1 with spectral and
    instance norm and leaky ReLU 0.2, widths base x min(2^i, 8), down to a 4 x 4 map; then two Linear heads.

    Every domain's encoder sees the whole batch and each sample keeps the result of its own, so domains may be mixed,
    nothing depends on which are there, and the others' gradients are zero. The cost is that of num_domains encoders.

    Submodules: ``trunks`` (one per domain, or one), ``mu``, ``logvar`` (one Linear per domain each). A module with
    spectral norm cannot be pickled (torch); save its state_dict.

    Args:
        num_domains: K.
        latent_dim: width Z. Default 256 (SPADE).
        base: width unit. Default 64 (SPADE).
        image_size: height and width, a power of two, at least 8. Default 256 (SPADE).
        share_trunk: one trunk with a pair of heads for each domain. Default False.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range; x of another shape; ``domain`` not (N,), or outside 0..K-1. Where values
            cannot be read (compiled, under vmap, on the device meta) such a sample gets NaN.
        TypeError: x not floating point, ``domain`` not of an integer dtype.

    Example:
        >>> import torch
        >>> encoder = DomainVariationalEncoder(4, latent_dim=8, base=4, image_size=16)
        >>> mu, logvar = encoder(torch.randn(3, 3, 16, 16), torch.tensor([0, 3, 1]))
        >>> encoder.sample(mu, logvar).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        num_domains: int,
        latent_dim: int = 256,
        base: int = 64,
        image_size: int = 256,
        share_trunk: bool = False,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_domains = check_integer("num_domains", num_domains, 1)
        check_integer("latent_dim", latent_dim, 1)
        check_integer("base", base, 1)
        self.image_size = check_integer("image_size", image_size, 8)
        if self.image_size & (self.image_size - 1):
            raise ValueError(f"image_size must be a power of two, got {image_size}.")
        self.share_trunk = bool(share_trunk)
        convs = self.image_size.bit_length() - 3
        widths = [3, *(base * min(2**i, 8) for i in range(convs))]
        self.trunks = nn.ModuleList(
            _trunk(widths) for _ in range(1 if self.share_trunk else self.num_domains)
        )
        flat = 16 * widths[-1]
        self.mu = nn.ModuleList(nn.Linear(flat, latent_dim) for _ in range(self.num_domains))
        self.logvar = nn.ModuleList(nn.Linear(flat, latent_dim) for _ in range(self.num_domains))
        start_like_spade(self.mu)
        start_like_spade(self.logvar)
        place(self, device, dtype)

    def forward(self, x: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            x: (N, 3, image_size, image_size) in [-1, 1].
            domain: (N,), 0 to K-1, any integer dtype.

        Returns:
            mu and logvar, (N, Z) each.
        """
        check_images("x", x, 3)
        if x.shape[2] != self.image_size or x.shape[3] != self.image_size:
            raise ValueError(
                f"x must have shape (N, 3, {self.image_size}, {self.image_size}), got {tuple(x.shape)}."
            )
        if not isinstance(domain, Tensor):
            raise TypeError(f"domain must be a tensor of integers, got {type(domain).__name__}.")
        if domain.dtype == torch.bool or domain.is_floating_point() or domain.is_complex():
            raise TypeError(f"domain must be a tensor of integers, got {domain.dtype}.")
        if tuple(domain.shape) != (x.shape[0],):
            raise ValueError(f"domain must have shape ({x.shape[0]},), got {tuple(domain.shape)}.")
        index = domain.to(torch.long)
        known = (index >= 0) & (index < self.num_domains)
        if values_readable(known) and not bool(known.all()):
            raise ValueError(f"domain must be in [0, {self.num_domains - 1}], got {int(index[~known][0])}.")
        features = [trunk(x) for trunk in self.trunks]
        features = features * self.num_domains if self.share_trunk else features
        mu, logvar = (
            torch.stack([head(f) for head, f in zip(heads, features, strict=True)], 1)  # (N, K, Z)
            for heads in (self.mu, self.logvar)
        )
        pick = index.clamp(0, self.num_domains - 1).view(-1, 1, 1).expand(-1, 1, mu.shape[2])
        return (
            torch.where(known[:, None], mu.gather(1, pick).squeeze(1), torch.nan),
            torch.where(known[:, None], logvar.gather(1, pick).squeeze(1), torch.nan),
        )

    def sample(self, mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``mu + exp(logvar / 2) eps`` with eps ~ N(0, 1); logvar is clamped to [-30, 20] (ours).

        Args:
            mu: (N, Z).
            logvar: (N, Z).
            generator: of eps. Default: torch's global one.
        """
        if generator is None:
            eps = torch.randn_like(mu)
        else:
            eps = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=generator.device)
        return mu + (clamped_log_variance(logvar) / 2).exp() * eps.to(mu.device)

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        return f"num_domains={self.num_domains}, image_size={self.image_size}, share_trunk={self.share_trunk}"


def _trunk(widths: list[int]) -> nn.Sequential:
    """Convolutions of stride 2 with spectral and instance norm and leaky ReLU, flattened."""
    layers: list[nn.Module] = []
    for fin, fout in pairwise(widths):
        conv = nn.Conv2d(fin, fout, 3, stride=2, padding=1, bias=False)
        start_like_spade(conv)
        layers += [spectral_norm(conv), nn.InstanceNorm2d(fout), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Flatten())


class RegionStyleEncoder(nn.Module):
    """One style vector for each region of a layout: an image's features, averaged over the region's pixels.

    Zhu et al., SEAN, arXiv 1911.12861, section 3.1. Convolutions 3 -> 32 -> 64 -> 128 (the last two of stride 2), a
    nearest upsampling, 128 -> 256 -> style_dim, instance norm and leaky ReLU 0.2 between, tanh at the end; the depth
    and widths are close to the official code's, which pads by reflection and upsamples by a transposed convolution.

    Args:
        style_dim: width S.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: ``style_dim`` below 1; image or ``segmap`` of another shape; an image below 5 x 5 (torch's instance
            norm needs more than one pixel).
        TypeError: image not floating point, ``segmap`` no tensor of real numbers.

    Example:
        >>> import torch
        >>> layout = torch.eye(4)[torch.randint(4, (2, 16, 16))].movedim(-1, 1)
        >>> RegionStyleEncoder(8)(torch.randn(2, 3, 16, 16), layout).shape
        torch.Size([2, 4, 8])
    """

    def __init__(
        self, style_dim: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.style_dim = check_integer("style_dim", style_dim, 1)
        layers: list[nn.Module] = []
        for fin, fout, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 2)):
            layers += [*_normed(fin, fout, stride)]
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), *_normed(128, 256, 1)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, self.style_dim, 3, padding=1), nn.Tanh())
        place(self, device, dtype)

    def forward(self, image: Tensor, segmap: Tensor) -> Tensor:
        """Styles (N, L, S) in [-1, 1] of images (N, 3, H, W) under one-hot layouts (N, L, H', W'); absent: zeros."""
        check_images("image", image, 3)
        return region_average_pool(self.layers(image), segmap)


def _normed(fin: int, fout: int, stride: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(fin, fout, 3, stride=stride, padding=1, bias=False)
    return conv, nn.InstanceNorm2d(fout), nn.LeakyReLU(0.2)

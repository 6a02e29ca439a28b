"""LOAN, location-aware adaptive normalization: batch norm with a scale and a shift for each pixel, from static maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normviz.norms._placement import place
from normviz.norms._rows import computing_dtype
from normviz.validation import check_choice, check_integer, check_real

__all__ = ["LOAN"]


class LOAN(nn.Module):
    """Normalise a dynamic feature map and modulate it, pixel by pixel, by a static feature map.

    Shams Eddin, Roscher, Gall, "Location-aware Adaptive Normalization: A Deep Learning Approach for Wildfire Danger
    Forecasting", IEEE TGRS 61 (2023), arXiv 2212.08208, the LOAN layer; shapes and defaults as in the official code
    (HakamShams/LOAN, ``models/CNN.py``). For x (N, C, D, H, W) and cond (N, K, H, W) of the same N, H, W::

        xn = BN(x)                                         per channel over N, D, H, W; xn = x with norm=False
        a = ReLU(BN(cond))                                 per channel over N, H, W; also with norm=False
        gamma, beta = conv_gamma(a), conv_beta(a)          K -> C, k x k, zero padding k // 2, bias
        out = xn (1 + gamma) + beta                        the same gamma and beta for every index of D

    Neither norm has a gain or a bias. Both work like torch's: the biased variance of the batch normalises, the unbiased
    one moves the running variance, eval mode takes the running values. ``cond`` is the static map *before* the static
    branch's own norm and ReLU. Gradients reach x and cond. There is no hidden layer shared by gamma and beta, unlike in
    SPADE (arXiv 1903.07291).

    The convolutions start at N(0, init_std^2) with zero biases, so that the layer starts near its norm.

    Submodules, which hold the whole state: ``norm_x`` (None with ``norm=False``), ``norm_cond``, ``conv_gamma``,
    ``conv_beta``. float16 and bfloat16 are modulated in float32 and cast back. A map without time, (N, C, H, W), is
    taken as D = 1; that is an extension of ours.

    Args:
        in_channels: channels C of x.
        cond_channels: channels K of cond.
        kernel_size: k, odd. Default 3 (official).
        norm: normalise x. Default True; the second LOAN of the paper's network has False.
        norm_type: "batch", the only one (official).
        eps: inside the roots of both norms. Default 1e-5 (torch).
        momentum: weight of the new value in the running statistics of both norms, in [0, 1]. Default 0.1 (torch).
        init_std: standard deviation of the convolutions' first weights. Default 0.01 (official).
        track_running_stats: keep running statistics. False: no buffers, and batch statistics in eval mode too.
        device, dtype: of parameters and buffers. Default None: torch's.

    Raises:
        ValueError: an argument out of range, an even ``kernel_size``, another ``norm_type``; x or cond of another
            rank or with other channels, different N, H or W; one value per channel in training (raised by torch).
        TypeError: x or cond not floating point.

    Example:
        >>> import torch
        >>> layer = LOAN(in_channels=8, cond_channels=3)
        >>> layer(torch.randn(2, 8, 4, 6, 6), torch.randn(2, 3, 6, 6)).shape
        torch.Size([2, 8, 4, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        cond_channels: int,
        kernel_size: int = 3,
        norm: bool = True,
        norm_type: str = "batch",
        eps: float = 1e-5,
        momentum: float = 0.1,
        init_std: float = 0.01,
        track_running_stats: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_integer("in_channels", in_channels, 1)
        self.cond_channels = check_integer("cond_channels", cond_channels, 1)
        self.kernel_size = check_integer("kernel_size", kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, or padding would shift the maps, got {kernel_size}.")
        self.norm_type = check_choice("norm_type", norm_type, ("batch",))
        self.eps = check_real("eps", eps, 0, high_open=True)
        self.momentum = check_real("momentum", momentum, 0, 1)
        self.init_std = check_real("init_std", init_std, 0, high_open=True)
        self.track_running_stats = bool(track_running_stats)
        stats = {
            "eps": self.eps,
            "momentum": self.momentum,
            "affine": False,
            "track_running_stats": self.track_running_stats,
        }
        self.norm_x = nn.BatchNorm3d(self.in_channels, **stats) if norm else None  # type: ignore[arg-type]
        self.norm_cond = nn.BatchNorm2d(self.cond_channels, **stats)  # type: ignore[arg-type]
        size, padding = self.kernel_size, self.kernel_size // 2
        self.conv_gamma = nn.Conv2d(self.cond_channels, self.in_channels, size, padding=padding)
        self.conv_beta = nn.Conv2d(self.cond_channels, self.in_channels, size, padding=padding)
        self.reset_parameters()
        place(self, device, dtype)

    def reset_parameters(self) -> None:
        """Weights from N(0, init_std^2), biases 0, running statistics as at the start."""
        for conv in (self.conv_gamma, self.conv_beta):
            nn.init.normal_(conv.weight, 0.0, self.init_std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.norm_cond.reset_running_stats()
        if self.norm_x is not None:
            self.norm_x.reset_running_stats()

    def modulation(self, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of every pixel.

        In training mode it moves the running statistics of ``norm_cond``, as a forward does; look at maps in eval mode.

        Args:
            cond: (N, K, H, W).

        Returns:
            gamma and beta, (N, C, H, W) each; x is scaled by 1 + gamma.

        Raises:
            ValueError: cond of another shape.
            TypeError: cond not floating point.
        """
        computing_dtype("cond", cond)
        if cond.ndim != 4 or cond.shape[1] != self.cond_channels:
            raise ValueError(
                f"cond must have shape (N, {self.cond_channels}, H, W), got {tuple(cond.shape)}."
            )
        a = F.relu(self.norm_cond(cond))  # (N, K, H, W)
        return self.conv_gamma(a), self.conv_beta(a)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Normalise and modulate x.

        Args:
            x: (N, C, D, H, W) or (N, C, H, W).
            cond: (N, K, H, W), aligned with x pixel by pixel.

        Returns:
            Same shape and dtype as x.
        """
        kind = computing_dtype("x", x)
        self._check_shapes(x, cond)
        volume = x.unsqueeze(2) if x.ndim == 4 else x  # (N, C, D, H, W)
        gamma, beta = (m.to(kind).unsqueeze(2) for m in self.modulation(cond))  # (N, C, 1, H, W)
        normed = volume if self.norm_x is None else self.norm_x(volume)
        out: Tensor = (normed.to(kind) * (1 + gamma) + beta).to(x.dtype)
        return out.squeeze(2) if x.ndim == 4 else out

    def _check_shapes(self, x: Tensor, cond: Tensor) -> None:
        computing_dtype("cond", cond)
        if (
            x.ndim not in (4, 5)
            or cond.ndim != 4
            or (x.shape[1], cond.shape[1]) != (self.in_channels, self.cond_channels)
            or (x.shape[0], *x.shape[-2:]) != (cond.shape[0], *cond.shape[-2:])
        ):
            c, k = self.in_channels, self.cond_channels
            raise ValueError(
                f"x must have shape (N, {c}, D, H, W) or (N, {c}, H, W), and cond (N, {k}, H, W) with the same "
                f"N, H, W; got x {tuple(x.shape)} and cond {tuple(cond.shape)}."
            )

    def extra_repr(self) -> str:
        """Constructor arguments."""
        return (
            f"{self.in_channels}, {self.cond_channels}, kernel_size={self.kernel_size}, "
            f"norm={self.norm_x is not None}, norm_type={self.norm_type!r}, eps={self.eps}, "
            f"momentum={self.momentum}, init_std={self.init_std}, track_running_stats={self.track_running_stats}"
        )

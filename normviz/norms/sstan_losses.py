"""Losses of SPADE's training, as SSTAN uses them: hinge, feature matching, Kullback-Leibler, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from normviz.validation import check_choice, check_real

__all__ = [
    "SSTANLoss",
    "clamped_log_variance",
    "feature_matching_loss",
    "hinge_d_loss",
    "hinge_g_loss",
    "kl_loss",
]

Scales = Sequence[Tensor] | Sequence[Sequence[Tensor]]
"""A discriminator's output: a prediction per scale, or a list of maps per scale of which the last is the prediction."""


def clamped_log_variance(logvar: Tensor) -> Tensor:
    """``logvar`` in [-30, 20], so that its exponential stays finite in float32."""
    return logvar.clamp(-30, 20)


def _predictions(name: str, scales: Scales) -> list[Tensor]:
    if isinstance(scales, Tensor) or not isinstance(scales, Sequence):
        raise TypeError(f"{name} must be a list over scales, got {type(scales).__name__}.")
    if not scales or any(not isinstance(s, Tensor) and not len(s) for s in scales):
        raise ValueError(f"{name} must have at least one scale, each with a prediction.")
    return [s if isinstance(s, Tensor) else s[-1] for s in scales]


def _same_scales(real: Sequence[object], fake: Sequence[object]) -> None:
    if len(real) != len(fake):
        raise ValueError(f"fake must have as many scales as real, {len(real)}, got {len(fake)}.")


def hinge_d_loss(real: Scales, fake: Scales) -> Tensor:
    """The discriminator's hinge loss, mean over scales of ``mean relu(1 - real) + mean relu(1 + fake)``.

    Zero when real >= 1 and fake <= -1. Used by SPADE (arXiv 1903.07291) and SSTAN (arXiv 2308.10111).

    Args:
        real: over scales, predictions for real images or lists of maps with the prediction last.
        fake: likewise for generated ones; detach the images before the discriminator's step.

    Raises:
        ValueError: no scale, or another number of them.
        TypeError: not a list.
    """
    ours, theirs = _predictions("real", real), _predictions("fake", fake)
    _same_scales(ours, theirs)
    terms = [F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(ours, theirs, strict=True)]
    return torch.stack(terms).mean()


def hinge_g_loss(fake: Scales) -> Tensor:
    """The generator's part, ``-mean fake``, averaged over scales; arguments and errors as in :func:`hinge_d_loss`."""
    return -torch.stack([f.mean() for f in _predictions("fake", fake)]).mean()


def feature_matching_loss(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """Distance of the discriminator's inner maps: sum over scales and maps of ``mean |fake - real|`` / scales.

    Predictions (the last map of each scale) are left out, ``real`` is detached. pix2pixHD, arXiv 1711.11585, equation
    4, as in SPADE's code.

    Args:
        fake: over scales, the maps of generated images.
        real: likewise of real ones.

    Raises:
        ValueError: no scale, or another number of scales or maps.
        TypeError: not lists of lists.
    """
    for name, scales in (("fake", fake), ("real", real)):
        _predictions(name, scales)
        if any(isinstance(maps, Tensor) for maps in scales):
            raise TypeError(f"{name} must be a list over scales of lists of maps.")
    _same_scales(real, fake)
    total = fake[0][-1].new_zeros(())
    for ours, theirs in zip(fake, real, strict=True):
        if len(ours) != len(theirs):
            raise ValueError(f"fake must have as many maps as real, {len(theirs)}, got {len(ours)}.")
        for f, r in zip(ours[:-1], theirs[:-1], strict=True):
            total = total + (f - r.detach()).abs().mean()
    return total / len(fake)


def kl_loss(mu: Tensor, logvar: Tensor, reduction: str = "sum") -> Tensor:
    """Divergence of N(mu, exp(logvar)) from N(0, 1): ``1/2 sum (mu^2 + e^logvar - 1 - logvar)``.

    A sum over the batch as in SPADE's code, so that its weight grows with the batch; "batchmean" is that over N.
    logvar is clamped to [-30, 20] (ours): beyond, the exponential would overflow.

    Args:
        mu: (N, Z).
        logvar: (N, Z).
        reduction: "sum" (default) or "batchmean".

    Raises:
        ValueError: another reduction, or logvar of another shape than mu.

    Example:
        >>> import torch
        >>> kl_loss(torch.ones(2, 3), torch.zeros(2, 3))
        tensor(3.)
    """
    check_choice("reduction", reduction, ("sum", "batchmean"))
    if logvar.shape != mu.shape:
        raise ValueError(f"logvar must have the shape of mu, {tuple(mu.shape)}, got {tuple(logvar.shape)}.")
    v = clamped_log_variance(logvar)
    total = 0.5 * (mu.square() + v.exp() - 1 - v).sum()
    return total / mu.shape[0] if reduction == "batchmean" else total


class SSTANLoss:
    """Both sides of the training: ``gan + 10 FM + 10 perceptual + 0.05 KL`` for the generator, hinge for its opponent.

    The weights are SPADE's defaults (arXiv 1903.07291, appendix A), which SSTAN (arXiv 2308.10111) builds on.

    Args:
        lambda_fm: weight of :func:`feature_matching_loss`. Default 10.
        lambda_perceptual: weight of ``perceptual``. Default 10.
        lambda_kl: weight of :func:`kl_loss`, a sum over the batch. Default 0.05.
        perceptual: ``perceptual(fake_image, real_image)`` -> scalar, e.g. a distance of VGG features. Default None: 0,
            because no pretrained network is shipped.

    Raises:
        ValueError: a weight that is negative or not finite, a ``perceptual`` that is not callable, images missing where
            it needs them.

    Example:
        >>> import torch
        >>> maps = [[torch.zeros(1), torch.ones(1)]]
        >>> loss = SSTANLoss().generator(maps, maps, torch.zeros(1, 2), torch.zeros(1, 2))
        >>> float(loss["total"])
        -1.0
    """

    def __init__(
        self,
        lambda_fm: float = 10,
        lambda_perceptual: float = 10,
        lambda_kl: float = 0.05,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.lambda_fm = _weight("lambda_fm", lambda_fm)
        self.lambda_perceptual = _weight("lambda_perceptual", lambda_perceptual)
        self.lambda_kl = _weight("lambda_kl", lambda_kl)
        if perceptual is not None and not callable(perceptual):
            raise ValueError(f"perceptual must be a callable or None, got {perceptual!r}.")
        self.perceptual = perceptual

    def discriminator(self, real: Scales, fake: Scales) -> Tensor:
        """:func:`hinge_d_loss` of the discriminator's outputs."""
        return hinge_d_loss(real, fake)

    def generator(
        self,
        real: Sequence[Sequence[Tensor]],
        fake: Sequence[Sequence[Tensor]],
        mu: Tensor,
        logvar: Tensor,
        real_image: Tensor | None = None,
        fake_image: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The generator's terms, each with its weight, and their sum.

        Args:
            real: the discriminator's maps of real images, over scales.
            fake: likewise of generated ones, not detached.
            mu: (N, Z).
            logvar: (N, Z).
            real_image: for ``perceptual``.
            fake_image: for ``perceptual``.

        Returns:
            ``gan``, ``fm``, ``perceptual``, ``kl``, ``total``: scalars.
        """
        gan = hinge_g_loss(fake)
        perceptual = gan.new_zeros(())
        if self.perceptual is not None:
            for name, image in (("real_image", real_image), ("fake_image", fake_image)):
                if image is None:
                    raise ValueError(f"{name} must be given for the perceptual term.")
            assert real_image is not None
            assert fake_image is not None
            perceptual = self.lambda_perceptual * self.perceptual(fake_image, real_image)
        terms = {
            "gan": gan,
            "fm": self.lambda_fm * feature_matching_loss(fake, real),
            "perceptual": perceptual,
            "kl": self.lambda_kl * kl_loss(mu, logvar),
        }
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def __repr__(self) -> str:
        return (
            f"SSTANLoss(lambda_fm={self.lambda_fm}, lambda_perceptual={self.lambda_perceptual}, "
            f"lambda_kl={self.lambda_kl}, perceptual={self.perceptual!r})"
        )


def _weight(name: str, value: object) -> float:
    return check_real(name, value, 0, math.inf, high_open=True)

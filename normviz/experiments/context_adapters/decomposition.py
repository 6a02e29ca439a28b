"""What the covariance changes before any training: spectra, and what is lost when small components are discarded."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

from normviz.adapters import (
    context_energy,
    context_oriented_svd,
    damped_covariance,
    truncated_reconstruction,
)
from normviz.experiments.context_adapters.recorded import (
    JUDGED_SHARES,
    LAYERS,
    METHODS,
    SHARES,
    SOURCES,
    TOGETHER,
)
from normviz.experiments.context_adapters.tasks import Context, World
from normviz.frame import Value

__all__ = ["decomposition", "energy_gain", "pooled", "spectra", "truncated", "truncation"]


@torch.no_grad()
def decomposition(world: World) -> dict[str, Value]:
    """All that is measured once for a seed; pictures of the covariances for the first seed only."""
    losses, errors = truncation(world)
    values: dict[str, Value] = {
        "truncation_loss": losses.astype(np.float32),
        "truncation_error": errors.astype(np.float32),
        "base_loss": float(cross_entropy(world.base(world.first.x_test), world.first.y_test)),
        "energy_gain": energy_gain(world),
    }
    judged = [SHARES.index(share) for share in JUDGED_SHARES]
    for row, method in enumerate(METHODS[1:], start=1):
        values[f"worst_loss_gap_{method}"] = float((losses[0] - losses[row])[judged].max())
        values[f"worst_error_ratio_{method}"] = float((errors[0] / errors[row]).max())
    for i, name in enumerate(LAYERS):
        values[f"spectra_{i}"] = spectra(world, name).astype(np.float32)
    if world.seed == world.knobs.first_seed:
        contexts = [world.contexts[source].covariances[LAYERS[0]] for source in SOURCES]
        values["covariances"] = np.stack([pooled(C, TOGETHER[world.knobs.data]) for C in contexts]).astype(
            np.float32
        )
        values["excited"] = np.stack([C.diagonal().sqrt().cpu().numpy() for C in contexts])
        values["pictures"] = torch.stack([world.first.x_test[0], world.new.x_test[0]]).cpu().numpy()
    return values


def weight_of(model: nn.Module, name: str) -> Tensor:
    """A layer's weight [out, in], detached."""
    return model.get_submodule(name).get_parameter("weight").detach()


def spectra(world: World, name: str) -> np.ndarray:
    """Singular values of W, and of W times the covariance of both tasks; each row over its largest, [3, R]."""
    W = weight_of(world.base, name)
    rows = [torch.linalg.svdvals(W)]
    for source in SOURCES[:2]:
        C = world.contexts[source].covariances[name]
        rows.append(context_oriented_svd(W, C, world.knobs.damp).S)
    found: np.ndarray = torch.stack([row / row[0] for row in rows]).cpu().numpy()
    return found


def energy_gain(world: World) -> float:
    """How much larger the share of the r leading components is in W C than in W, mean over the layers.

    The share is that of the squared singular values; C is the covariance of the first task.
    """
    gains = []
    for name in LAYERS:
        W, C = weight_of(world.base, name), world.contexts[SOURCES[0]].covariances[name]
        squares = torch.linalg.svdvals(W).double().square()
        plain = float(squares[: world.knobs.rank].sum() / squares.sum())
        gains.append(context_energy(W, C, world.knobs.rank) - plain)
    return sum(gains) / len(gains)


def truncated(model: nn.Module, context: Context, share: float, method: str) -> nn.Module:
    """A copy whose adapted layers have lost this share of their smallest components under a decomposition."""
    smaller = copy.deepcopy(model)
    for name in LAYERS:
        W = weight_of(model, name)
        rebuilt = truncated_reconstruction(
            W,
            round(share * min(W.shape)),
            method,
            covariance=context.covariances[name],
            abs_mean=context.abs_means[name],
        )
        smaller.get_submodule(name).get_parameter("weight").data.copy_(rebuilt)
    return smaller


@torch.no_grad()
def truncation(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Loss of the first task's test, and error weighted by the covariance, by method and share.

    Returns:
        Two arrays [methods, shares]. The error is ``||(W - W_k) C'||_F / ||W C'||_F``, mean over the layers.
    """
    context = world.contexts[SOURCES[0]]
    fixed = {name: damped_covariance(C)[0] for name, C in context.covariances.items()}
    losses, errors = np.empty((2, len(METHODS), len(SHARES)))
    for row, method in enumerate(METHODS):
        for column, share in enumerate(SHARES):
            model = truncated(world.base, context, share, method)
            logits = model(world.first.x_test)
            losses[row, column] = float(cross_entropy(logits, world.first.y_test))
            parts = []
            for name in LAYERS:
                W, C = weight_of(world.base, name), fixed[name]
                lost = (W - weight_of(model, name)) @ C
                parts.append(float(lost.norm() / (W @ C).norm()))
            errors[row, column] = sum(parts) / len(parts)
    return losses, errors


def pooled(C: Tensor, together: int = 2) -> np.ndarray:
    """A covariance [d, d] of pixels as that of means over so many neighbours, [d / together, ...], largest entry 1."""
    small = avg_pool2d(C[None, None], together)[0, 0]
    found: np.ndarray = (small / small.max()).cpu().numpy()
    return found

"""How far the statistics that a norm could use are from those of the whole stream.

For a channel c of a layer let m_c and s_c be mean and standard deviation of its input over the whole stream, a_c =
(mu_s - m_c) / s_c the error of the source's running mean and b_c = (mu_t - m_c) / s_c that of a batch's mean. The mean
that alpha-BN uses then has the error alpha a_c + (1 - alpha) b_c, so that its mean square over channels and batches is
``alpha^2 A + 2 alpha (1 - alpha) X + (1 - alpha)^2 B`` with A, X, B the means of a^2, ab and b^2: three numbers per
layer give the whole curve over alpha.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["MixtureErrors", "input_moments"]


def input_moments(
    model: nn.Module, kind: type[nn.Module], batches: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of the input of every layer of a kind, for each batch.

    Args:
        model: run once over the batches, as it is.
        kind: class of the layers.
        batches: inputs (n, ...).

    Returns:
        For each layer (means, variances), (batches, C) each in float64.
    """
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def noting(name: str) -> object:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            x = inputs[0].double()
            var, mean = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
            seen.setdefault(name, []).append((mean, var))

        return note

    handles = [
        module.register_forward_pre_hook(noting(name))  # type: ignore[arg-type]
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [
        (torch.stack([m for m, _ in pairs]), torch.stack([v for _, v in pairs])) for pairs in seen.values()
    ]


class MixtureErrors:
    """A, X and B of every layer for a stream; see the module.

    Args:
        model: a model with alpha layers, in the state in which the stream meets it.
        kind: class of its alpha layers.
        batches: the stream, batch by batch.
    """

    def __init__(self, model: nn.Module, kind: type[nn.Module], batches: list[Tensor]) -> None:
        sizes = torch.tensor([float(len(batch)) for batch in batches], dtype=torch.float64)
        share = (sizes / sizes.sum())[:, None]
        layers = [module for module in model.modules() if isinstance(module, kind)]
        self._products: list[NDArray[np.float64]] = []
        moments = input_moments(model, kind, batches)
        for layer, (means, variances) in zip(layers, moments, strict=True):
            means, variances = means.cpu(), variances.cpu()
            whole = (share * means).sum(0)
            deviation = (share * (variances + (means - whole).square())).sum(0).sqrt().clamp(min=1e-6)
            running = layer.running_mean
            assert isinstance(running, Tensor)
            a = ((running.double().cpu() - whole) / deviation).expand_as(means)
            b = (means - whole) / deviation
            self._products.append(torch.stack([(a * a).mean(1), (a * b).mean(1), (b * b).mean(1)], 1).numpy())

    def so_far(self, batches: int) -> NDArray[np.float64]:
        """A, X, B of every layer (layers, 3), means over the first ``batches`` batches."""
        return np.stack([product[: max(batches, 1)].mean(0) for product in self._products])

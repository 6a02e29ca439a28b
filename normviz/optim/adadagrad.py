r"""AdAdaGrad and AdAdaGrad-Norm: AdaGrad steps whose batches grow by themselves.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", arXiv 2402.11215 (2024). Each
step k gets the gradients g_i of the samples of its batch at the present parameters:

    g = mean g_i,   b_{k+1} from the test of g_i at x_k,   x_{k+1} = AdaGrad or AdaGrad-Norm step with g.

The paper pairs AdAdaGrad with the coordinate-wise norm test in its theory and the norm test in its runs, and
AdAdaGrad-Norm with the norm test. The controller (:class:`normviz.adaptive.AdaptiveBatchSize`) decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Adagrad
from torch.optim.optimizer import Optimizer

from normviz.optim._matrix import at_least_float32
from normviz.optim.adagrad_norm import AdaGradNorm
from normviz.validation import check_real

__all__ = ["AdAdaGrad", "AdAdaGradNorm", "BatchSizeController"]

Gradients = Mapping[str, Tensor] | Sequence[Tensor]


class BatchSizeController(Protocol):
    """What decides about the batch size, e.g. :class:`normviz.adaptive.AdaptiveBatchSize`."""

    @property
    def batch_size(self) -> int:
        """The batch size of the next step."""

    def step(self, grads_or_moments: Any, /) -> int:
        """The batch size after having seen the samples' gradients."""

    def state_dict(self) -> dict[str, Any]:
        """The whole state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Continue from a state."""


class _WithBatchSize:
    """An optimizer and a controller that see the same per-sample gradients.

    Attributes:
        optimizer: takes the steps; its groups hold the parameters.
        controller: decides about the batch size.
    """

    def __init__(self, optimizer: Optimizer, controller: BatchSizeController) -> None:
        self.optimizer = optimizer
        self.controller = controller

    @property
    def batch_size(self) -> int:
        """The size that the next batch should have."""
        return self.controller.batch_size

    @torch.no_grad()
    def step(self, per_sample_grads: Gradients) -> int:
        """Test at the present parameters, then step with the mean gradient.

        Args:
            per_sample_grads: (B, *shape) per parameter, as a dict or a sequence in the order of the parameters, all
                groups one after another (see :func:`normviz.adaptive.per_sample_gradients`).

        Returns:
            The batch size from the next step on.

        Raises:
            ValueError: another number of tensors or other shapes than the parameters', or what the controller refuses.
                Parameters and controller are then as before.

        ``p.grad`` holds the mean gradient afterwards.
        """
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        grads = list(per_sample_grads.values() if isinstance(per_sample_grads, Mapping) else per_sample_grads)
        wanted = [tuple(p.shape) for p in params]
        given = [tuple(g.shape) for g in grads]
        if [shape[1:] for shape in given] != wanted or any(shape[:1] in ((), (0,)) for shape in given):
            raise ValueError(f"per_sample_grads must have shapes (B, *shape) for {wanted}, got {given}.")
        size = self.controller.step(grads)
        for p, g in zip(params, grads, strict=True):
            p.grad = at_least_float32(g.detach()).mean(0).to(p.device, p.dtype)
        self.optimizer.step()
        return size

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"optimizer": self.optimizer.state_dict(), "controller": self.controller.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.controller.load_state_dict(state_dict["controller"])


class AdAdaGrad(_WithBatchSize):
    """torch.optim.Adagrad with a batch size that grows by a test of the samples' gradients.

    Args:
        params: parameters or param groups.
        controller: e.g. ``normviz.adaptive.AdaptiveBatchSize("coordinatewise")`` (the paper's theory) or
            ``AdaptiveBatchSize("norm")`` (its runs).
        lr: learning rate, >= 0 (1e-2, torch).
        options: of torch.optim.Adagrad.

    Raises:
        ValueError: lr < 0 or not finite, and what torch.optim.Adagrad refuses.

    Example:
        >>> from normviz.adaptive import AdaptiveBatchSize
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = AdAdaGrad([p], AdaptiveBatchSize(eta=0.5, initial_batch_size=2), lr=0.1)
        >>> optimizer.step([torch.tensor([[1.0], [0.0]])]), round(p.item(), 3)
        (8, -0.1)

    Reference: Lau et al., arXiv 2402.11215, AdAdaGrad.
    """

    def __init__(
        self, params: Iterable[Any], controller: BatchSizeController, lr: float = 1e-2, **options: Any
    ) -> None:
        check_real("lr", lr, 0, high_open=True)
        super().__init__(Adagrad(params, lr=lr, **options), controller)


class AdAdaGradNorm(_WithBatchSize):
    """:class:`normviz.optim.AdaGradNorm` with a batch size that grows by a test of the samples' gradients.

    Args:
        params: parameters or param groups.
        controller: e.g. ``normviz.adaptive.AdaptiveBatchSize("norm")``, the paper's pairing.
        lr: learning rate, >= 0 (1.0, public code).
        options: of :class:`normviz.optim.AdaGradNorm`.

    Raises:
        ValueError: what :class:`normviz.optim.AdaGradNorm` refuses.

    Example:
        >>> from normviz.adaptive import AdaptiveBatchSize
        >>> p = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = AdAdaGradNorm([p], AdaptiveBatchSize(), lr=0.1, initial_accumulator_value=0.0)
        >>> optimizer.step([torch.tensor([[1.0], [1.0]])]), round(p.item(), 3)
        (8, -0.1)

    Reference: Lau et al., arXiv 2402.11215, AdAdaGrad-Norm.
    """

    def __init__(
        self, params: Iterable[Any], controller: BatchSizeController, lr: float = 1.0, **options: Any
    ) -> None:
        super().__init__(AdaGradNorm(params, lr=lr, **options), controller)

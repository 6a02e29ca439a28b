"""Rows of adaptive batch sizes: tests and controller of :mod:`normviz.adaptive`, their optimizers of normviz.optim."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normviz import adaptive, optim
from normviz.testing._values import Inputs, seeded
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, ObjectContract, OptimizerContract

__all__ = ["ROWS"]

SHAPES = ((4, 3), (5,))


def samples() -> list[Tensor]:
    """Gradients of six samples with a mean."""
    return [torch.randn(6, *shape) + 1 for shape in SHAPES]


def gradients() -> Inputs:
    """Per-sample gradients of two parameters."""
    return (samples(),)


def one_sample() -> Inputs:
    """A batch of one."""
    return ([torch.ones(1, 3)],)


def unequal() -> Inputs:
    """Different numbers of samples."""
    return ([torch.ones(2, 3), torch.ones(3, 3)],)


def not_finite() -> Inputs:
    """A NaN among the gradients."""
    return ([torch.tensor([[1.0], [float("nan")]])],)


def balanced() -> Inputs:
    """Samples that cancel."""
    return ([torch.tensor([[1.0], [-1.0]])],)


NOT_GRADIENTS = [Bad(inputs=inputs, names="grads") for inputs in (one_sample, unequal, not_finite, balanced)]


def moments() -> Inputs:
    """Moments of two shards."""
    return ([adaptive.GradientMoments.of(samples()) for _ in range(2)],)


def labelled() -> Inputs:
    """A model, a loss and five labelled samples."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return model, nn.functional.cross_entropy, torch.randn(5, 3), torch.randint(2, (5,))


def controlled(sizes: adaptive.AdaptiveBatchSize, i: int) -> Any:
    """One step; the size and the history after it."""
    with seeded(i):
        return [sizes.step([g / (1 + i) for g in samples()]), list(sizes.history)]


class Growing:
    """An optimizer with a controller, and its parameters: what is stepped, saved and resumed together.

    Args:
        make: builds the optimizer from parameters and controller.
        options: of ``make``.
    """

    def __init__(self, make: Callable[..., Any], **options: Any) -> None:
        self.params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        sizes = adaptive.AdaptiveBatchSize(eta=0.4, initial_batch_size=6, max_batch_size=400)
        self.method = make(self.params, sizes, **options)

    def step(self, i: int) -> Any:
        """One step with random gradients; the size and the parameters after it."""
        with seeded(i):
            size = self.method.step(samples())
        return [size, [p.detach().clone() for p in self.params]]

    def state_dict(self) -> dict[str, Any]:
        """Parameters and the method's state."""
        return {"params": [p.detach().clone() for p in self.params], "method": self.method.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""
        with torch.no_grad():
            for p, value in zip(self.params, state["params"], strict=True):
                p.copy_(value)
        self.method.load_state_dict(state["method"])


RATES = (Bad({"lr": -1.0}), Bad({"weight_decay": -1.0}), Bad({"lr_decay": -1.0}), Bad({"eps": -1.0}))
WHOLE = "the step size is that of the norm over all parameters of a group"

ROWS: list[Contract] = [
    OptimizerContract(
        method="normviz.optim.AdaGradNorm",
        make=optim.AdaGradNorm,
        lr=1.0,
        bad=[
            *RATES,
            Bad({"initial_accumulator_value": -1.0}),
            Bad({"momentum": 1.0}),
            Bad({"scope": "column"}),
        ],
        skip={"batched": WHOLE, "missing_gradients": f"{WHOLE}, kept by the first of them"},
    ),
    OptimizerContract(
        method="normviz.optim.AdaGradNorm",
        variant="row",
        make=partial(optim.AdaGradNorm, scope="row", momentum=0.5, weight_decay=0.01, lr_decay=0.1),
        lr=1.0,
    ),
    ObjectContract(
        method="normviz.optim.AdAdaGrad",
        make=partial(Growing, optim.AdAdaGrad),
        step=Growing.step,
        bad=[Bad({"lr": -1.0})],
    ),
    ObjectContract(
        method="normviz.optim.AdAdaGradNorm",
        make=partial(Growing, optim.AdAdaGradNorm),
        step=Growing.step,
        bad=[*RATES, Bad({"momentum": 1.0})],
    ),
    ObjectContract(
        method="normviz.adaptive.AdaptiveBatchSize",
        make=partial(adaptive.AdaptiveBatchSize, eta=0.4),
        step=controlled,
        bad=[
            Bad({"test": "variance"}),
            Bad({"eta": 0.0}),
            Bad({"theta": -1.0}),
            Bad({"nu": 0.0}),
            Bad({"initial_batch_size": 0}),
            Bad({"max_batch_size": 7}),
            Bad({"test_interval": 0}),
            Bad({"quantile": 0.0}),
        ],
    ),
    ObjectContract(
        method="normviz.adaptive.AdaptiveBatchSize",
        variant="augmented",
        make=partial(adaptive.AdaptiveBatchSize, test="augmented", theta=0.5, nu=0.8, blockwise=True),
        step=controlled,
    ),
    FunctionContract(
        method="normviz.adaptive.norm_test",
        inputs=gradients,
        tensors=False,
        bad=[Bad({"eta": 0.0}), *NOT_GRADIENTS],
    ),
    FunctionContract(
        method="normviz.adaptive.inner_product_test",
        inputs=gradients,
        tensors=False,
        bad=[Bad({"theta": 0.0}), *NOT_GRADIENTS],
    ),
    FunctionContract(
        method="normviz.adaptive.orthogonality_test",
        inputs=gradients,
        tensors=False,
        bad=[Bad({"nu": 0.0}), *NOT_GRADIENTS],
    ),
    FunctionContract(
        method="normviz.adaptive.augmented_inner_product_test",
        inputs=gradients,
        tensors=False,
        bad=[Bad({"theta": 0.0}), Bad({"nu": 0.0}), *NOT_GRADIENTS],
    ),
    FunctionContract(
        method="normviz.adaptive.coordinatewise_norm_test",
        inputs=gradients,
        tensors=False,
        bad=[Bad({"eta": 0.0}), Bad({"quantile": 1.5}), *NOT_GRADIENTS],
    ),
    FunctionContract(
        method="normviz.adaptive.combine_moments",
        inputs=moments,
        tensors=False,
        bad=[Bad(inputs=lambda: ([],), names="list")],
    ),
    FunctionContract(
        method="normviz.adaptive.per_sample_gradients",
        inputs=labelled,
        tensors=False,
        bad=[Bad({"chunk_size": 0}), Bad({"randomness": "some"})],
    ),
    FunctionContract(
        method="normviz.adaptive.plan_micro_batches",
        inputs=lambda: (100, 16),
        tensors=False,
        bad=[Bad({"world": 0}), Bad({"accumulation": 0})],
    ),
]

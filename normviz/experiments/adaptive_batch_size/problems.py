"""What is minimised on the page *Adaptive batch size*: logistic regression, digits, and the problem of two numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from normviz.data import load_rows, seeded_generator
from normviz.experiments.adaptive_batch_size import toy
from normviz.experiments.adaptive_batch_size.sizes import (
    DIGITS_TESTED,
    LOGISTIC_TESTED,
    LOGISTIC_TRAINED,
    LOGISTIC_WIDTH,
)
from normviz.models import MLP
from normviz.training.seeding import seeded

__all__ = ["Problem", "least_logistic_loss", "problem_of"]

SHARPNESS = 2.0
"""Length of the true parameters, so that log-odds have this standard deviation: classes overlap."""
NEWTON_STEPS = 12
DIGITS_HIDDEN = 64

STREAM = 71
"""Of the random numbers of data and first weights."""


@dataclass(frozen=True)
class Problem:
    """Data, a model and its loss.

    Attributes:
        x, y: training samples.
        x_test, y_test: held-out samples; for the problem of two numbers there are none.
        loss_fn: mean loss of outputs and targets.
        start: makes a model at the first point.
        least: the smallest training loss there is; None: not known.
        truth: held-out loss of the true parameters; None: there are none.
        rates: usual learning rate of AdaGrad-Norm and of AdaGrad.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    loss_fn: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[], nn.Module]
    least: float | None
    truth: float | None
    rates: tuple[float, float]

    def right(self, outputs: Tensor) -> Tensor:
        """Whether each held-out sample is classified as its label says, (n_test,)."""
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > 0) == (self.y_test > 0.5)
        return outputs.argmax(1) == self.y_test


def _linear(first: Tensor) -> nn.Module:
    """<w, x> for each sample, w at a given first point (d,): (B, d) -> (B, 1)."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(len(first), 1, bias=False, dtype=first.dtype, device=first.device)
    with torch.no_grad():
        layer.weight.copy_(first[None])
    return layer


def _log_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs.squeeze(1), targets)


def _half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.squeeze(1) - targets).square().mean() / 2


@lru_cache(maxsize=16)
def problem_of(task: str, seed: int, samples: int, device: torch.device, data: str = "digits") -> Problem:
    """The problem of a seed: it draws the data, their split and the first weights.

    Args:
        task: "logistic", "digits" or "toy".
        seed: of everything that is drawn.
        samples: of the whole run; the problem of two numbers has as many, so that none is seen twice.
        device: where it is solved.
        data: what the digits task has (:func:`normviz.data.load_rows`).
    """
    if task == "digits":
        return _digits(data, seed, device)
    return _toy(seed, samples, device) if task == "toy" else _logistic(seed, device)


def _logistic(seed: int, device: torch.device) -> Problem:
    generator = seeded_generator(seed, STREAM)
    total = LOGISTIC_TRAINED + LOGISTIC_TESTED
    x = torch.randn(total, LOGISTIC_WIDTH, generator=generator, dtype=torch.float64)
    true = torch.randn(LOGISTIC_WIDTH, generator=generator, dtype=torch.float64)
    true *= SHARPNESS / true.norm()
    chance = torch.rand(total, generator=generator, dtype=torch.float64)
    y = (chance < (x @ true).sigmoid()).double()
    x, y, true = x.to(device), y.to(device), true.to(device)
    train, test = slice(0, LOGISTIC_TRAINED), slice(LOGISTIC_TRAINED, None)
    first = torch.zeros(LOGISTIC_WIDTH, dtype=torch.float64, device=device)
    return Problem(
        x=x[train],
        y=y[train],
        x_test=x[test],
        y_test=y[test],
        loss_fn=_log_loss,
        start=lambda: _linear(first),
        least=least_logistic_loss(x[train], y[train]),
        truth=float(binary_cross_entropy_with_logits(x[test] @ true, y[test])),
        rates=(1.0, 0.1),
    )


def least_logistic_loss(x: Tensor, y: Tensor) -> float:
    """The smallest mean loss of logistic regression on samples x (n, d) with labels y in {0, 1}, by Newton's method."""
    w = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device)
    for _ in range(NEWTON_STEPS):
        p = (x @ w).sigmoid()
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(x)
        w = w - torch.linalg.solve(curvature, x.T @ (p - y) / len(x))
    return float(binary_cross_entropy_with_logits(x @ w, y))


def _digits(kind: str, seed: int, device: torch.device) -> Problem:
    data = load_rows(kind, test_size=DIGITS_TESTED if kind == "digits" else None, seed=seed)
    values = data.x_train.shape[1]

    def start() -> nn.Module:
        with seeded(int(torch.randint(2**31, (), generator=seeded_generator(seed, STREAM)))):
            return MLP(values, [DIGITS_HIDDEN], data.num_classes, activation="tanh", init="lecun").to(device)

    return Problem(
        x=data.x_train.to(device),
        y=data.y_train.to(device),
        x_test=data.x_test.to(device),
        y_test=data.y_test.to(device),
        loss_fn=cross_entropy,
        start=start,
        least=None,
        truth=None,
        rates=(1.0, 0.05),
    )


def _toy(seed: int, samples: int, device: torch.device) -> Problem:
    generator = seeded_generator(seed, STREAM)
    a = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
    a = a * torch.from_numpy(toy.CURVATURE).sqrt()
    error = torch.randn(samples, generator=generator, dtype=torch.float64)
    y = a @ torch.from_numpy(toy.TARGET) + toy.NOISE * error
    first = torch.from_numpy(toy.START).to(device)
    return Problem(
        x=a.to(device),
        y=y.to(device),
        x_test=a[:0].to(device),
        y_test=y[:0].to(device),
        loss_fn=_half_square,
        start=lambda: _linear(first),
        least=None,
        truth=None,
        rates=(1.0, 0.1),
    )

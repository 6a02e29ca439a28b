"""The arms of the page *Adaptive batch size*: an optimizer, a batch size that may grow, and the samples' order.

Every arm of a seed reads the samples in one order, since a sampler draws nothing but the order of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adagrad, Optimizer

from normviz.adaptive import AdaptiveBatchSize, GrowingBatchSampler, per_sample_gradients
from normviz.data import seeded_generator
from normviz.experiments.adaptive_batch_size import toy
from normviz.experiments.adaptive_batch_size.knobs import ARM_NAMES, TESTS, Knobs
from normviz.experiments.adaptive_batch_size.problems import Problem
from normviz.frame import Frame, Value
from normviz.optim import AdAdaGrad, AdAdaGradNorm, AdaGradNorm
from normviz.training import Diverged

__all__ = ["Learner", "rate_exponent"]

ORDER, PROBE = 72, 73
"""Streams of random numbers: the order of the samples, and the batches that are looked at."""


class _Fixed:
    """A batch size that stays."""

    def __init__(self, size: int) -> None:
        self.batch_size = size


class Learner:
    """One arm with one seed, as :func:`interleave` sees it; a position on the axis is a number of samples.

    Args:
        kind: the arm's key in the knobs.
        problem: what is minimised.
        knobs: the setting.
        seed: of the samples' order.

    Arms whose batch grows step at positions that differ from seed to seed. Everything is shown at marks that all share:
    what was newest when the step began in which the mark lies. A mean over seeds would otherwise be one over those
    seeds that happen to have a value there, and a batch size would seem to shrink.

    Attributes:
        steps: steps taken.
        seen: samples of the last step.
        found: what the newest test found; empty where none is made any more.
        measured: the newest losses and gradients.
        sizes: the batch size before every step, and now.
        ratios: in the problem of two numbers, each test's suggestion over that of the exact test.
        squares: in the problem of two numbers, the squared norm of the gradient before every step.
        full_at: samples seen when the batch had its largest size; None: not yet.
    """

    def __init__(self, kind: str, problem: Problem, knobs: Knobs, seed: int) -> None:
        self.kind, self.arm, self.seed = kind, ARM_NAMES[kind], seed
        self.problem, self.knobs = problem, knobs
        self.model = problem.start()
        self.n = len(problem.x)
        self.most = knobs.largest_batch(self.n)
        self.growing: AdAdaGradNorm | AdAdaGrad | None = None
        self.controller: AdaptiveBatchSize | None = None
        self.optimizer = self._build()
        fixed = _Fixed(self.most if kind.endswith("large") else knobs.initial_batch)
        self._size = self.controller or fixed
        generator = seeded_generator(seed, ORDER)
        self._sampler = GrowingBatchSampler(self.n, self._size, generator)
        self._batches = self._epochs()
        self.steps = self.seen = 0
        self.sizes = [self.batch_size]
        self.ratios: list[float] = []
        self.squares: list[float] = []
        self.full_at: int | None = None
        self.found: dict[str, Value] = {}
        self.measured: dict[str, Value] = {}
        self._passed: list[Frame] = []

    def _build(self) -> Optimizer:
        """The optimizer; for arms whose batch grows also the controller and what joins the two."""
        knobs, parameters = self.knobs, list(self.model.parameters())
        norm_rate, rate = (knobs.rate_scale * usual for usual in self.problem.rates)
        if self.kind not in TESTS:
            plain = self.kind.startswith("adagrad")
            return Adagrad(parameters, lr=rate) if plain else AdaGradNorm(parameters, lr=norm_rate)
        self.controller = AdaptiveBatchSize(
            TESTS[self.kind],
            eta=knobs.eta,
            theta=knobs.theta,
            nu=knobs.nu,
            initial_batch_size=knobs.initial_batch,
            max_batch_size=self.most,
            test_interval=knobs.test_interval,
            blockwise=knobs.blockwise,
            quantile=knobs.quantile,
        )
        if self.kind in ("norm", "augmented"):
            self.growing = AdAdaGradNorm(parameters, self.controller, lr=norm_rate)
        else:
            self.growing = AdAdaGrad(parameters, self.controller, lr=rate)
        return self.growing.optimizer

    def _epochs(self) -> Iterator[list[int]]:
        while True:
            yield from self._sampler

    @property
    def batch_size(self) -> int:
        """Samples of the next step."""
        return min(self._size.batch_size, self.n)

    def step(self, at: int) -> dict[str, Value]:
        """One step; where a test is made, it is made before, on the same samples. What is shown: :meth:`passed`."""
        left = max(self.knobs.samples - at, 2)
        chosen = torch.tensor(next(self._batches)[:left], device=self.problem.x.device)
        x, y = self.problem.x[chosen], self.problem.y[chosen]
        if self.knobs.task == "toy":
            self.squares.append(float(np.sum(toy.gradient(self.point()) ** 2)))
        if self._test_is_due():
            exact = self._exact_suggestion()
            assert self.growing is not None
            self.growing.step(per_sample_gradients(self.model, self.problem.loss_fn, x, y))
            self.found = self._what_the_test_found(exact, len(chosen))
        else:
            if self.controller is not None:
                self.controller.step(())
            self.optimizer.zero_grad()
            self.problem.loss_fn(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.steps += 1
        self.seen = len(chosen)
        self._passed += self._marks(at)
        if self.batch_size >= self.most:
            self.found = {}
        self.sizes.append(self.batch_size)
        if self.full_at is None and self.batch_size >= self.most:
            self.full_at = at + self.seen
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise Diverged("the parameters are no longer finite", lost=("gap", "loss"))
        return {}

    def _marks(self, at: int) -> list[Frame]:
        """A frame for every mark from the position ``at`` on that the samples of the last step have passed."""
        every = self.knobs.mark_every()
        first = max(-(-at // every), 1) * every
        frames = []
        for mark in range(first, min(at + self.seen, self.knobs.samples), every):
            values = {"batch": float(self.sizes[-1]), **self.found}
            if mark % self.knobs.eval_every() == 0:
                values |= self.measured
            frames.append(Frame(mark, self.arm, self.seed, values))
        return frames

    def passed(self) -> list[Frame]:
        """The frames of the marks that were passed since this was last asked."""
        frames, self._passed = self._passed, []
        return frames

    def _test_is_due(self) -> bool:
        if self.controller is None or self.controller.batch_size >= self.most:
            return False
        return (self.steps + 1) % self.knobs.test_interval == 0

    def _what_the_test_found(self, exact: float, size: int) -> dict[str, Value]:
        """The suggestion, and for the norm tests the two sides that are compared."""
        assert self.controller is not None
        found = self.controller.history[-1]
        values: dict[str, Value] = {}
        if math.isfinite(found.suggestion) and found.suggestion > 0:
            values["suggestion"] = found.suggestion
            if self.knobs.task == "toy" and TESTS[self.kind] == "norm":
                values["exact_suggestion"] = exact
                self.ratios.append(found.suggestion / exact)
        if TESTS[self.kind] in ("norm", "coordinatewise"):
            values["noise"] = found.variance / size
            values["allowed"] = self.knobs.eta**2 * found.grad_norm_sq
        return values

    def _exact_suggestion(self) -> float:
        """The batch size of the exact norm test in the problem of two numbers, ||V||_1/(eta^2 ||grad F||^2)."""
        if self.knobs.task != "toy":
            return math.nan
        x = self.point()
        return toy.total_variance(x) / (self.knobs.eta**2 * float(np.sum(toy.gradient(x) ** 2)))

    def point(self) -> np.ndarray:
        """All parameters as one vector."""
        flat = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        found: np.ndarray = flat.double().cpu().numpy()
        return found

    def probe(self, at: int) -> dict[str, Tensor]:
        """Gradients of a batch of the present size that is drawn to be looked at, not to be trained on."""
        generator = seeded_generator(self.seed, PROBE, at)
        chosen = torch.randperm(self.n, generator=generator)[: self.batch_size].to(self.problem.x.device)
        x, y = self.problem.x[chosen], self.problem.y[chosen]
        return per_sample_gradients(self.model, self.problem.loss_fn, x, y)


def rate_exponent(squares: list[float]) -> float:
    """By which power of K the mean of the first K numbers falls: a fitted slope over the last three quarters.

    Both axes are logarithmic; the fit is by least squares over the positions K/4, …, K. NaN for fewer than 8 numbers.
    """
    count = len(squares)
    if count < 8:
        return math.nan
    k = np.arange(1, count + 1)
    mean = np.cumsum(squares) / k
    kept = slice(count // 4, None)
    return float(np.polyfit(np.log(k[kept]), np.log(mean[kept]), 1)[0])

r"""Batch sizes that grow when the gradient's noise asks for it.

Lau, Liu, Kolar, "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods", arXiv 2402.11215 (2024). At the
parameters before a step, on the samples of that step, a test gives the size s that would pass
(:mod:`normviz.adaptive.batch_size_tests`). From the next step on

    b <- min(max(b, ceil(s)), b_max).

The size never shrinks, and testing ends at b_max. Learning rates are not rescaled; schedules should count samples,
since steps become fewer. The optimizers are :class:`normviz.optim.AdAdaGrad` and :class:`normviz.optim.AdAdaGradNorm`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler

from normviz.adaptive.batch_size_tests import (
    BatchTestResult,
    Ratio,
    augmented_ratio,
    check_quantile,
    check_tolerance,
    coordinatewise_ratio,
    inner_product_ratio,
    norm_ratio,
)
from normviz.adaptive.gradient_moments import GradientMoments, Gradients
from normviz.validation import check_choice, check_integer

__all__ = ["AdaptiveBatchSize", "GrowingBatchSampler", "plan_micro_batches"]

TESTS = ("norm", "inner_product", "augmented", "coordinatewise")
WITH_MOMENTS = ("norm", "coordinatewise")
"""Tests that need no more than the mean and the variance of the gradients."""


class AdaptiveBatchSize:
    """The batch size of a training run, grown by one of the tests.

    Args:
        test: "norm" (default), "inner_product", "augmented" or "coordinatewise".
        eta: of the norm tests, > 0. Default 0.1 (public code; its runs use 0.1 to 0.5).
        theta: of the inner product test, > 0. Default 0.1 (public code).
        nu: of the orthogonality test, > 0. Default 0.1 (public code).
        initial_batch_size: b at the start, >= 1. A batch of one cannot be tested, so take at least 2 unless moments of
            several devices are given. Default 8 (the paper's CIFAR-10 run per device).
        max_batch_size: b_max. Default 50000 (public code).
        test_interval: test at every so manieth call of :meth:`step`, >= 1. Default 1.
        blockwise: inner products tensor by tensor, as in the public code. Default False.
        quantile: of the coordinate-wise test, in (0, 1]. Default 1, the exact rule.

    Attributes:
        batch_size: b.
        history: one :class:`BatchTestResult` per test made; its ``batch_size`` is b after the rule, its ``passed``
            compares s with b before it.

    Raises:
        ValueError: an argument outside its range, max_batch_size < initial_batch_size, unknown test.

    Example:
        >>> sizes = AdaptiveBatchSize(eta=0.5, initial_batch_size=2, max_batch_size=100)
        >>> sizes.step([torch.tensor([[1.0], [0.0]])])
        8
        >>> sizes.step([torch.tensor([[1.0], [1.0]])])
        8

    Reference: Lau et al., arXiv 2402.11215, the batch-size rule of its adaptive schemes; tests and equations in
    :mod:`normviz.adaptive.batch_size_tests`.
    """

    def __init__(
        self,
        test: str = "norm",
        eta: float = 0.1,
        theta: float = 0.1,
        nu: float = 0.1,
        initial_batch_size: int = 8,
        max_batch_size: int = 50000,
        test_interval: int = 1,
        blockwise: bool = False,
        quantile: float = 1.0,
    ) -> None:
        self.test = check_choice("test", test, TESTS)
        self.eta = check_tolerance("eta", eta)
        self.theta = check_tolerance("theta", theta)
        self.nu = check_tolerance("nu", nu)
        self.initial_batch_size = check_integer("initial_batch_size", initial_batch_size, 1)
        self.max_batch_size = check_integer("max_batch_size", max_batch_size, initial_batch_size)
        self.test_interval = check_integer("test_interval", test_interval, 1)
        self.blockwise = blockwise
        self.quantile = check_quantile(quantile)
        self.batch_size = self.initial_batch_size
        self.history: list[BatchTestResult] = []
        self._step = 0

    def step(self, grads_or_moments: Gradients | GradientMoments) -> int:
        """Count a step, test if it is time, and return the batch size from the next step on.

        Args:
            grads_or_moments: the samples' gradients at the parameters BEFORE the optimizer's step, (B, *shape) per
                parameter, or their moments for "norm" and "coordinatewise". Looked at only if a test is made, so at
                ``max_batch_size`` anything will do.

        Raises:
            ValueError: moments for another test; no tensors, different B, fewer than two samples, gradients that are
                not finite. Nothing was changed.
        """
        if isinstance(grads_or_moments, GradientMoments) and self.test not in WITH_MOMENTS:
            raise ValueError(f"grads_or_moments must be the samples' own gradients for test={self.test!r}.")
        if (self._step + 1) % self.test_interval == 0 and self.batch_size < self.max_batch_size:
            ratio = self._ratio(grads_or_moments)
            s, b = ratio.suggestion, self.batch_size
            self.batch_size = (
                self.max_batch_size if s >= self.max_batch_size else max(self.batch_size, math.ceil(s))
            )
            self.history.append(
                BatchTestResult(self.batch_size, s, s <= b, ratio.variance, ratio.grad_norm_sq)
            )
        self._step += 1
        return self.batch_size

    def _ratio(self, given: Gradients | GradientMoments) -> Ratio:
        if self.test == "norm":
            return norm_ratio(given, self.eta)
        if self.test == "coordinatewise":
            return coordinatewise_ratio(given, self.eta, self.quantile)
        assert not isinstance(given, GradientMoments)
        if self.test == "inner_product":
            return inner_product_ratio(given, self.theta, self.blockwise)
        return augmented_ratio(given, self.theta, self.nu, self.blockwise)

    def state_dict(self) -> dict[str, Any]:
        """Batch size, step, and the history with its length, as plain values."""
        return {
            "batch_size": self.batch_size,
            "step": self._step,
            "history_length": len(self.history),
            "history": [tuple(result) for result in self.history],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; the settings stay those of this object."""
        self.batch_size = int(state_dict["batch_size"])
        self._step = int(state_dict["step"])
        self.history = [BatchTestResult(*result) for result in state_dict["history"]]


class _HasBatchSize(Protocol):
    @property
    def batch_size(self) -> int: ...


class GrowingBatchSampler(Sampler[list[int]]):
    """Epochs in freshly shuffled order, in batches of the size that a controller says at the time.

    One iteration is one epoch: every index once. The size is read before each batch, so what is decided at one step
    holds for the next. The last batch may be short, but a remainder of one index joins the batch before it, since the
    variance of one gradient is undefined. It has no length: how many batches come is not known before.

    Args:
        n: size of the data set, >= 1. A larger batch size is cut to it.
        controller: anything with ``batch_size``, e.g. :class:`AdaptiveBatchSize`.
        generator: of the shuffles. Default None: torch's global one.

    Raises:
        ValueError: n < 1.

    For ``torch.utils.data.DataLoader(batch_sampler=...)``. Worker processes ask for batches ahead of time
    (``prefetch_factor`` each), so a new size comes later by that many steps.

    Example:
        >>> sampler = GrowingBatchSampler(9, AdaptiveBatchSize(initial_batch_size=4))
        >>> [len(batch) for batch in sampler]
        [4, 5]

    Reference: Lau et al., arXiv 2402.11215 (b_{k+1} holds from step k + 1).
    """

    def __init__(self, n: int, controller: _HasBatchSize, generator: torch.Generator | None = None) -> None:
        self.n = check_integer("n", n, 1)
        self.controller = controller
        self.generator = generator

    def __iter__(self) -> Iterator[list[int]]:
        """One epoch of batches of indices."""
        order: list[int] = torch.randperm(self.n, generator=self.generator).tolist()
        start = 0
        while start < self.n:
            end = start + max(1, self.controller.batch_size)
            if end >= self.n - 1:
                end = self.n
            yield order[start:end]
            start = end


def plan_micro_batches(
    batch: int, max_micro: int, world: int = 1, accumulation: int = 1
) -> tuple[int, int, int]:
    """Split a batch over devices and accumulation steps.

    m = ceil(b/(W A)); if m > m_max, then m = m_max and A = ceil(b/(W m)).

    Args:
        batch: b, wanted.
        max_micro: m_max, what one device can take at once.
        world: W, devices. Default 1.
        accumulation: A, accumulation steps so far. Default 1.

    Returns:
        (m, A, m W A): micro-batch per device, accumulation steps, and the batch rounded up, which the caller caps.

    Raises:
        ValueError: an argument < 1.

    Example:
        >>> plan_micro_batches(100, max_micro=16, world=2)
        (16, 4, 128)

    Reference: Lau et al., arXiv 2402.11215, public code.
    """
    check_integer("batch", batch, 1)
    check_integer("max_micro", max_micro, 1)
    check_integer("world", world, 1)
    check_integer("accumulation", accumulation, 1)
    micro = -(-batch // (world * accumulation))
    if micro > max_micro:
        micro = max_micro
        accumulation = -(-batch // (world * micro))
    return micro, accumulation, micro * world * accumulation

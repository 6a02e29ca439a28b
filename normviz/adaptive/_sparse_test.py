"""The sparse test with guesses, the common core of Thresholdout, SparseValidate, PMW and the median mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from normviz.adaptive.statistical_queries import BudgetExhausted
from normviz.adaptive.validity_bounds import sparse_privacy
from normviz.validation import check_integer, check_real

__all__ = ["SparseTest"]


class SparseTest:
    """Tells whether a guess is further than a noisy threshold from the sample's mean; only "yes" costs budget.

    Laplace noise: That = T + Lap(2 sigma) is drawn here and after each over-threshold answer; per query eta ~ Lap(4
    sigma), over if gap > That + eta; the answer's noise is Lap(sigma). A threshold that changed with every query would
    break the privacy proof. Gaussian noise (the program of Science 349:636): per query T + N(0, sigma^2), answer noise
    N(0, sigma^2), no lasting threshold.

    Args:
        threshold: T > 0.
        sigma: scale of the noise, at least 0.
        budget: over-threshold answers allowed, at least 1; None: no end.
        rng: generator of all noise.
        gaussian: Gaussian instead of Laplace noise.
    """

    def __init__(
        self,
        threshold: float,
        sigma: float,
        budget: int | None,
        rng: np.random.Generator,
        *,
        gaussian: bool = False,
    ) -> None:
        self.threshold = check_real("threshold", threshold, 0, math.inf, low_open=True, high_open=True)
        self.sigma = check_real("sigma", sigma, 0, math.inf, high_open=True)
        self.budget = None if budget is None else check_integer("budget", budget, 1)
        self.rng = rng
        self.gaussian = gaussian
        self.over_count = 0
        self.noisy_threshold = self._draw_threshold()

    @property
    def budget_left(self) -> float:
        """Over-threshold answers left; infinity without a budget."""
        return math.inf if self.budget is None else self.budget - self.over_count

    def check_budget(self) -> None:
        """Raise BudgetExhausted if nothing is left."""
        if self.budget_left < 1:
            raise BudgetExhausted(f"the budget of {self.budget} over-threshold answers is used up.")

    def is_over(self, gap: float) -> bool:
        """Test one gap; draws the noise of the test."""
        noise = self.rng.normal(0.0, self.sigma) if self.gaussian else self.rng.laplace(0.0, 4 * self.sigma)
        return bool(gap > self.noisy_threshold + noise)

    def noisy(self, value: float) -> float:
        """A value with the noise of an answer."""
        draw = self.rng.normal if self.gaussian else self.rng.laplace
        return float(value + draw(0.0, self.sigma))

    def charge(self) -> None:
        """Pay for an over-threshold answer and draw the next threshold."""
        self.over_count += 1
        self.noisy_threshold = self._draw_threshold()

    def epsilon(self, n: int, width: float, delta: float) -> float:
        """Eps of all answers that the budget allows (without one: those so far and the next over-threshold one).

        A mean of n values in a range of this width has sensitivity width / n, so the noise counts as sigma / width.
        """
        if self.gaussian:
            return math.inf
        budget = self.over_count + 1 if self.budget is None else self.budget
        return sparse_privacy(budget, self.sigma / width, n, delta)

    def state_dict(self) -> dict[str, Any]:
        """Threshold and count."""
        return {"noisy_threshold": self.noisy_threshold, "over_count": self.over_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.noisy_threshold = float(state["noisy_threshold"])
        self.over_count = int(state["over_count"])

    def _draw_threshold(self) -> float:
        if self.gaussian:
            return self.threshold
        return float(self.threshold + self.rng.laplace(0.0, 2 * self.sigma))

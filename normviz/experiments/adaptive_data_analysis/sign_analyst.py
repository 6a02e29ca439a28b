"""The analyst who overfits with honest questions: one per feature, then a vote with the signs of the answers.

The attack of Dwork et al., arXiv 1411.2664: every question could have been fixed beforehand, and every single answer is
accurate; only their combination depends on the holdout, and of that it says too much. Between blocks of questions the
analyst asks the same mechanism how good the vote is so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from normviz.adaptive.data_analysis import BudgetExhausted
from normviz.experiments.adaptive_data_analysis.askers import Asker
from normviz.experiments.adaptive_data_analysis.knobs import Knobs, arm_name
from normviz.experiments.adaptive_data_analysis.recorded import MARGIN_BINS, MARGIN_RANGE, SHOWN_ANSWERS
from normviz.experiments.adaptive_data_analysis.theory import theory_accuracy
from normviz.experiments.adaptive_data_analysis.worlds import HOLDOUT, PARTS, TRAIN, TRUTH, Part, World
from normviz.frame import Value

__all__ = ["SignAnalyst"]

Array = NDArray[np.float64]


class SignAnalyst:
    """One mechanism with one seed; steps over blocks of questions.

    Args:
        kind: the mechanism's key in the knobs.
        knobs: the setting.
        world: data, shared by all mechanisms of a seed.
        asker: the mechanism.
        seed: of the data.
    """

    def __init__(self, kind: str, knobs: Knobs, world: World, asker: Asker, seed: int) -> None:
        self.kind, self.arm, self.seed = kind, arm_name(kind), seed
        self.note: str | None = None
        self._knobs, self._world, self._asker = knobs, world, asker
        self._votes: dict[str, Array] = {name: np.zeros(len(part.y)) for name, part in world.parts.items()}
        self._used = 0
        self._ended = False
        self._worst = 0.0
        self._shown: list[tuple[float, float]] = []

    def block_size(self, at: int) -> int:
        """Questions of the block that begins at this position."""
        return min(self._knobs.stride(), self._knobs.total_steps() - at)

    def step(self, at: int) -> Mapping[str, Value]:
        """Ask about a block of features and add their votes."""
        block, count = at // self._knobs.stride(), self.block_size(at)
        products = self._world.products(block, count)
        truth = self._world.true_means(block, products)
        answers = self._ask(products, at)
        asked = len(answers)
        if not asked:
            return {}
        signs = np.where(2 * answers - 1 >= 0, 1.0, -1.0)
        for name, votes in self._votes.items():
            votes += signs @ products[name][:asked].astype(np.float32)
        self._used += asked
        self._worst = max(self._worst, 100 * float(np.abs(answers - truth[:asked]).max()))
        if self.seed == self._knobs.first_seed:
            means = (1 + products[HOLDOUT][:asked] @ self._world.parts[HOLDOUT].weights) / 2
            self._shown = [*self._shown, *zip(means.tolist(), answers.tolist(), strict=True)][-SHOWN_ANSWERS:]
        return {}

    def _ask(self, products: Mapping[str, NDArray[np.int8]], at: int) -> Array:
        """Answers until the mechanism gives none any more."""
        answers: list[float] = []
        values = {name: (1 + products[name].astype(np.float64)) / 2 for name in self._asker.reads}
        try:
            for i in range(len(products[HOLDOUT])):
                answers.append(self._asker.feature({name: v[i] for name, v in values.items()}))
        except BudgetExhausted as spent:
            self._tell(at + len(answers), spent)
        return np.array(answers)

    def _tell(self, at: int, spent: BudgetExhausted) -> None:
        """A spent budget is news; that splitting needs rows for every question was known beforehand: its line ends."""
        if self.kind == "splitting":
            self._ended = True
        else:
            self.note = f"question {at + 1} is not answered: {spent}"

    def evaluate(self, at: int) -> Mapping[str, Value]:
        """What the mechanism says about the vote so far, and what is true."""
        parts = self._world.parts
        fresh = 100 * parts[TRUTH].accuracy(self._votes[TRUTH])
        values: dict[str, Value] = {
            "fresh": fresh,
            "holdout": 100 * parts[HOLDOUT].accuracy(self._votes[HOLDOUT]),
            "train": 100 * parts[TRAIN].accuracy(self._votes[TRAIN]),
        }
        if at == 0:
            return values
        if not self._ended:
            correct = {name: parts[name].correct(self._votes[name]) for name in PARTS}
            try:
                reported = 100 * self._asker.report(correct)
            except BudgetExhausted as spent:
                self._tell(at, spent)
            else:
                values |= {"reported": reported, "gap": reported - fresh}
        values |= {"overfit": float(values["holdout"]) - fresh, "worst": self._worst, **self._costs()}
        theory = theory_accuracy(self.kind, self._knobs.rows, at, self._knobs.noise)
        if theory is not None and self._knobs.task == "noise" and not self._knobs.signal:
            values["theory"] = 100 * theory
        values["margins"] = self._margins()
        if self._shown:
            values["answers"] = np.array(self._shown)
        return values

    def _costs(self) -> dict[str, Value]:
        costs = {"spent": self._asker.spent(), "epsilon": self._asker.epsilon()}
        return {name: value for name, value in costs.items() if math.isfinite(value)}

    def _margins(self) -> NDArray[np.float32]:
        """Histograms of votes for the right label over the root of their number: truth, holdout, training set."""
        return np.stack(
            [self._histogram(self._world.parts[name], self._votes[name]) for name in (TRUTH, HOLDOUT, TRAIN)]
        ).astype(np.float32)

    def _histogram(self, part: Part, votes: Array) -> Array:
        low, high = MARGIN_RANGE
        margins = np.clip(votes / math.sqrt(max(self._used, 1)), low, high)
        density, _ = np.histogram(margins, MARGIN_BINS, MARGIN_RANGE, weights=part.weights)
        return density * MARGIN_BINS / (high - low)

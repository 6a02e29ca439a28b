"""What the paper of the page *Noisy labels* claims, measured here."""

from __future__ import annotations

from normviz.claims import Claim, paired_difference
from normviz.experiments.noisy_labels.knobs import ARM_NAMES, Knobs, arm_name
from normviz.frame import Log

__all__ = ["CLAIMS"]

TAIL = 3
"""Evaluations that are averaged for a final value."""

PLAIN = ARM_NAMES["plain"]
NO_NUMBERS = "Its tables were not readable to us, so no number is shown."


def _against_plain(log: Log, knobs: Knobs, name: str) -> dict[int, float]:
    return paired_difference(log, name, arm_name("storm", knobs), PLAIN, window=TAIL)


def _gain(log: Log, knobs: Knobs) -> dict[int, float]:
    return _against_plain(log, knobs, "accuracy") if knobs.rate > 0 else {}


def _loss_on_clean(log: Log, knobs: Knobs) -> dict[int, float]:
    return _against_plain(log, knobs, "accuracy") if knobs.rate == 0 else {}


def _gain_under_imbalance(log: Log, knobs: Knobs) -> dict[int, float]:
    if knobs.rate == 0 or knobs.imbalance <= 1:
        return {}
    return _against_plain(log, knobs, "accuracy")


def _memorised(log: Log, knobs: Knobs) -> dict[int, float]:
    return _against_plain(log, knobs, "memorised")


def _calibration(log: Log, knobs: Knobs) -> dict[int, float]:
    return _against_plain(log, knobs, "calibration_error")


def _gap_growth(log: Log, knobs: Knobs) -> dict[int, float]:
    """Mean of right minus wrong weight over the last third of the run, minus that over the first third."""
    table = log.scalars("weight_gap")
    table = table[table["arm"] == arm_name("storm", knobs)]
    growth: dict[int, float] = {}
    for seed in log.seeds:
        own = table[table["seed"] == seed]
        first = own[own["step"] <= knobs.steps / 3]["value"]
        last = own[own["step"] >= 2 * knobs.steps / 3]["value"]
        if len(first) and len(last):
            growth[seed] = float(last.mean() - first.mean())
    return growth


def _overhead(log: Log, knobs: Knobs) -> dict[int, float]:
    """Median time of a STORM step over that of a plain step."""
    table = log.scalars("step_ms")
    median = table.groupby(["arm", "seed"])["value"].median()
    storm = arm_name("storm", knobs)
    return {
        seed: float(median[storm, seed] / median[PLAIN, seed])
        for seed in log.seeds
        if (storm, seed) in median.index and (PLAIN, seed) in median.index
    }


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="beats-plain",
        paper="meta-rescaling",
        statement="With noisy labels STORM is better than plain training.",
        paper_figure="Consistent gains at 10–40 % random label noise on YouTube and SMS spam, MRPC, CoLA and RTE. "
        + NO_NUMBERS,
        measured="test accuracy of STORM minus Plain",
        measure=_gain,
        side="above",
        needs="STORM and Plain with a noise rate above 0",
    ),
    Claim(
        id="harmless-on-clean-data",
        paper="meta-rescaling",
        statement="STORM does no harm where all labels are right.",
        paper_figure="Qualitative: robust on clean data.",
        measured="test accuracy of STORM minus Plain at noise rate 0",
        measure=_loss_on_clean,
        threshold=-0.01,
        side="above",
        needs="STORM and Plain at noise rate 0",
    ),
    Claim(
        id="class-imbalance",
        paper="meta-rescaling",
        statement="STORM copes with noisy labels and class imbalance together.",
        paper_figure="Qualitative: robust under class imbalance.",
        measured="test accuracy of STORM minus Plain under noise and imbalance",
        measure=_gain_under_imbalance,
        side="above",
        needs="STORM and Plain with noise and a class imbalance above 1",
    ),
    Claim(
        id="no-memorising",
        paper="meta-rescaling",
        statement="STORM does not overfit to wrong labels.",
        paper_figure="Qualitative: no overfitting to the noise.",
        measured="share of wrong labels predicted, STORM minus Plain",
        measure=_memorised,
        needs="STORM and Plain with a noise rate above 0",
    ),
    Claim(
        id="weights-part",
        paper="meta-rescaling",
        statement="Over training the weight of clean samples rises and that of wrong ones falls.",
        paper_figure="Analysis in the paper (curves, not readable to us).",
        measured="mean weight of right minus wrong labels, last third of the run minus first third",
        measure=_gap_growth,
        side="above",
        needs="STORM with a noise rate above 0",
    ),
    Claim(
        id="calibration-kept",
        paper="meta-rescaling",
        statement="Reweighting does not spoil the calibration.",
        paper_figure="Qualitative: calibration is kept.",
        measured="expected calibration error on test data, STORM minus Plain",
        measure=_calibration,
        threshold=0.02,
        needs="STORM and Plain",
    ),
    Claim(
        id="small-overhead",
        paper="meta-rescaling",
        statement="The overhead is small.",
        paper_figure="Qualitative: small overhead. The bar of a factor 2 is ours.",
        measured="median time of a STORM step over that of a plain step",
        measure=_overhead,
        threshold=2.0,
        unit="times",
        needs="STORM and Plain",
        caveat="With G = 4 our reconstruction computes about five times as much; on a network this small Python's own "
        "time comes on top.",
    ),
)

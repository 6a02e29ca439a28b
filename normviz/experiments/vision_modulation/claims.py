"""What the paper of the page *Vision modulation* claims, measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments.vision_modulation.knobs import ARM_NAMES
from normviz.experiments.vision_modulation.recorded import TOKENS
from normviz.frame import Log
from normviz.measures import Measure, absolute, constant, derived, scalar

__all__ = ["CLAIMS", "operations_until"]

TAIL = 3
"""Evaluations that are averaged for a final value."""
TESTED = 512
"""Test questions: the resolution of an accuracy is one of them."""
CONVERGED = 0.95
"""Accuracy from which a run of concatenation counts as converged, and the share of its final accuracy to be reached."""

ATTENTION, FROZEN, MLP, CONV, POOLED, CONCAT = (
    ARM_NAMES[kind] for kind in ("attention", "frozen", "mlp", "conv", "pooled", "concat")
)
LARGEST = TOKENS.index(1024)


def _final(arm: str) -> Measure:
    return scalar("accuracy", arm, window=TAIL, bad=-math.inf)


def _points_above(rival: str) -> Measure:
    """Final accuracy of LaVi attention minus that of another arm, in percentage points."""
    return (_final(ATTENTION) - _final(rival)) * 100.0


def _text_change(arm: str) -> Measure:
    """Loss on text without a picture at the end minus at the start, in nats per word."""
    return scalar("text_loss", arm) - scalar("text_loss", arm, reduce="max", since=0.0, until=0.0)


def operations_until(log: Log, arm: str, seed: int, goal: float) -> float:
    """Operations that one arm spent on forward passes, for one question each, until it first had an accuracy.

    Between two evaluations it is interpolated. Infinite if it never had it, NaN if nothing was measured.
    """
    table = log.scalars("accuracy")
    own = ((table["arm"] == arm) & (table["seed"] == seed)).to_numpy()
    steps, accuracy = table["step"].to_numpy()[own], table["value"].to_numpy()[own]
    each = _once(log, "flops", arm, seed)
    if not len(steps) or math.isnan(each):
        return math.nan
    return _first(steps.astype(float), accuracy, goal) * each


def _once(log: Log, name: str, arm: str, seed: int) -> float:
    table = log.scalars(name)
    values = table["value"].to_numpy()[((table["arm"] == arm) & (table["seed"] == seed)).to_numpy()]
    return float(values[-1]) if len(values) else math.nan


def _first(steps: NDArray[np.float64], values: NDArray[np.float64], goal: float) -> float:
    """Where a curve first reaches a value from below."""
    there = np.flatnonzero(values >= goal)
    if not len(there):
        return math.inf
    i = int(there[0])
    if i == 0:
        return float(steps[0])
    share = (goal - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def _operations_ratio(log: Log, knobs: Any) -> Mapping[int, float]:
    """Operations of LaVi over those of concatenation until each has 95 % of concatenation's final accuracy.

    A seed in which concatenation ends below 95 % is left out: it has not converged, and is not judged.
    """
    finals = _final(CONCAT)(log, knobs)
    found = {}
    for seed, final in finals.items():
        if final >= CONVERGED:
            ours, theirs = (operations_until(log, a, seed, CONVERGED * final) for a in (ATTENTION, CONCAT))
            found[seed] = ours / theirs
    return found


def _time_ratio(log: Log, knobs: Any) -> Mapping[int, float]:  # noqa: ARG001 - every measure takes both
    """Time of a forward pass with concatenation over that with LaVi, at 1,024 visual tokens."""
    times = {(e.arm, e.seed): float(e.value[LARGEST]) for e in log.array_history("ms_by_tokens")}
    seeds = [seed for arm, seed in times if arm == CONCAT and (ATTENTION, seed) in times]
    return {seed: times[CONCAT, seed] / times[ATTENTION, seed] for seed in seeds}


SIGHT = "Qualitative: conditioning by token is the method's core."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="choice-by-token",
        paper="lavi",
        statement="Because every word has its own change of gain and bias, it can read one place of the picture.",
        paper_figure=SIGHT + " The control is ours.",
        measured="final test accuracy of LaVi attention minus Pooled, where all words get the same change",
        measure=_points_above(POOLED),
        rule=Effect("above", floor=10.0),
        preset="four-cells",
        unit="points",
        resolution=100 / TESTED,
    ),
    Claim(
        id="host-at-the-start",
        paper="lavi",
        statement="Before the first step the modulated model is the language model, whatever the picture.",
        paper_figure="Follows from a zero start, which is our reading of the paper.",
        measured="largest difference of a logit with a picture from the language model's without one",
        measure=constant("start_change", ATTENTION, reduce="max"),
        rule=Identity("below", 1e-6),
        preset="four-cells",
    ),
    Claim(
        id="faster-with-many-tokens",
        paper="lavi",
        statement="With many visual tokens LaVi is faster than tokens placed before the text.",
        paper_figure="3.1 times faster than LLaVA-OV-7B.",
        measured="time of a forward pass, Concat over LaVi attention, at 1,024 visual tokens",
        measure=derived(_time_ratio, arms=(ATTENTION, CONCAT)),
        rule=Effect("above", floor=0.2, bar=2.1, null=1.0),
        preset="four-cells",
        unit="times",
        caveat="The decoder of this page, without an image encoder, which the paper's time includes.",
    ),
    Claim(
        id="arithmetic-saved",
        paper="lavi",
        statement="LaVi saves 94 % of the arithmetic of a 7B model that reads the picture as tokens.",
        paper_figure="94.0 % fewer FLOPs than LLaVA-OV-7B.",
        measured="share of operations saved by the formulas: Qwen2-7B's shape, 7,290 visual tokens, 64 words, "
        "seven modulated blocks, r = 896",
        measure=constant("saved_at_7b", ATTENTION),
        rule=Identity("above", 94.0),
        preset="four-cells",
        unit="%",
        caveat="A formula, no measurement. The paper's number has its own settings and probably the image encoder.",
    ),
    Claim(
        id="language-kept",
        paper="lavi",
        statement="With the host frozen, what the model knows of text without a picture is untouched.",
        paper_figure="Qualitative: the language model's prior is kept.",
        measured="absolute change of the loss on text alone, LaVi with the host frozen",
        measure=absolute(_text_change(FROZEN)),
        rule=Identity("below", 1e-6),
        preset="keep-the-language",
        unit="nats per word",
    ),
    Claim(
        id="concatenation-forgets",
        paper="lavi",
        statement="Fine-tuning on concatenated tokens costs knowledge of text that LaVi keeps.",
        paper_figure="Qualitative: the language model's prior is kept.",
        measured="rise of the loss on text alone, Concat minus LaVi with the host frozen",
        measure=_text_change(CONCAT) - _text_change(FROZEN),
        rule=Effect("above", floor=0.05),
        preset="keep-the-language",
        unit="nats per word",
        caveat="Freezing is what protects: LaVi with everything trained is an arm of the same chart.",
    ),
    Claim(
        id="frozen-host-sees",
        paper="lavi",
        statement="A frozen language model learns to see through its norms alone.",
        paper_figure="First stage of training: only projector and conditioners.",
        measured="final test accuracy, LaVi with the host frozen minus Concat",
        measure=(_final(FROZEN) - _final(CONCAT)) * 100.0,
        rule=Bound("above", -5.0),
        preset="keep-the-language",
        unit="points",
        resolution=100 / TESTED,
    ),
    Claim(
        id="attention-is-best",
        paper="lavi",
        statement="Among the conditioners the one by attention is best.",
        paper_figure="Table 4: attention is best (its figures were not readable to us).",
        measured="final test accuracy of LaVi attention minus that of another conditioner",
        measure={name: _points_above(name) for name in (MLP, CONV, POOLED)},
        rule=Effect("above", floor=1.0),
        preset="four-conditioners",
        unit="points",
        resolution=100 / TESTED,
        caveat="Once several conditioners answer everything right, this world cannot tell them apart.",
    ),
    Claim(
        id="fewer-operations",
        paper="lavi",
        statement="LaVi reaches the accuracy of concatenated tokens with less arithmetic.",
        paper_figure="State-of-the-art or comparable at 94 % fewer FLOPs (disputed by a reviewer).",
        measured="operations until 95 % of Concat's final accuracy, LaVi attention over Concat; seeds in which Concat "
        "ends below 95 % right are not judged",
        measure=derived(_operations_ratio, arms=(ATTENTION, CONCAT)),
        rule=Effect("below", floor=0.1, null=1.0),
        preset="row-and-column",
        given={"question": "row-column"},
        unit="times",
        caveat="Forward passes by the formulas, without projector and embeddings, which are the same for both.",
    ),
    Claim(
        id="words-that-matter",
        paper="lavi",
        statement="Words that have to do with the picture are modulated more than others.",
        paper_figure="Figure 7: nouns and verbs get the strongest modulation.",
        measured="size of the change of gain and bias, the word that asks over the words before it",
        measure=scalar("question_words", ATTENTION) / scalar("words_before", ATTENTION),
        rule=Effect("above", floor=0.1, null=1.0),
        preset="which-words",
        given={"filler": lambda filler: filler > 0},
        given_words="words before the question",
        unit="times",
    ),
)

"""The experiment behind the page: what it trains, draws and claims."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest

from normviz.experiments import normalization_statistics as ns
from normviz.experiments.normalization_statistics.claims import CLAIMS
from normviz.experiments.normalization_statistics.knobs import NORMS, REFERENCE, arm_names
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError

CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {
    "steps": 10,
    "seeds": 1,
    "batch_size": 4,
    "small_batch": 2,
    "reference": False,
    "warmup": 5,
}


def test_first_frames_come_at_once() -> None:
    frames = list(islice(ns.EXPERIMENT.frames(ns.Knobs(), "cpu"), 3))
    assert [f.step for f in frames] == [0, 0, 0]


@pytest.mark.parametrize("task", ["language", "vision", "recurrent"])
def test_every_norm_trains_on_every_task(task: str) -> None:
    run = ns.run(ns.Knobs(task=task, norms=tuple(NORMS), **TINY), device="cpu")
    assert run.status == "done"
    assert run.log.arms == arm_names(run.knobs)
    per_member = run.log.scalars("loss").groupby(["arm", "seed"]).size()
    assert (per_member == 10).all()
    assert not run.log.events
    drawn = {name for name, figure in run.figures().items() if figure.data is not None and len(figure.data)}
    assert {
        "loss",
        "validation",
        "fluctuation",
        "train_eval",
        "activations",
        "gradients",
        "filtration",
    } <= drawn


def test_same_seed_same_numbers() -> None:
    knobs = ns.Knobs(norms=("layer", "power"), **TINY)
    first, second = (ns.run(knobs, device="cpu").log.scalars("loss")["value"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_vision_is_shown_beside_language() -> None:
    knobs = ns.Knobs(norms=("batch",), **{**TINY, "reference": True})
    log = ns.run(knobs, device="cpu").log
    assert log.arms == ["BatchNorm", REFERENCE]
    assert set(log.scalars("gap/var")["arm"]) == {"BatchNorm", REFERENCE}


def test_layer_norm_is_the_same_in_both_modes_and_batch_norm_is_not() -> None:
    log = ns.run(ns.Knobs(norms=("layer", "batch"), **TINY), device="cpu").log
    gap = log.scalars("train_minus_eval").groupby("arm")["value"].agg(lambda v: v.abs().max())
    assert gap["LayerNorm"] < 1e-6 < gap["BatchNorm"]


def test_outliers_reach_every_kth_batch_only() -> None:
    from normviz.data import load_digits
    from normviz.experiments.normalization_statistics.frames import _digit_batches

    knobs = ns.Knobs(task="vision", outlier_every=3, outlier_factor=10.0)
    plain = ns.Knobs(task="vision")
    digits = load_digits("image")
    for step in range(6):
        noisy, clean = (_digit_batches(k, digits, 4)(0, step)[0] for k in (knobs, plain))
        factor = 10.0 if step in (2, 5) else 1.0
        np.testing.assert_allclose(noisy[0], clean[0] * factor, rtol=1e-6)
        np.testing.assert_array_equal(noisy[1:], clean[1:])


def test_sorted_digit_batches_hold_one_class_for_a_while() -> None:
    from normviz.data import load_digits
    from normviz.experiments.normalization_statistics.frames import TOPIC_RUN, _digit_batches

    batches = _digit_batches(ns.Knobs(task="vision", sorted_batches=True), load_digits("image"), 8)
    labels = [batches(0, step)[1].tolist() for step in range(2 * TOPIC_RUN)]
    assert all(len(set(batch)) == 1 for batch in labels)
    assert len({batch[0] for batch in labels[:TOPIC_RUN]}) == 1


def test_fusion_is_measured_after_a_language_run() -> None:
    log = ns.run(ns.Knobs(norms=("layer", "unified"), **TINY), device="cpu").log
    assert log.final("fused/max_difference")["value"].item() < 1e-4
    assert 0 < log.final("fused/memory_ratio")["value"].item() < 1


def test_too_much_work_is_refused_with_what_fits() -> None:
    with pytest.raises(KnobError, match=r"at most \d+ steps fit"):
        ns.Knobs.parse({"steps": 1000, "seeds": 5, "batch_size": 128, "norms": tuple(NORMS)})


def log_of(task: dict[str, dict[int, list[float]]], name: str) -> FrameLog:
    """A log of one scalar from ``{arm: {seed: values at steps 0, 1, …}}``."""
    return FrameLog(
        Frame(step, arm, seed, {name: value})
        for arm, seeds in task.items()
        for seed, values in seeds.items()
        for step, value in enumerate(values)
    )


def test_paired_validation_claim() -> None:
    log = log_of(
        {
            "PowerNorm": {0: [9, 1.0, 1.0, 1.0], 1: [9, 1.1, 1.1, 1.1]},
            "LayerNorm": {0: [9, 1.5, 1.5, 1.5], 1: [9, 1.62, 1.62, 1.62]},
        },
        "validation_loss",
    )
    verdict = CLAIM["power-beats-layer"].verdict(log, ns.Knobs())
    assert verdict.per_seed == pytest.approx({0: -0.5, 1: -0.52})
    assert verdict.outcome == "reproduced"
    assert CLAIM["power-beats-layer"].verdict(log, ns.Knobs(task="vision")).outcome == "undecided"


def test_fluctuation_claim_is_in_orders_of_magnitude() -> None:
    values = {"BatchNorm": {0: [5.0, 1.0], 1: [5.0, 2.0]}, REFERENCE: {0: [5.0, 0.01], 1: [5.0, 0.02]}}
    verdict = CLAIM["language-fluctuates"].verdict(log_of(values, "gap/var"), ns.Knobs())
    assert verdict.per_seed == pytest.approx({0: 2.0, 1: 2.0})
    assert verdict.outcome == "reproduced"


def test_updates_saved_by_layer_norm() -> None:
    steps = np.arange(40)
    log = log_of(
        {"No norm": {0: list(4 - 0.05 * steps)}, "LayerNorm": {0: list(4 - 0.1 * steps)}},
        "loss",
    )
    knobs = ns.Knobs(task="recurrent", norms=("layer", "none"))
    verdict = CLAIM["layer-faster-in-rnn"].verdict(log, knobs)
    plain_end = np.mean(4 - 0.05 * steps[-10:])
    smooth = [np.mean(4 - 0.1 * steps[max(0, i - 9) : i + 1]) for i in steps]
    assert verdict.per_seed[0] == int(np.argmax(np.array(smooth) <= plain_end)) - 39
    assert math.isinf(verdict.low)


def test_invariance_table_is_counted() -> None:
    log = ns.run(ns.Knobs(norms=("layer",), **TINY), device="cpu").log
    verdict = CLAIM["invariance-table"].verdict(log, ns.Knobs())
    assert verdict.outcome == "reproduced"
    assert verdict.estimate == 18


def test_invariance_lab_shows_the_papers_table_at_full_strength() -> None:
    log = ns.run(ns.Knobs(norms=("layer",), **TINY), device="cpu").log
    figure = ns.EXPERIMENT.figures(log, ns.Knobs(norms=("layer",)))["invariances"]
    assert figure.data is not None
    strongest = figure.data[figure.data["k"] == 20].groupby("normaliser", sort=False)["unmoved"].agg(list)
    assert strongest["batch norm"] == [True, False, True, True, True, False]
    assert strongest["weight norm"] == [True, False, True, False, False, False]
    assert strongest["layer norm"] == [True, True, False, True, False, True]
    assert figure.data.loc[figure.data["k"] == 0, "unmoved"].all()


def test_claims_have_distinct_ids_and_known_papers() -> None:
    assert len(CLAIM) == len(CLAIMS)
    assert {c.paper for c in CLAIMS} <= set(ns.EXPERIMENT.papers)


def test_figures_of_an_empty_log_say_so() -> None:
    for task in ("language", "vision", "recurrent"):
        for figure in ns.EXPERIMENT.figures(FrameLog(), ns.Knobs(task=task)).values():
            assert "nothing is measured yet" in figure.alt or "0 of 0" in figure.alt

"""The experiment behind the page *Noisy labels*: what it trains, draws and claims."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.experiments import noisy_labels as nl
from normviz.experiments.noisy_labels.claims import CLAIMS
from normviz.experiments.noisy_labels.frames import auc, calibration_error
from normviz.experiments.noisy_labels.knobs import ARM_NAMES, WEIGHTING, Knobs, arm_name
from normviz.experiments.noisy_labels.learners import Batches, StormLearner, build_learner
from normviz.experiments.noisy_labels.omega_grid import grid_cells, grid_features
from normviz.experiments.noisy_labels.operations import operations_of_update
from normviz.experiments.noisy_labels.recorded import BINS, CLASSES, WEIGHT_RANGE
from normviz.experiments.noisy_labels.tasks import build_task
from normviz.frame import Frame, FrameLog
from normviz.testing import log_of_series

CLAIM = {claim.id: claim for claim in CLAIMS}
CPU = torch.device("cpu")
TINY: dict[str, Any] = {"steps": 50, "seeds": 1, "batch_size": 8, "passes": 1, "burn_in": 20}


def run_few(steps: int, **knobs: Any) -> FrameLog:
    """The frames of the first few steps of a run."""
    setting = Knobs(**{**TINY, **knobs})
    members = len(setting.arms) * setting.seeds
    count = 1 + members * (steps + 1) + members * (1 + steps // 10)
    return FrameLog(islice(nl.EXPERIMENT.frames(setting, "cpu"), count))


@pytest.mark.parametrize(
    ("task", "noise"),
    [("digits", "symmetric"), ("digits", "instance"), ("text", "pair"), ("text", "class_dependent")],
)
def test_every_arm_trains_on_every_task(task: str, noise: str) -> None:
    log = run_few(12, task=task, noise=noise, arms=tuple(ARM_NAMES), imbalance=3.0)
    knobs = Knobs(**TINY, task=task, noise=noise, arms=tuple(ARM_NAMES), imbalance=3.0)
    assert log.arms == list(knobs.shown_arms())
    assert not log.events
    losses = log.scalars("loss")
    assert np.isfinite(losses["value"]).all()
    assert losses["arm"].nunique() == len(ARM_NAMES)
    assert set(log.scalars("weight/right")["arm"]) == {arm_name(kind, knobs) for kind in WEIGHTING}
    for figure in nl.EXPERIMENT.figures(log, knobs).values():
        assert figure.data is not None
        assert len(figure.data), figure.title
        assert "nothing is measured yet" not in figure.alt.lower()


def test_a_whole_run_and_its_verdicts() -> None:
    run = nl.run(Knobs(**{**TINY, "n_inner": 3, "validation": "clean", "seeds": 2}), device="cpu")
    assert run.status == "done"
    assert "STORM, clean" in run.log.arms
    assert (run.log.scalars("loss").groupby(["arm", "seed"]).size() == 50).all()
    assert run.log.scalars("accuracy")["step"].max() == 50
    verdicts = run.verdicts()
    assert set(verdicts) == set(CLAIM)
    assert set(verdicts["beats-plain"].per_seed) == {0, 1}
    assert set(verdicts["small-overhead-in-operations"].per_seed) == {0, 1}
    assert not verdicts["harmless-on-clean-data"].per_seed


def test_same_seed_same_numbers_whatever_runs_beside_it() -> None:
    alone = run_few(15, arms=("storm",)).scalars("loss")["value"].to_numpy()
    both = run_few(15, arms=("plain", "storm", "l2rw")).scalars("loss")
    np.testing.assert_array_equal(alone[:10], both[both["arm"] == "STORM"]["value"].to_numpy()[:10])


def test_seeds_trained_apart_give_the_same_frames() -> None:
    knobs = Knobs(**{**TINY, "seeds": 2, "first_seed": 4}, arms=("storm", "l2rw"))
    whole = [frame for frame in nl.EXPERIMENT.frames(knobs, "cpu") if frame.seed == 5]
    alone = list(nl.EXPERIMENT.frames(knobs.for_seeds([5]), "cpu"))
    assert [(f.step, f.arm) for f in alone] == [(f.step, f.arm) for f in whole]
    for a, b in zip(alone, whole, strict=True):
        assert a.values.keys() == b.values.keys()
        assert "least_looks" not in a.values
        for name in a.values.keys() - {"step_ms"}:
            np.testing.assert_array_equal(a.values[name], b.values[name])


def test_storm_equals_plain_in_the_burn_in() -> None:
    task, knobs = build_task(Knobs(), 0, CPU), Knobs(burn_in=10, batch_size=8)
    learners = [build_learner(arm, task, knobs, 0) for arm in ("plain", "storm")]
    for learner in learners:
        for step in range(3):
            torch.manual_seed(step)
            learner.update(Batches(*(torch.arange(8) + 8 * k for k in range(3))))
    for p, q in zip(*(learner.model.parameters() for learner in learners), strict=True):
        assert torch.equal(p, q)
    assert isinstance(learners[1], StormLearner)
    assert learners[1].storm.rescaler.state_dict()["layer2.weight"].any()


def test_a_run_without_noise_has_no_wrong_labels_to_draw() -> None:
    log = run_few(12, rate=0.0)
    assert {"memorised", "weight/wrong", "auc"}.isdisjoint(log.scalar_names)
    figures = nl.EXPERIMENT.figures(log, Knobs(**TINY, rate=0.0))
    assert figures["histogram"].data is not None
    assert set(figures["histogram"].data["layer"]) == {"right"}
    assert figures["histogram"].alt.startswith("Histograms of weights at step 10")


def test_the_time_of_an_update_is_that_of_whole_rounds() -> None:
    log = run_few(21, n_inner=2, arms=("plain", "storm"))
    table = log.scalars("step_ms")
    assert table["step"].unique().tolist() == [9, 19]
    median = table.groupby("arm")["value"].median()
    assert median["STORM"] > median["Plain"] > 0


def test_a_diverged_member_stops_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from normviz.experiments.noisy_labels.learners import SmallLossLearner

    monkeypatch.setattr(SmallLossLearner, "update", lambda self, batches: math.nan)
    log = run_few(12, arms=("plain", "small_loss"))
    assert [(e.arm, e.step) for e in log.events] == [("Small-loss", 0)]
    assert "diverged at step 0" in log.events[0].text
    assert log.scalars("loss").groupby("arm")["step"].max()["Plain"] > 5


@pytest.mark.parametrize(("n_inner", "passes"), [(1, 1), (1, 4), (3, 2)])
def test_operations_are_those_of_the_products(n_inner: int, passes: int) -> None:
    """Products of an MLP 64-128-10 and of the rescaler 7-16-1, counted by hand: two operations per multiplication."""
    knobs = Knobs(batch_size=8, n_inner=n_inner, passes=passes, arms=("plain", "storm"))
    task, rows = build_task(knobs, 0, CPU), 8

    def batches(step: int) -> Batches:
        return Batches(*(torch.arange(rows) + rows * (k + step) for k in range(3)))

    counted = {
        kind: operations_of_update(kind, build_learner(kind, task, knobs, 0), 0, batches)
        for kind in ("plain", "storm")
    }
    first, second = 64 * 128, 128 * 10
    forward, backward = first + second, first + 2 * second  # no gradient is passed on to the inputs
    assert counted["plain"] == 2 * rows * (forward + backward)
    inner = n_inner * (passes * forward + forward + backward)
    rescaler, learns = 7 * 16 + 16, 16 + 16 + 7 * 16
    weights = n_inner * rescaler + 2 * (rescaler + learns)
    outer = passes * forward + forward + backward
    known = 2 * rows * (inner + outer + weights) / n_inner
    # The forward pass again with tangents: two or, where torch multiplies by tangents that are zero, three products.
    tangents = 2 * rows * forward / n_inner
    assert known + 2 * tangents <= counted["storm"] <= known + 3 * tangents


def test_a_wider_network_starts_alike_in_every_arm() -> None:
    knobs = Knobs(width_factor=3)
    task = build_task(knobs, 0, CPU)
    shapes = {
        kind: [tuple(p.shape) for p in build_learner(kind, task, knobs, 0).model.parameters()]
        for kind in ("plain", "storm")
    }
    assert shapes["plain"] == shapes["storm"] == [(384, 64), (384,), (10, 384), (10,)]


# ---------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("task", ["digits", "text"])
def test_tasks_keep_trusted_test_and_training_data_apart(task: str) -> None:
    clean, noisy = (build_task(Knobs(task=task, rate=rate), 3, CPU) for rate in (0.0, 0.4))
    assert clean.num_classes == CLASSES[task]
    assert torch.equal(clean.true, noisy.true)
    assert torch.equal(clean.x, noisy.x)
    assert int(noisy.flipped.sum()) == round(0.4 * len(noisy.y))
    assert torch.equal(noisy.flipped, noisy.y != noisy.true)
    assert torch.bincount(noisy.y_trusted).tolist() == [10] * noisy.num_classes
    rows = {tuple(row) for row in noisy.x.tolist()}
    assert not rows & {tuple(row) for row in noisy.x_trusted.tolist()}
    assert noisy.looks.shape == (len(noisy.y), 64 if task == "digits" else 160)
    assert not torch.equal(build_task(Knobs(task=task), 4, CPU).y, noisy.y)


@pytest.mark.parametrize(("data", "values"), [("mnist1d", 40), ("mnist", 784)])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str, values: int) -> None:
    knobs = Knobs(**TINY, data=data)
    task = build_task(knobs, 0, CPU)
    assert task.x.shape[1] == task.looks.shape[1] == values
    correlation = np.corrcoef(task.looks[:50].ravel(), task.x[:50].numpy().ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-5)
    log = run_few(12, data=data, arms=("plain", "storm"))
    assert not log.events
    figure = nl.EXPERIMENT.figures(log, knobs)["least"]
    assert figure.data is not None
    drawn = figure.data[figure.data["kind"] == ""]
    looks = next(e.value for e in log.arrays("least_looks") if e.arm == "STORM")
    assert looks.shape == (18, values)
    assert drawn["value"].max() == pytest.approx(looks.max())
    assert ("Signals" in figure.alt) == (data == "mnist1d")
    assert Knobs(task="text", data=data).missing() == ""


def test_imbalance_is_the_ratio_of_largest_to_smallest_class() -> None:
    counts = torch.bincount(build_task(Knobs(imbalance=5.0, rate=0.0), 0, CPU).true)
    assert counts[0] / counts[-1] == pytest.approx(5, rel=0.1)
    assert (counts[:-1] >= counts[1:] - 8).all()


def test_digits_look_like_their_inputs() -> None:
    task = build_task(Knobs(), 0, CPU)
    correlation = np.corrcoef(task.looks[:50].ravel(), task.x[:50].numpy().ravel())[0, 1]
    assert correlation == pytest.approx(1, abs=1e-5)
    assert 0 <= task.looks.min() < task.looks.max() <= 16


# -------------------------------------------------------------------------------------------- measurements


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12)
)
def test_auc_counts_ordered_pairs(high: list[int], low: list[int]) -> None:
    score = torch.tensor([*high, *low], dtype=torch.float64)
    positive = torch.tensor([True] * len(high) + [False] * len(low))
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in high for b in low]
    assert auc(score, positive) == pytest.approx(float(np.mean(pairs)))


def test_auc_of_one_side_is_nan() -> None:
    assert math.isnan(auc(torch.ones(3), torch.ones(3, dtype=torch.bool)))


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.91, 0.55, 0.52])
    hits = torch.tensor([True, False, True, True])
    want = (abs(0.5 - 0.93) * 2 + abs(1 - 0.535) * 2) / 4
    assert calibration_error(confidence, hits) == pytest.approx(want, abs=1e-6)


def test_grid_features_are_those_of_such_samples() -> None:
    """Rebuild a probability vector for every cell and compute the features from it."""
    C = 10
    cells, features = grid_cells(C), grid_features(C, 0.1)
    assert {True, False} == set(np.isclose(cells[:, 0], cells[:, 1]))
    for (p_y, p_max), f in zip(cells, features, strict=True):
        p = np.empty(C)
        if math.isclose(p_y, p_max):
            p[:] = (1 - p_y) / (C - 1)
        else:
            p[:] = (1 - p_y - p_max) / (C - 2)
            p[1] = p_max
        p[0] = p_y
        assert p.min() > -1e-9
        assert p.sum() == pytest.approx(1)
        entropy = -sum(q * math.log(q) for q in p if q > 1e-12) / math.log(C)
        want = [1 - p_y, p_y, p.max(), entropy, (1 + p_y - p[1:].max()) / 2]
        np.testing.assert_allclose(f[:5], want, atol=1e-5)
        assert f[6] == (p.argmax() == 0)
        assert 0 <= f[5] <= 0.1


def test_weights_that_are_logged_fit_together() -> None:
    log = run_few(12, arms=("small_loss", "storm"))
    task = build_task(Knobs(**TINY), 0, CPU)
    share = float(task.flipped.double().mean())
    means = {k: log.final(f"weight/{k}").set_index("arm")["value"] for k in ("right", "wrong")}
    for arm in ("Small-loss", "STORM"):
        mean = (1 - share) * means["right"][arm] + share * means["wrong"][arm]
        assert mean == pytest.approx(1, abs=1e-3)
    histogram = log.arrays("weight_histogram")[0].value
    width = (WEIGHT_RANGE[1] - WEIGHT_RANGE[0]) / BINS
    np.testing.assert_allclose(histogram.sum(1) * width, 1, rtol=1e-5)
    facts = next(e.value for e in log.arrays("least_facts") if e.arm == "Small-loss")
    assert (facts[:, 0] == 0).all()
    assert facts.shape == (18, 4)


# --------------------------------------------------------------------------------------------------- claims


def test_accuracy_claims_and_where_they_apply() -> None:
    log = log_of_series(
        "accuracy",
        {
            "STORM": {0: [0, 0.9, 0.9, 0.9, 0.9, 0.9], 1: [0, 0.9, 0.9, 0.92, 0.91, 0.93]},
            "Plain": {0: [0, 0.8, 0.8, 0.8, 0.8, 0.8], 1: [0, 0.8, 0.8, 0.8, 0.8, 0.83]},
        },
        every=10,
    )
    base = {"steps": 50, "arms": ("plain", "storm")}
    settings = {
        "beats-plain": {},
        "harmless-on-clean-data": {"rate": 0.0},
        "class-imbalance": {"imbalance": 4.0},
        "instance-noise": {"noise": "instance"},
        "cheap-and-better": {"n_inner": 4, "passes": 2},
    }
    for claim, setting in settings.items():
        knobs = Knobs(**base, **setting)
        verdict = CLAIM[claim].verdict(log, knobs)
        assert verdict.per_seed == pytest.approx({0: 10.0, 1: 11.0})
        assert verdict.outcome == "reproduced"
        other = Knobs(**base) if setting else Knobs(**base, rate=0.0)
        assert not CLAIM[claim].verdict(log, other).measured


def test_a_diverged_storm_has_lost() -> None:
    log = log_of_series(
        "accuracy",
        {"Plain": {s: [0.1] * 6 for s in (0, 1)}, "STORM": {s: [0.9] * 2 for s in (0, 1)}},
        every=10,
    )
    log.extend(Frame.diverged(20, "STORM", s, "the training loss is inf") for s in (0, 1))
    verdict = CLAIM["beats-plain"].verdict(log, Knobs(steps=50))
    assert verdict.outcome == "opposite"
    assert set(verdict.per_seed.values()) == {-math.inf}


def test_a_loss_of_half_a_point_on_clean_data_is_allowed_and_two_are_not() -> None:
    for loss, outcome in ((0.005, "reproduced"), (0.05, "opposite")):
        values = {
            "STORM": {s: [0.95 - loss] * 6 for s in range(5)},
            "Plain": {s: [0.95] * 6 for s in range(5)},
        }
        knobs = Knobs(rate=0.0, steps=50, seeds=5)
        assert (
            CLAIM["harmless-on-clean-data"]
            .verdict(log_of_series("accuracy", values, every=10), knobs)
            .outcome
            == outcome
        )


@pytest.mark.parametrize(
    ("claim", "name"), [("no-memorising", "memorised"), ("calibration-kept", "calibration_error")]
)
def test_claims_of_a_difference(claim: str, name: str) -> None:
    log = log_of_series(
        name, {"STORM": {0: [0.1] * 6, 1: [0.2] * 6}, "Plain": {0: [0.4] * 6, 1: [0.4] * 6}}, every=10
    )
    assert CLAIM[claim].verdict(log, Knobs(steps=50)).per_seed == pytest.approx({0: -30.0, 1: -20.0})


def test_the_gap_of_weights_must_grow() -> None:
    log = log_of_series("weight_gap", {"STORM": {0: [0.0, 0.2, 0.4, 9, 9, 9, 1.0, 1.2, 1.4, 1.6]}}, every=10)
    verdict = CLAIM["weights-part"].verdict(log, Knobs(steps=90, seeds=1))
    assert verdict.per_seed == pytest.approx({0: 1.3 - (0.0 + 0.2 + 0.4 + 9) / 4})


def test_overhead_is_a_ratio_of_medians() -> None:
    log = log_of_series("step_ms", {"STORM": {0: [10, 50, 12]}, "Plain": {0: [2, 2, 900]}}, every=10)
    knobs = Knobs(seeds=1, steps=50).model_copy(update={"steps": 21})
    assert CLAIM["small-overhead"].verdict(log, knobs).per_seed == {0: 6.0}
    assert not CLAIM["small-overhead"].verdict(FrameLog(), knobs).per_seed


# ------------------------------------------------------------------------------------------- arms and figures


def test_arms_have_their_colours_and_tell_the_two_mw_nets_apart() -> None:
    arms = Knobs(arms=tuple(ARM_NAMES), validation="clean").shown_arms()
    assert [look.colour for look in arms.looks] == [6, 1, 5, 3, 0, 2, 4, 3]
    assert "STORM, clean" in arms
    assert arms["MW-Net"].dash != arms["MW-Net, clean"].dash


def test_the_stage_follows_the_setting() -> None:
    sheet = nl.EXPERIMENT.sheet
    assert list(sheet(Knobs()).stage) == ["least", "accuracy", "weights", "omega", "histogram", "memorised"]
    assert "by_class" in sheet(nl.EXPERIMENT.setting("collapse")).stage
    assert "memorised" not in sheet(Knobs(rate=0.0)).drawers
    assert list(sheet(Knobs(arms=("plain",))).stage) == ["accuracy", "memorised"]


def test_scrubbing_back_shows_the_earlier_moment() -> None:
    log = run_few(22)
    knobs = Knobs(**TINY)
    early, late = (nl.EXPERIMENT.figures(log, knobs, step) for step in (0, None))
    assert (early["least"].moment, late["least"].moment) == ("step 0", "step 20")
    assert early["omega"].moment == "step 0"
    assert early["least"].title == late["least"].title


def test_pictures_say_label_and_truth() -> None:
    looks = np.arange(2 * 64, dtype=np.float32).reshape(2, 64) / 8
    facts = np.array([[0.01, 3, 8, 8], [0.2, 5, 5, 5]], dtype=np.float32)
    frame = Frame(7, "STORM", 0, {"least_looks": looks, "least_facts": facts})
    figure = nl.EXPERIMENT.figures(FrameLog([frame]), Knobs())["least"]
    assert figure.data is not None
    whole = figure.data[figure.data["kind"] != ""]
    assert whole["caption"].tolist() == ["3 (is 8)", "5"]
    assert whole["kind"].tolist() == ["wrong label", "right label"]
    assert "1 of these 2 labels are wrong" in figure.alt
    assert "labelled 3, is 8, weight 0.01" in figure.alt


def test_passages_can_be_read() -> None:
    codes = np.array([[ord(c) for c in "x" * 160]], dtype=np.float32)
    facts = np.array([[0.01, 3, 7, 7]], dtype=np.float32)
    frame = Frame(7, "STORM", 0, {"least_looks": codes, "least_facts": facts})
    figure = nl.EXPERIMENT.figures(FrameLog([frame]), Knobs(task="text"))["least"]
    assert figure.data is not None
    assert figure.data["text"].iloc[0].replace("\N{NO-BREAK SPACE}", " ").startswith("3 (is 7)  xxx")

"""The page *Self-normalizing networks*: every arm, the theorems, claims on hand-made logs, figures, limits."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from normviz.experiments.self_normalizing import EXPERIMENT, Knobs
from normviz.experiments.self_normalizing.figures import THEORY, drawn_layers
from normviz.experiments.self_normalizing.knobs import ARMS, arm_name, arm_names
from normviz.experiments.self_normalizing.theorems import theorem_values
from normviz.frame import Frame, FrameLog

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
ALL = tuple(ARMS)


def run(**values: object) -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**values), "cpu"))  # type: ignore[arg-type]


def test_first_frames_come_before_any_work() -> None:
    first = list(itertools.islice(EXPERIMENT.frames(Knobs(), "cpu"), 3))
    assert [(f.step, f.arm, f.seed) for f in first] == [(0, "SNN", 0), (0, "SNN", 1), (0, "SNN", 0)]
    assert first[0].values == {}
    assert first[2].values["theorem/fixed_point_norm"] == pytest.approx(0.7877, abs=5e-4)


@pytest.mark.parametrize("data", ["digits", "breast_cancer", "wine"])
def test_every_arm_trains_on_every_data_set(data: str) -> None:
    knobs = Knobs(data=data, arms=ALL, depth=3, width=16, steps=10, seeds=1, batch_size=256)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.arms == arm_names(knobs)
    assert log.events == []
    losses = log.scalars("loss")
    assert (losses.groupby("arm").size() == 10).all()
    for name in ("validation_loss", "validation_accuracy", "grad_norm"):
        assert set(log.scalars(name)["arm"]) == set(log.arms)
    for entry in log.arrays("var_by_layer"):
        assert entry.value.shape == (4,)
    for entry in log.arrays("gradient_by_layer"):
        assert entry.value.shape == (3,)
    assert {entry.value.shape[0] for entry in log.arrays("activations")} == {3}


def test_second_depth_gives_twins_of_that_depth() -> None:
    knobs = Knobs(arms=("snn", "relu_bn"), depth=4, second_depth=2, width=16, steps=10, seeds=1)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.arms == ["SNN", "ReLU + BN", "SNN, depth 2", "ReLU + BN, depth 2"]
    layers = {entry.arm: len(entry.value) - 1 for entry in log.arrays("var_by_layer")}
    assert layers == {"SNN": 4, "ReLU + BN": 4, "SNN, depth 2": 2, "ReLU + BN, depth 2": 2}
    assert EXPERIMENT.verdicts(log, knobs)["depth-pays"].per_seed.keys() == {0}


def test_runs_with_dropout_repeat_exactly() -> None:
    values = {
        "arms": ("snn_alpha", "snn_dropout"),
        "depth": 3,
        "width": 16,
        "steps": 10,
        "seeds": 1,
        "dropout": 0.3,
    }
    one, two = (run(**values).scalars("loss")["value"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_another_fixed_point_is_kept_through_the_layers() -> None:
    log = run(
        arms=("snn", "snn_alpha"), depth=12, width=256, steps=10, seeds=1, fixed_mean=0.2, fixed_var=2.0
    )
    for arm in log.arms:
        var, mean = (
            next(e.value for e in log.arrays(f"{name}_by_layer", 0) if e.arm == arm)
            for name in ("var", "mean")
        )
        assert var[-1] == pytest.approx(2.0, rel=0.35)
        assert mean[-1] == pytest.approx(0.2, abs=0.15)


def test_scaled_inputs_have_that_scale() -> None:
    small, large = (
        run(arms=("relu",), depth=2, width=16, steps=10, seeds=1, input_scale=s)
        .arrays("var_by_layer", 0)[0]
        .value
        for s in (1.0, 4.0)
    )
    np.testing.assert_allclose(large, 16 * small, rtol=1e-4)


def test_theorems_are_those_of_the_card() -> None:
    values = theorem_values()
    assert values["theorem/contraction"] == pytest.approx(0.898, abs=1e-3)
    assert values["theorem/large_variance"] == pytest.approx(-0.1197, abs=1e-4)
    assert values["theorem/small_variance"] == pytest.approx(0.0077, abs=1e-4)


def final(name: str, values: dict[str, float], window: int) -> FrameLog:
    """A log whose last values of a scalar are given, the same for seeds 0 and 1 up to 0.001 seed."""
    return FrameLog(
        Frame(step, arm, seed, {name: value + 0.001 * seed})
        for arm, value in values.items()
        for seed in (0, 1)
        for step in range(window)
    )


def test_race_claims_compare_the_named_arms() -> None:
    accuracy = final("validation_accuracy", {"SNN": 90.0, "SNN, α dropout": 20.0, "ReLU + BN": 60.0}, 3)
    measured = {
        id: claim.measure(accuracy, Knobs()) for id, claim in CLAIMS.items() if id.startswith("better-than")
    }
    assert measured["better-than-batch-norm"] == pytest.approx({0: 30.0, 1: 30.0})
    assert measured["better-than-batch-norm-with-dropout"] == pytest.approx({0: -40.0, 1: -40.0})
    assert measured["better-than-layer-norm"] == {}
    assert CLAIMS["better-than-batch-norm"].measure(accuracy, Knobs(depth=31)) == {}
    losses = final("loss", {"SNN": 0.25, "ReLU": 1.0}, 10)
    assert CLAIMS["trains-deep"].measure(losses, Knobs()) == pytest.approx({0: -0.75, 1: -0.75})


def test_worst_variance_is_the_largest_octave_of_a_hidden_layer() -> None:
    log = FrameLog(
        Frame(step, "SNN", 0, {"var_by_layer": np.array(values)})
        for step, values in enumerate([[9.0, 1.0, 2.0], [9.0, 0.25, 1.0], [9.0, 1.0, 1.0]])
    )
    assert CLAIMS["variance-while-training"].measure(log, Knobs()) == {0: 2.0}
    assert CLAIMS["variance-while-training"].measure(log, Knobs(fixed_var=2.0)) == {}
    assert CLAIMS["variance-with-alpha-dropout"].measure(log, Knobs()) == {}


def test_depth_pays_takes_the_deeper_twin_whichever_it_is() -> None:
    values = {"SNN": 90.0, "SNN, depth 8": 80.0, "ReLU + BN": 50.0, "ReLU + BN, depth 8": 70.0}
    log = final("validation_accuracy", values, 3)
    measure = CLAIMS["depth-pays"].measure
    assert measure(log, Knobs(second_depth=8)) == pytest.approx({0: 30.0, 1: 30.0})
    flipped = FrameLog(
        Frame(f.step, f.arm.replace("depth 8", "depth 40"), f.seed, f.values) for f in log.frames
    )
    assert measure(flipped, Knobs(second_depth=40)) == pytest.approx({0: -30.0, 1: -30.0})
    assert measure(log, Knobs()) == {}


def test_measured_before_training_are_judged_exactly() -> None:
    log = FrameLog(itertools.islice(EXPERIMENT.frames(Knobs(seeds=2), "cpu"), 4))
    verdicts = EXPERIMENT.verdicts(log, Knobs())
    for id in ("attracting-fixed-point", "theorem-1", "theorem-2", "theorem-3"):
        assert verdicts[id].outcome == "reproduced"
    for seed in (0, 1):
        assert verdicts["alpha-dropout-keeps-variance"].per_seed[seed] < 0.01


def test_figures_of_empty_and_full_logs() -> None:
    knobs = Knobs(depth=3, width=16, steps=10, seeds=2)
    empty = EXPERIMENT.figures(FrameLog(), knobs)
    assert all("nothing is measured" in figure.alt for figure in empty.values())
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    full = EXPERIMENT.figures(log, knobs)
    assert list(full) == list(empty)
    assert all(len(figure.data) for figure in full.values())
    theory = full["variance"].data.query("arm == @THEORY")
    assert theory["x"].tolist() == [0, 1, 2, 3]
    early = EXPERIMENT.figures(log, knobs, 0)
    assert "(step 0)" in early["variance"].title
    assert "(step 9)" in full["variance"].title
    assert THEORY


def test_drawn_layers_hold_both_ends() -> None:
    assert drawn_layers(2) == [1, 2]
    assert drawn_layers(64)[0] == 1
    assert drawn_layers(64)[-1] == 64
    assert all(len(drawn_layers(d)) == min(d, 6) for d in range(2, 65))


def test_work_is_limited_and_the_advice_fits() -> None:
    heavy = {"arms": ALL, "depth": 64, "width": 256, "steps": 2000, "seeds": 5}
    with pytest.raises(ValidationError, match="at most") as refused:
        Knobs(**heavy)
    fits = int(str(refused.value).split("at most ")[1].split()[0])
    assert fits >= 10
    assert Knobs(**{**heavy, "steps": fits}).steps == fits


@pytest.mark.parametrize("seed", range(5))
def test_every_fixed_point_on_the_sliders_has_a_selu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = itertools.product((-0.3, 0.3), (0.25, 4.0))
    points = [*corners, *zip(rng.uniform(-0.3, 0.3, 20), rng.uniform(0.25, 4.0, 20), strict=True)]
    for mean, var in points:
        alpha, scale = Knobs(fixed_mean=float(mean), fixed_var=float(var)).selu()
        assert alpha > 0 < scale
        assert math.isfinite(alpha * scale)


def test_second_depth_equal_to_the_first_is_no_twin() -> None:
    assert Knobs(second_depth=32).depths() == (32,)
    assert arm_name("snn", 8) == "SNN, depth 8"


def test_server_side_loads_no_torch() -> None:
    code = (
        "import sys; from normviz.experiments.self_normalizing import EXPERIMENT, Knobs; from normviz.frame import "
        "FrameLog; EXPERIMENT.figures(FrameLog(), Knobs()); import normviz.figures.moment_map; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

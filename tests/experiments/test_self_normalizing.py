"""The page *Self-normalizing networks*: every arm, the theorems, claims on hand-made logs, figures, limits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normviz.data import SupervisedData
from normviz.experiments.self_normalizing import EXPERIMENT, Knobs
from normviz.experiments.self_normalizing.classical import classical_accuracies
from normviz.experiments.self_normalizing.figures import THEORY
from normviz.experiments.self_normalizing.frames import weight_normed
from normviz.experiments.self_normalizing.knobs import ARMS, arm_name
from normviz.experiments.self_normalizing.recorded import FOREST, SVM, drawn_layers
from normviz.experiments.self_normalizing.theorems import theorem_values
from normviz.frame import Frame, FrameLog
from normviz.models import MLP
from normviz.testing import log_of

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
ALL = tuple(ARMS)


def run(**values: object) -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**values), "cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["digits", "mnist1d", "mnist", "breast_cancer", "wine"])
@pytest.mark.usefixtures("small_mnist")
def test_every_arm_trains_on_every_data_set(data: str) -> None:
    knobs = Knobs(data=data, arms=ALL, depth=3, width=16, steps=10, seeds=1, batch_size=256)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.arms == list(knobs.shown_arms().names)
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


def test_measured_before_training_are_judged_exactly() -> None:
    log = FrameLog(itertools.islice(EXPERIMENT.frames(Knobs(seeds=2), "cpu"), 4))
    verdicts = EXPERIMENT.verdicts(log, Knobs())
    for id in ("attracting-fixed-point", "theorem-1", "theorem-2", "theorem-3"):
        assert verdicts[id].outcome == "reproduced"
        assert CLAIMS[id].identity
    for seed in (0, 1):
        assert verdicts["alpha-dropout-keeps-variance"].per_seed[seed] < 0.01


def test_drawn_layers_hold_both_ends() -> None:
    assert drawn_layers(2) == [1, 2]
    assert drawn_layers(64)[0] == 1
    assert drawn_layers(64)[-1] == 64
    assert all(len(drawn_layers(d)) == min(d, 6) for d in range(2, 65))


def test_work_is_limited_and_the_advice_fits() -> None:
    heavy = {"arms": ALL, "depth": 64, "width": 256, "steps": 2000, "seeds": 10}
    with pytest.raises(ValidationError, match="steps = ") as refused:
        Knobs(**heavy)
    fits = int(str(refused.value).split("steps = ")[1].split(".")[0])
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


def log_at_the_end(name: str, values: dict[str, float], knobs: Knobs, moments: int) -> FrameLog:
    """A log whose last values of a scalar are given, the same for seeds 0 and 1 up to 0.001 seed."""
    steps = range(knobs.steps - moments + 1, knobs.steps + 1)
    return log_of({arm: {name: value} for arm, value in values.items()}, steps=steps, by_seed=0.001)


def test_race_claims_compare_with_every_rival() -> None:
    knobs = Knobs(arms=("snn", "relu_bn", "relu_ln", "relu_wn", "relu"))
    values = {"SNN": 90.0, "ReLU + BN": 60.0, "ReLU + LN": 91.0, "ReLU + WN": 50.0, "ReLU": 20.0}
    verdict = CLAIMS["better-deep"].verdict(log_at_the_end("validation_accuracy", values, knobs, 3), knobs)
    by_rival = {interval.rival: interval for interval in verdict.intervals}
    assert by_rival["batch norm"].per_seed == pytest.approx({0: 30.0, 1: 30.0})
    assert by_rival["layer norm"].per_seed == pytest.approx({0: -1.0, 1: -1.0})
    assert by_rival["weight norm"].per_seed == pytest.approx({0: 40.0, 1: 40.0})
    assert verdict.intervals[0].rival == "layer norm", "the rival that is not beaten decides"
    assert not CLAIMS["better-deep"].applies(Knobs(depth=31))
    assert CLAIMS["better"].applies(Knobs(depth=8))


def test_worst_variance_is_the_largest_octave_of_a_hidden_layer() -> None:
    knobs = Knobs(steps=10, seeds=1)
    log = FrameLog(
        Frame(step, "SNN", 0, {"var_by_layer": np.array(values)})
        for step, values in ((0, [9.0, 1.0, 2.0]), (5, [9.0, 0.25, 1.0]), (10, [9.0, 1.0, 1.0]))
    )
    assert CLAIMS["variance-while-training"].measure(log, knobs) == {0: 2.0}  # type: ignore[operator]
    assert not CLAIMS["variance-while-training"].applies(Knobs(fixed_var=2.0))


def test_gradients_are_compared_from_the_first_to_the_last_layer() -> None:
    knobs = Knobs(steps=10, seeds=1)
    log = FrameLog(
        Frame(step, "SNN", 0, {"gradient_by_layer": np.array(values)})
        for step, values in ((0, [1.0, 9.0, 2.0]), (5, [0.01, 5.0, 1.0]), (10, [3.0, 1.0, 1.0]))
    )
    claim = CLAIMS["gradients-neither-vanish-nor-explode"]
    assert claim.measure(log, knobs) == pytest.approx({0: 2.0})  # type: ignore[operator]


def test_weight_norm_starts_as_the_plain_network_and_trains_lengths_apart() -> None:
    torch.manual_seed(2)
    plain = MLP(5, [7, 7], 3)
    torch.manual_seed(2)
    network = weight_normed(MLP(5, [7, 7], 3))
    x = torch.randn(4, 5)
    torch.testing.assert_close(network(x), plain(x))
    g, v = (p for n, p in network.blocks[0].named_parameters() if n.startswith("linear.parametrizations"))
    with torch.no_grad():
        g.mul_(3.0)
        v.mul_(5.0)
    weight = network.blocks[0].get_submodule("linear").weight
    expected = 3 * plain.blocks[0].get_submodule("linear").weight
    torch.testing.assert_close(weight, expected, msg="only g sets the length")


def test_classical_classifiers_solve_what_is_separable_and_guess_what_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator)
    rings = (x.norm(dim=1) > 1.2).long()
    noise = torch.randint(2, (300,), generator=generator)
    kinds = {}
    for name, y in (("rings", rings), ("noise", noise)):
        data = SupervisedData(
            name, x[:200], y[:200], x[200:], y[200:], torch.zeros(()), torch.ones(()), ("a", "b")
        )
        kinds[name] = classical_accuracies(data, 3)
    assert set(kinds["rings"]) == {SVM, FOREST}
    assert all(float(v) > 85 for v in kinds["rings"].values())
    assert all(30 < float(v) < 70 for v in kinds["noise"].values())


def test_the_race_against_classical_classifiers_is_measured_where_they_are_fitted() -> None:
    knobs = Knobs(depth=8, classical=True)
    log = log_at_the_end("validation_accuracy", {"SNN": 97.0, "ReLU": 90.0}, knobs, 3)
    log.extend(Frame(0, "ReLU", seed, {SVM: 99.0, FOREST: 95.0}) for seed in (0, 1))
    claim = CLAIMS["beats-classical"]
    verdict = claim.verdict(log, knobs)
    by_rival = {interval.rival: interval.per_seed for interval in verdict.intervals}
    assert by_rival["SVM"] == pytest.approx({0: -2.0, 1: -1.999})
    assert by_rival["random forest"] == pytest.approx({0: 2.0, 1: 2.001})
    assert not claim.applies(Knobs(depth=8))
    assert not claim.applies(Knobs(depth=8, classical=True, data="wine"))
    assert CLAIMS["better-than-classical-wine"].applies(Knobs(depth=8, classical=True, data="wine"))


def test_depth_pays_compares_gains() -> None:
    knobs = Knobs(second_depth=8)
    values = {"SNN": 90.0, "SNN, depth 8": 80.0, "ReLU + BN": 50.0, "ReLU + BN, depth 8": 70.0}
    log = log_at_the_end("validation_accuracy", values, knobs, 3)
    assert CLAIMS["depth-pays"].measure(log, knobs) == pytest.approx({0: 30.0, 1: 30.0})  # type: ignore[operator]


def test_the_theory_is_drawn_beside_the_layers() -> None:
    knobs = Knobs(depth=3, width=16, steps=10, seeds=2)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    full = EXPERIMENT.figures(log, knobs)
    assert all(len(figure.data) for figure in full.values())
    theory = full["variance"].data.query("arm == @THEORY")
    assert theory["x"].tolist() == [0, 1, 2, 3]
    early = EXPERIMENT.figures(log, knobs, 0, ["variance"])["variance"]
    assert (early.moment, full["variance"].moment) == ("step 0", "step 9")
    assert THEORY

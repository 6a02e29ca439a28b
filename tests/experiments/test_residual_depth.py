"""The experiment behind the page *Residual depth*: what it trains, takes apart, draws, claims and writes out."""

from __future__ import annotations

import math
import re
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.experiments import residual_depth as rd
from normviz.experiments.residual_depth.claims import CLAIMS
from normviz.experiments.residual_depth.figures import levels_theory
from normviz.experiments.residual_depth.frames import depths
from normviz.experiments.residual_depth.knobs import METHODS, RATES, SMALL, sweep_name
from normviz.experiments.residual_depth.symbolic import LARGEST_TERMS, largest_order, written_out
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.residual.counting import path_count, tree_count

CLAIM = {claim.id: claim for claim in CLAIMS}
TINY: dict[str, Any] = {"steps": 10, "seeds": 1, "depth": 4, "width": 8, "batch_size": 8, "order": 3}


def test_every_method_trains() -> None:
    run = rd.run(rd.Knobs(methods=tuple(METHODS), learning_rates=("0.003",), **TINY), device="cpu")
    assert run.status == "done"
    assert run.log.arms == list(run.knobs.shown_arms()) == list(METHODS.values())
    assert (run.log.scalars("loss").groupby("arm").size() == 10).all()
    assert not run.log.events
    for name, figure in run.figures().items():
        assert figure.data is not None, name
        assert len(figure.data), name
        assert "nothing is measured yet" not in figure.alt
    assert run.log.arrays("signal_by_layer", 0)[0].value.shape == (5,)
    assert {e.arm for e in run.log.arrays("stream_gradient")} == set(METHODS.values())


def test_every_rate_makes_arms_of_its_own() -> None:
    run = rd.run(rd.Knobs(methods=("inv", "fixup"), learning_rates=("0.003", "0.01"), **TINY), device="cpu")
    assert run.log.arms == [
        "λ = 1/n, rate 0.003",
        "Fixup, rate 0.003",
        "λ = 1/n, rate 0.01",
        "Fixup, rate 0.01",
    ]


def test_start_of_the_training_is_what_the_methods_say() -> None:
    log = rd.run(
        rd.Knobs(methods=("plain", "inv_sqrt", "inv", "skipinit", "fixup", "custom"), scale=0.5, **TINY),
        device="cpu",
    ).log
    start = {entry.arm: entry.value for entry in log.arrays("signal_by_layer", 0)}
    for arm in ("SkipInit", "Fixup"):
        np.testing.assert_allclose(start[arm], start[arm][0], rtol=1e-6)
    loss = log.scalars("validation_loss")
    fixup = loss[(loss["arm"] == "Fixup") & (loss["step"] == 0)]["value"].item()
    assert fixup == pytest.approx(math.log(10), rel=1e-5)
    first = {entry.arm: entry.value[0] for entry in log.arrays("effective_scale", 0)}
    assert first["λ = 1/√n"] == pytest.approx(first["λ = 1"] / 2, rel=1e-5)
    assert first["λ = 1/n"] == pytest.approx(first["λ = 1"] / 4, rel=1e-5)
    assert first["λ as set"] == pytest.approx(first["λ = 1"] * 0.5, rel=1e-5)
    alphas = log.array_history("alphas")
    assert not alphas[0].value.any()
    assert alphas[-1].value.all()


def test_a_tower_that_explodes_ends_alone() -> None:
    knobs = rd.Knobs(methods=("plain", "inv"), learning_rates=("0.1",), **{**TINY, "depth": 48, "width": 16})
    log = rd.run(knobs, device="cpu").log
    assert [event.arm for event in log.events] == ["λ = 1"]
    assert log.events[0].text.startswith("diverged at step")
    assert log.scalars("loss").groupby("arm").size()["λ = 1/n"] == 10


@pytest.mark.parametrize("modules", ["linear", "branches"])
@pytest.mark.parametrize("tied", [False, True])
def test_taken_apart(modules: str, tied: bool) -> None:
    knobs = rd.Knobs(
        task="expansion", modules=modules, tied=tied, activation="tanh", **{**TINY, "depth": 5, "order": 6}
    )
    run = rd.run(knobs, device="cpu")
    assert run.status == "done"
    assert run.log.arms == ["λ = 1", "λ = 1/√n", "λ = 1/n", SMALL]
    assert run.log.last_step == 5
    assert sorted({e.step for e in run.log.array_history("levels")}) == [1, 2, 3, 4, 5]
    assert all(figure.data is not None and len(figure.data) for figure in run.figures().values())
    for entry in run.log.arrays("truncation"):
        if modules == "linear":
            assert entry.value[5:] == pytest.approx(0, abs=1e-6)
        assert entry.value.shape == (7,)
    slopes = run.log.arrays("slopes")[0].value
    assert np.abs(slopes - np.arange(1, 6)).max() < 0.35


def test_relu_branches_taken_apart_without_a_warning() -> None:
    run = rd.run(rd.Knobs(task="expansion", modules="branches", **TINY), device="cpu")
    assert run.status == "done"


def test_levels_of_one_linear_tower_are_those_of_its_paths() -> None:
    """The measured sizes against an enumeration in NumPy."""
    from normviz.experiments.residual_depth.frames import _Growing

    knobs = rd.Knobs(task="expansion", **TINY)
    tower = _Growing(knobs, 0)
    weights = [m.get_parameter("weight").detach().numpy() for m in tower.modules]
    x = tower.x.numpy()
    values = tower.compare(4, "inv_sqrt", tower.levels(4))
    for k in range(4):
        total = np.zeros_like(x)
        for path in combinations(weights, k):
            h = x
            for weight in path:
                h = h @ weight.T
            total += h
        size = 0.5**k * np.linalg.norm(total, axis=1).mean() / np.linalg.norm(x, axis=1).mean()
        assert float(np.asarray(values["levels"])[k]) == pytest.approx(size, rel=1e-6)


def test_sweep() -> None:
    knobs = rd.Knobs(task="sweep", sweep_points=3, **TINY)
    run = rd.run(knobs, device="cpu")
    assert knobs.lambdas() == pytest.approx([0.25, 0.5, 1.0])
    assert run.log.arms == ["λ = 0.25", "λ = 0.5", "λ = 1"]
    data = run.figures()["complexity"].data
    assert data is not None
    assert data["x"].tolist() == pytest.approx([0.25, 0.5, 1.0])


@pytest.mark.parametrize("data", ["mnist1d", "mnist"])
@pytest.mark.usefixtures("small_mnist")
def test_other_digits_take_the_place_of_the_small_ones(data: str) -> None:
    for task in ("training", "sweep"):
        few = {"methods": ("inv", "fixup"), "learning_rates": ("0.003",), "sweep_points": 3}
        knobs = rd.Knobs(task=task, data=data, **few, **TINY)
        run = rd.run(knobs, device="cpu")
        assert not run.log.events
        assert set(run.log.members) == {(arm, 0) for arm in knobs.shown_arms()}
        assert np.isfinite(run.log.scalars("complexity")["value"]).all()
    assert rd.Knobs(task="expansion", data=data).missing() == ""


def test_same_seed_same_numbers() -> None:
    knobs = rd.Knobs(methods=("inv", "fixup"), **TINY)
    first, second = (rd.run(knobs, device="cpu").log.scalars("loss")["value"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_levels_theory_is_the_root_of_the_count_or_the_count() -> None:
    independent = levels_theory(10, 0.1, 3, 2.0, 2.0)
    coherent = levels_theory(10, 0.1, 3, 4.0, 9.0, coherent=True)
    for k in range(4):
        assert independent[k] == pytest.approx(math.sqrt(math.comb(10, k) * 0.02**k))
        assert coherent[k] == pytest.approx(math.comb(10, k) * 0.1**k * (2 * 3 ** (k - 1) if k else 1))


def test_depths_reach_both_ends() -> None:
    assert depths(3) == [1, 2, 3]
    assert depths(256)[0] == 1
    assert depths(256)[-1] == 256


# ------------------------------------------------------------------------------------------------ bounds


def test_too_deep_is_refused_with_the_greatest_depth_that_fits() -> None:
    asked: dict[str, Any] = {"depth": 256, "steps": 300, "seeds": 5, "learning_rates": "0.01,0.03,0.1"}
    with pytest.raises(KnobError, match=r"depth = \d+") as refused:
        rd.Knobs.parse(asked)
    found = re.search(r"depth = (\d+)", str(refused.value))
    assert found
    fits = int(found[1])
    assert rd.Knobs.parse({**asked, "depth": fits}).depth == fits
    with pytest.raises(KnobError):
        rd.Knobs.parse({**asked, "depth": fits + 1})


@pytest.mark.parametrize(
    "bad", [{"depth": 257}, {"depth": 1}, {"order": 13}, {"sweep_points": 14}, {"scale": 3}]
)
def test_out_of_bounds_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(KnobError, match="it takes"):
        rd.Knobs.parse(bad)


@settings(max_examples=8, deadline=None)
@given(
    task=st.sampled_from(["training", "expansion", "sweep"]),
    depth=st.integers(2, 256),
    seeds=st.integers(1, 5),
    steps=st.integers(1, 100).map(lambda k: 10 * k),
    methods=st.sets(st.sampled_from(sorted(METHODS)), min_size=1).map(tuple),
)
def test_random_knobs_are_accepted_or_refused_in_a_sentence(**values: Any) -> None:
    knobs, refused = rd.Knobs.parse_leniently(values)
    assert all("the limit is 10 minutes" in rejection.sentence for rejection in refused)
    assert len(knobs.shown_arms()) >= 1
    assert all(figure.title for figure in rd.EXPERIMENT.figures(FrameLog(), knobs).values())


# ------------------------------------------------------------------------------------------------ claims


def accuracies(final: dict[str, list[float]]) -> FrameLog:
    return FrameLog(
        Frame(step, arm, seed, {"validation_accuracy": 10.0 if step == 0 else value})
        for arm, values in final.items()
        for seed, value in enumerate(values)
        for step in (0, 100)
    )


def by_rival(claim: str, log: FrameLog, knobs: rd.Knobs) -> dict[str, dict[int, float]]:
    return {i.rival: dict(i.per_seed) for i in CLAIM[claim].verdict(log, knobs).intervals}


def test_accuracy_claims() -> None:
    knobs = rd.Knobs()
    log = accuracies({"λ = 1/√n": [94, 95], "λ = 1/n": [90, 92], "BatchNorm": [91, 90]})
    assert by_rival("scaling-trains", log, knobs) == {
        "λ = 1/√n": {0: 94.0, 1: 95.0},
        "λ = 1/n": {0: 90.0, 1: 92.0},
    }
    assert CLAIM["root-beats-inverse"].verdict(log, knobs).per_seed == {0: 4.0, 1: 3.0}
    assert CLAIM["norm-beats-inverse"].verdict(log, knobs).per_seed == {0: 1.0, 1: -2.0}
    assert CLAIM["norm-beats-inverse"].verdict(log, knobs).outcome == "undecided"
    for other in (rd.Knobs(depth=32), rd.Knobs(learning_rates=("0.01", "0.1"))):
        assert not CLAIM["scaling-trains"].verdict(log, other).measured


def test_unscaled_must_fail_at_every_rate() -> None:
    knobs = rd.Knobs(methods=("plain", "inv_sqrt"), learning_rates=RATES)
    final = {f"λ = 1/√n, rate {rate}": [90.0, 92.0] for rate in RATES}
    final |= {f"λ = 1, rate {rate}": [10.0, 11.0] for rate in RATES}
    failing = accuracies(final)
    verdict = CLAIM["unscaled-fails"].verdict(failing, knobs)
    assert verdict.outcome == "reproduced"
    assert by_rival("unscaled-fails", failing, knobs)["rate 0.1"] == {0: -35.0, 1: -35.0}
    trains = accuracies({**final, "λ = 1, rate 0.003": [80.0, 81.0]})
    assert CLAIM["unscaled-fails"].verdict(trains, knobs).outcome == "opposite"
    lost = Frame.diverged(0, "λ = 1, rate 0.1", 0, "the training loss is inf")
    diverged = FrameLog([*failing.frames, lost])
    assert by_rival("unscaled-fails", diverged, knobs)["rate 0.1"] == {0: -45.0, 1: -35.0}
    assert not CLAIM["unscaled-fails"].verdict(failing, rd.Knobs()).measured


def test_growth_claims() -> None:
    def grown(arm: str, seed: int, orders: float) -> Frame:
        return Frame(0, arm, seed, {"signal_by_layer": np.array([2.0, 5.0, 2.0 * 10**orders])})

    frames = [
        grown(arm, seed, orders + 0.01 * seed)
        for arm, orders in (("λ = 1", 6.0), ("λ = 1/√n", 0.4), ("λ = 1/n", 0.0))
        for seed in (0, 1)
    ]
    frames.append(Frame.diverged(0, "λ = 1", 0, "the training loss is inf"))
    log, knobs = FrameLog(frames), rd.Knobs()
    exploded = CLAIM["unscaled-explodes"].verdict(log, knobs)
    assert exploded.estimate == pytest.approx(6.005, rel=1e-5), "measured before it diverged"
    assert CLAIM["scaled-stays"].verdict(log, knobs).outcome == "reproduced"
    assert by_rival("scaled-stays", log, knobs)["λ = 1/√n"] == pytest.approx({0: 0.4, 1: 0.41}, rel=1e-5)
    infinite = FrameLog([Frame(0, "λ = 1", 0, {"signal_by_layer": np.array([1.0, np.inf])})])
    assert CLAIM["unscaled-explodes"].verdict(infinite, knobs).estimate == math.inf


def test_effective_scales_are_compared_at_the_end() -> None:
    scales = {"SkipInit": [3.0, 4.0], "Fixup": [0.1, 0.1], "λ = 1/√n": [5.0, 5.0]}
    log = FrameLog(
        Frame(step, arm, 0, {"effective_scale": np.array(values) * factor})
        for arm, values in scales.items()
        for step, factor in ((0, 9.0), (99, 1.0))
    )
    found = by_rival("skipinit-is-a-small-scale", log, rd.Knobs())
    assert found["SkipInit"][0] == pytest.approx(math.sqrt(12.5) / 5.0)
    assert found["Fixup"][0] == pytest.approx(0.02)


def test_complexity_of_the_two_rules() -> None:
    log = FrameLog(
        Frame(100, arm, 0, {"complexity": value}) for arm, value in (("λ = 1/n", 2.0), ("λ = 1/√n", 200.0))
    )
    assert CLAIM["scale-regularises"].verdict(log, rd.Knobs()).per_seed == pytest.approx({0: -2.0})


def test_normalization_claim_measures_the_slope() -> None:
    module = np.arange(1, 65)
    log = FrameLog([Frame(0, "BatchNorm", 0, {"effective_scale": 0.8 * module**-0.3})])
    verdict = CLAIM["norm-is-a-small-scale"].verdict(log, rd.Knobs())
    assert verdict.per_seed[0] == pytest.approx(0.2, abs=1e-5)


def test_few_levels_and_faster_fit() -> None:
    errors = np.array([1, 0.5, 0.2, 0.05, 0.01, 0.002, 0.0003])
    log = FrameLog(
        [
            Frame(32, "λ = 1/n", 0, {"truncation": errors * 2}),
            Frame(64, "λ = 1/n", 0, {"truncation": errors}),
        ]
    )
    assert CLAIM["few-levels"].verdict(log, rd.Knobs(task="expansion")).per_seed[0] == pytest.approx(0.002)
    losses = FrameLog(
        Frame(step, arm, 0, {"loss": value + step})
        for arm, value in (("λ = 1/√n", 0.1), ("λ = 1/n", 0.4))
        for step in range(100)
    )
    assert CLAIM["root-fits-faster"].verdict(losses, rd.Knobs()).per_seed[0] == pytest.approx(-0.3)
    assert not CLAIM["root-fits-faster"].verdict(losses, rd.Knobs(learning_rates=("0.1",))).per_seed


def swept(curves: Any) -> FrameLog:
    """Complexities (seeds, scales) at the end of a sweep; infinite: diverged."""
    names = [sweep_name(lam) for lam in SWEEP.lambdas()]
    frames = [
        Frame(SWEEP.steps, arm, seed, {"complexity": float(value)})
        if math.isfinite(value)
        else Frame.diverged(1, arm, seed, "the training loss is inf")
        for seed, curve in enumerate(curves)
        for arm, value in zip(names, curve, strict=True)
    ]
    return FrameLog(frames)


SWEEP = rd.Knobs(task="sweep", depth=16, sweep_points=5, seeds=3)


def test_hump_compares_a_scale_that_other_seeds_chose_with_both_ends() -> None:
    curves = np.array([[1, 20, 100, 10, np.inf], [1, 30, 200, 20, np.inf], [1, 500, 50, 10, np.inf]])
    found = by_rival("complexity-hump", swept(curves), SWEEP)
    # Others of seed 0: log10 sums 4.18 and 4 -> the second scale; of 1: 4 and 3.7 -> the second; of 2: the third.
    expected = [20.0, 30.0, 50.0]
    assert found["the smallest scale"] == pytest.approx({s: math.log10(v) for s, v in enumerate(expected)})
    ends = [10.0, 20.0, 10.0]
    largest = {s: math.log10(v / e) for s, (v, e) in enumerate(zip(expected, ends, strict=True))}
    assert found["the largest scale that trains"] == pytest.approx(largest)
    rising = swept(np.geomspace(1, 1e4, 5)[None] * np.array([[1.0], [1.1], [1.2]]))
    assert CLAIM["complexity-hump"].verdict(rising, SWEEP).outcome == "opposite"
    one = rd.Knobs(task="sweep", depth=16, sweep_points=5, seeds=1)
    assert not CLAIM["complexity-hump"].verdict(swept(curves[:1]), one).measured


def test_noise_is_hardly_ever_a_hump() -> None:
    knobs, rng, called = (
        rd.Knobs(task="sweep", depth=16, sweep_points=5, seeds=5),
        np.random.default_rng(0),
        0,
    )
    for _ in range(100):
        curves = 10 ** rng.normal(0, 0.3, (5, 5))
        called += CLAIM["complexity-hump"].verdict(swept(curves), knobs).outcome in ("reproduced", "weaker")
    assert called <= 5


def test_theorem_claims_hold_and_would_fail() -> None:
    log = rd.run(rd.Knobs(methods=("inv",), **{**TINY, "seeds": 2}), device="cpu").log
    assert CLAIM["path-counts"].verdict(log, rd.Knobs()).outcome == "reproduced"
    assert CLAIM["remainder-order"].verdict(log, rd.Knobs()).outcome == "reproduced"
    wrong = FrameLog([Frame(0, "λ = 1/n", 0, {"theorem/level_error": 0.1})])
    assert CLAIM["path-counts"].verdict(wrong, rd.Knobs(seeds=1)).outcome == "opposite"


# ------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize(
    ("n", "order", "kind"), [(3, 3, "affine"), (6, 6, "affine"), (4, 3, "smooth"), (2, 6, "smooth")]
)
def test_written_out_has_all_paths_or_trees(n: int, order: int, kind: Any) -> None:
    for level in written_out(n, order, kind):
        count = path_count if kind == "affine" else tree_count
        assert len(level.terms) == len(set(level.terms)) == count(n, level.order)


def test_written_out_third_level_of_three_modules() -> None:
    smooth = written_out(3, 3, "smooth")[3]
    assert set(smooth.terms) == {
        "f_{3}'[f_{2}'[f_{1}]]",
        "f_{3}''[f_{1},f_{2}]",
        r"\tfrac{1}{2}f_{2}''[f_{1},f_{1}]",
        r"\tfrac{1}{2}f_{3}''[f_{1},f_{1}]",
        r"\tfrac{1}{2}f_{3}''[f_{2},f_{2}]",
    }
    assert written_out(3, 2)[2].terms == ("W_{2} f_{1}", "W_{3} f_{1}", "W_{3} f_{2}")
    assert written_out(1, 2, "smooth")[2].latex == "0"


def test_written_out_refuses_what_does_not_fit() -> None:
    fits = largest_order(5, "smooth")
    assert tree_count(5, fits) <= LARGEST_TERMS < tree_count(5, fits + 1)
    with pytest.raises(ValueError, match=rf"at most {fits} for n = 5 smooth modules, got {fits + 1}"):
        written_out(5, fits + 1, "smooth")
    with pytest.raises(ValueError, match="at most 3 for n = 3 affine"):
        written_out(3, 4)
    with pytest.raises(ValueError, match="n must be"):
        written_out(9, 1)

"""The page *Adaptive data analysis*: data and analysts against independent derivations, claims on hand-made logs."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from normviz.adaptive.data_analysis import (
    expected_attack_accuracy,
    gaussian_privacy,
    laplace_privacy,
    sample_size,
    sparse_privacy,
)
from normviz.experiments.adaptive_data_analysis import EXPERIMENT, PRESETS, Knobs
from normviz.experiments.adaptive_data_analysis.analyst_game import (
    BUDGET,
    FEATURES,
    AnalystGame,
    GameKind,
    vote_accuracy,
)
from normviz.experiments.adaptive_data_analysis.askers import build_asker
from normviz.experiments.adaptive_data_analysis.claims import FIXED
from normviz.experiments.adaptive_data_analysis.closed_forms import (
    BOUND_CURVES,
    PRIVACY_CURVES,
    REPORT_CURVES,
    privacy_figure,
    report_figure,
    rows_needed_figure,
)
from normviz.experiments.adaptive_data_analysis.feature_plane import KEPT, LEFT, USED
from normviz.experiments.adaptive_data_analysis.game_figures import clues_figure, history_figure
from normviz.experiments.adaptive_data_analysis.hill_climb import RIDGE, DigitsWorld
from normviz.experiments.adaptive_data_analysis.holdout_curve import draw_curves
from normviz.experiments.adaptive_data_analysis.knobs import ARMS
from normviz.experiments.adaptive_data_analysis.recorded import MARGIN_BINS, MARGIN_RANGE
from normviz.experiments.adaptive_data_analysis.theory import laplace_attack_accuracy, theory_accuracy
from normviz.experiments.adaptive_data_analysis.worlds import (
    HOLDOUT,
    TRAIN,
    TRUTH,
    NoiseWorld,
    Part,
    UniverseWorld,
    median_candidates,
)
from normviz.frame import Frame, FrameLog
from tests.figures.test_every_figure import check_scales

vl_convert = pytest.importorskip("vl_convert")

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
SMALL: dict[str, Any] = {"rows": 200, "queries": 100, "seeds": 1}


def run(**values: Any) -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**values), "cpu"))


# ---- data


def test_a_vote_is_counted_as_a_loop_counts_it() -> None:
    rng = np.random.default_rng(0)
    y, votes, weights = rng.choice((-1.0, 1.0), 60), rng.integers(-2, 3, 60).astype(float), rng.random(60)
    weights /= weights.sum()
    expected = 0.0
    for i in range(60):
        said = 1.0 if votes[i] * y[i] >= 0 else -1.0  # the votes are for the right label; a tie says +1
        expected += weights[i] * (said == y[i])
    assert Part(y, weights).accuracy(votes) == pytest.approx(expected, abs=1e-12)


def test_noise_features_are_fair_and_differ_between_blocks_and_seeds() -> None:
    world = NoiseWorld(500, False, 3)
    first = {name: z.copy() for name, z in world.products(0, 40).items()}
    second = world.products(1, 40)
    assert set(np.unique(first[HOLDOUT])) == {-1, 1}
    for z in first.values():
        assert abs(z.mean()) < 5 / math.sqrt(z.size)
    assert not np.array_equal(first[HOLDOUT], second[HOLDOUT])
    again = NoiseWorld(500, False, 3).products(0, 40)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first[HOLDOUT], NoiseWorld(500, False, 4).products(0, 40)[HOLDOUT])


def test_signal_features_have_their_correlation() -> None:
    world = NoiseWorld(3000, True, 0)
    z = world.products(0, 40)
    bias = 6 / math.sqrt(3000)
    assert z[HOLDOUT][:20].mean() == pytest.approx(bias, abs=4 / math.sqrt(20 * 3000))
    assert z[TRUTH][20:].mean() == pytest.approx(0.0, abs=4 / math.sqrt(20 * 4000))
    means = world.true_means(0, z)
    np.testing.assert_allclose(means, [0.5 + bias / 2] * 20 + [0.5] * 20)
    np.testing.assert_allclose(world.true_means(1, world.products(1, 40)), 0.5)


@pytest.mark.parametrize("signal", [False, True])
def test_universe_is_counted_element_by_element(signal: bool) -> None:
    world = UniverseWorld(400, signal, 1)
    z = world.products(0, 12)[TRUTH]
    total, means = 0.0, np.zeros(12)
    for bits in product((0, 1), repeat=9):
        cell = sum(bit << i for i, bit in enumerate(bits))
        majority = 1 if sum(bits[:3]) >= 2 else -1
        for label in (-1, 1):
            p = (1 + (0.6 * majority * label if signal else 0)) / 1024
            element = 2 * cell + (label > 0)
            assert world.parts[TRUTH].weights[element] == pytest.approx(p, abs=1e-15)
            assert [z[j, element] * label for j in range(9)] == [2 * bit - 1 for bit in bits]
            total += p
            means += p * (1 + z[:, element]) / 2
    assert total == pytest.approx(1.0)
    np.testing.assert_allclose(world.true_means(0, world.products(0, 12)), means, atol=1e-12)
    rows = world.parts[HOLDOUT].rows
    assert rows is not None
    values = np.random.default_rng(0).random(1024)
    assert world.parts[HOLDOUT].weights @ values == pytest.approx(values[rows].mean())


def test_median_candidates_are_distributions_with_their_correlations() -> None:
    table = median_candidates()
    assert table.shape == (1 + 72 + 168, 1024)
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
    assert table.min() >= 0
    y = np.tile((-1.0, 1.0), 512)
    bit = 2 * ((np.arange(1024) // 2) & 1) - 1
    assert (table[1] * bit * y).sum() == pytest.approx(-0.8)
    assert (table[8] * bit * y).sum() == pytest.approx(0.8)


def test_ridge_regression_is_the_least_squares_solution() -> None:
    world = DigitsWorld(0)
    kept = np.zeros(200, dtype=bool)
    kept[:30] = True
    x = np.vstack([world.features[TRAIN][:, kept], math.sqrt(RIDGE) * np.eye(30)])
    target = np.vstack([np.eye(10)[world.given[TRAIN]] - 0.1, np.zeros((30, 10))])
    expected = np.linalg.lstsq(x, target, rcond=None)[0]
    np.testing.assert_allclose(world.fit(kept), expected, atol=1e-8)
    changed = np.concatenate([world.given[name] != world.true[name] for name in world.given])
    assert changed.mean() == pytest.approx(0.27, abs=0.04)  # a random label is right in one of ten cases
    assert sum(len(rows) for rows in world.index.values()) == 1797
    assert len({i for rows in world.index.values() for i in rows.tolist()}) == 1797


# ---- mechanisms and theory


def test_theory_of_laplace_noise_is_that_of_a_simulation() -> None:
    """Votes of many features on one row, with the rest of each answer drawn directly."""
    n, d, scale, rng = 100, 400, 0.05, np.random.default_rng(0)
    rest = (2.0 * rng.binomial(n - 1, 0.5, (400, d)) - (n - 1)) / n  # of c, without the row
    noisy = rest + 1 / n + 2 * rng.laplace(0, scale, rest.shape)
    agrees = np.where(noisy >= 0, 1.0, -1.0).sum(axis=1)
    measured = (agrees > 0).mean() + (agrees == 0).mean() / 2
    assert laplace_attack_accuracy(n, d, scale) == pytest.approx(measured, abs=4 * 0.5 / math.sqrt(400))


def test_theory_of_each_mechanism() -> None:
    assert theory_accuracy("splitting", 100, 50, 0.1) == 0.5
    assert theory_accuracy("plain", 1000, 1000, 0.1) == pytest.approx(0.788, abs=1e-3)
    assert theory_accuracy("gaussian", 1000, 1000, 0.1) == expected_attack_accuracy(1000, 1000, 0.2)
    assert theory_accuracy("laplace", 1000, 1000, 0.0) == expected_attack_accuracy(1000, 1000)
    assert theory_accuracy("laplace", 1000, 1000, 1e-4) == pytest.approx(
        expected_attack_accuracy(1000, 1000), abs=1e-3
    )
    assert theory_accuracy("thresholdout", 1000, 1000, 0.1) is None


def test_every_mechanism_answers_a_question_about_the_holdout() -> None:
    knobs = Knobs(task="universe", noise=0.0, sigma=0.0, threshold=0.01, rows=300)
    world = UniverseWorld(300, True, 0)
    z = world.products(0, 3)
    values = {name: (1 + z[name][0].astype(float)) / 2 for name in world.parts}
    exact = float(world.parts[HOLDOUT].weights @ values[HOLDOUT])
    train = float(world.parts[TRAIN].weights @ values[TRAIN])
    rows = world.parts[HOLDOUT].rows
    assert rows is not None
    for kind in ("plain", "laplace", "gaussian", "pmw", "median"):
        asker = build_asker(kind, knobs, world.parts, 0, 10, 5)
        assert asker.feature(values) == pytest.approx(exact, abs=1e-12), kind
    asker = build_asker("splitting", knobs, world.parts, 0, 10, 5)
    assert asker.feature(values) == pytest.approx(values[HOLDOUT][rows[:15]].mean())
    assert asker.report(values) == pytest.approx(values[HOLDOUT][rows[150:180]].mean())
    assert asker.spent() == 2.0
    wide = knobs.model_copy(update={"threshold": 0.3})
    guarded = build_asker("thresholdout", wide, world.parts, 0, 10, 5)
    assert guarded.feature(values) == pytest.approx(train, abs=1e-12)
    assert guarded.spent() == 0.0


def test_plain_reuse_overfits_as_theory_says_and_its_margins_move() -> None:
    log = run(rows=1000, queries=1000, seeds=2, mechanisms=("plain", "thresholdout"))
    table = log.scalars("reported")
    plain = table[table["arm"] == "Plain reuse"].groupby("step")["value"].mean()
    expected = [100 * expected_attack_accuracy(1000, int(step)) for step in plain.index]
    assert np.abs(plain.to_numpy() - expected).max() < 5  # two seeds of 1,000 rows: one standard error is 1.1
    margins = {entry.arm: entry.value for entry in log.arrays("margins") if entry.seed == 0}
    centres = MARGIN_RANGE[0] + (np.arange(MARGIN_BINS) + 0.5) * 9 / MARGIN_BINS
    means = {arm: (value * centres).sum(axis=1) * 9 / MARGIN_BINS for arm, value in margins.items()}
    assert means["Plain reuse"][1] == pytest.approx(math.sqrt(2 / math.pi), abs=0.15)  # holdout, d = n
    assert means["Plain reuse"][0] == pytest.approx(0.0, abs=0.15)
    assert means["Thresholdout"][2] == pytest.approx(math.sqrt(2 / math.pi), abs=0.15)  # the training rows
    assert means["Thresholdout"][1] == pytest.approx(0.0, abs=0.15)


def test_report_of_plain_reuse_is_the_accuracy_on_the_holdout() -> None:
    log = run(**SMALL, mechanisms=("plain",))
    reported, holdout = (log.final(name)["value"].to_numpy() for name in ("reported", "holdout"))
    np.testing.assert_allclose(reported, holdout, atol=1e-9)


def test_a_budget_that_is_spent_is_told_and_ends_the_reports() -> None:
    log = run(
        **SMALL, mechanisms=("thresholdout",), sparse_noise="laplace", sigma=0.0, threshold=0.03, budget=4
    )
    assert log.final("spent")["value"].tolist() == [4.0]
    assert [event.kind for event in log.events] == ["note"]
    assert "budget of 4" in log.events[0].text
    assert log.scalars("reported")["step"].max() < log.scalars("fresh")["step"].max() == 100


def test_splitting_ends_where_its_rows_end() -> None:
    log = run(rows=200, queries=300, seeds=1, mechanisms=("splitting",))
    assert log.events == []
    assert (
        log.scalars("reported")["step"].max() == 96
    )  # half of the rows, one each; a report every eight questions
    assert log.scalars("fresh")["step"].max() == 300


def test_climb_keeps_what_is_reported_better() -> None:
    log = run(task="climb", queries=100, seeds=1, mechanisms=("plain", "random", "splitting"))
    table = log.scalars("reported")
    for _, part in table.groupby("arm"):
        assert (part["value"].diff().dropna() >= 0).all()
    final = {row.arm: row.value for row in log.final("reported").itertuples()}
    assert final["Sample splitting"] == 100.0
    plain = log.final("holdout").set_index("arm")["value"]["Plain reuse"]
    assert final["Plain reuse"] == pytest.approx(plain)
    facts = next(e.value for e in log.arrays("changed_facts"))
    gained = facts[:, 3] > 0
    np.testing.assert_array_equal(facts[:, 0] == facts[:, 2], gained)


def test_holdout_curve_is_what_a_loop_over_features_gives() -> None:
    """Plain reuse once more, feature by feature and row by row, from the correlations that are drawn."""
    knobs = Knobs(task="holdout", rows=200, queries=100, signal=True, seeds=1)
    curves = draw_curves(knobs, 0, ("plain", "thresholdout"))
    assert curves.ks[0] == 0
    assert curves.ks[-1] == 100
    rng = np.random.default_rng([0, 5])
    sets = []
    for _ in range(3):
        X, y = rng.standard_normal((200, 100)), rng.choice((-1.0, 1.0), 200)
        for j in range(20):
            X[:, j] += 6 / math.sqrt(200) * y
        sets.append((X, y))
    c = [[sum(X[i, j] * y[i] for i in range(200)) / math.sqrt(200) for j in range(100)] for X, y in sets[:2]]
    np.testing.assert_allclose(curves.features[:, 0], c[0], atol=1e-9)
    kept = [j for j in range(100) if c[0][j] * c[1][j] > 0 and abs(c[0][j]) > 1 and abs(c[1][j]) > 1]
    chosen = sorted(kept, key=lambda j: -abs(c[0][j]))[:10]
    row = curves.ks.index(10)
    for column, (X, y) in enumerate(sets):
        votes = sum(np.sign(c[0][j]) * X[:, j] for j in chosen)
        assert curves.scores["plain"][row, column] == pytest.approx(np.mean(np.sign(votes) == y), abs=1e-9)
    log = run(task="holdout", rows=200, queries=100, signal=True, seeds=1)
    best = int(np.argmax(curves.scores["plain"][1:, 1])) + 1
    assert log.final("chosen/fresh")["value"].iloc[0] == pytest.approx(100 * curves.scores["plain"][best, 2])
    figure = EXPERIMENT.figures(log, knobs, 10, ["features"])["features"]
    assert figure.data is not None
    kinds = figure.data.query("what == 'feature'")["kind"]
    assert sorted(np.flatnonzero(kinds == USED)) == sorted(chosen)
    assert (kinds.isin([USED, KEPT])).sum() == len(kept)
    assert (kinds == LEFT).sum() == 100 - len(kept)


# ---- knobs


def test_mechanisms_that_a_task_cannot_have_are_left_out() -> None:
    assert Knobs(task="holdout").kinds() == ("plain", "thresholdout")
    assert Knobs(mechanisms=("pmw", "median")).kinds() == ("plain",)
    assert Knobs(task="universe", mechanisms=("pmw",)).shown_arms().names == (ARMS["pmw"],)
    assert len(Knobs(task="climb").shown_arms()) == 6


@pytest.mark.parametrize("queries", [100, 137, 2000, 3000])
def test_reports_come_until_the_end(queries: int) -> None:
    knobs = Knobs(queries=queries)
    assert knobs.stride() * 40 >= queries
    holdout = Knobs(task="holdout", queries=queries)
    assert holdout.total_steps() == min(500, queries)


def test_the_longest_hill_climb_is_short_enough() -> None:
    assert 1 < Knobs(task="climb", queries=3000, seeds=20).work() < Knobs.work_limit


# ---- claims


def log_at_the_end(knobs: Knobs, values: dict[str, dict[str, float]]) -> FrameLog:
    """Scalars of two seeds that differ by 0.2 points."""
    return FrameLog(
        Frame(step, arm, seed, {name: value + 0.2 * seed for name, value in scalars.items()})
        for step in (knobs.total_steps() - knobs.stride(), knobs.total_steps())
        for arm, scalars in values.items()
        for seed in (0, 1)
    )


def test_distance_from_theory_is_judged_both_ways() -> None:
    knobs = Knobs(seeds=2)
    for gap, holds in ((28.8, True), (32.8, False), (24.8, False)):
        log = log_at_the_end(knobs, {"Plain reuse": {"gap": gap, "theory": 78.8}})
        claim = CLAIMS["plain-reuse-as-theory"]
        numbers = {name: measure(log, knobs) for name, measure in claim.rivals.items()}
        assert numbers["larger than theory"][0] == pytest.approx(gap - 28.8)
        assert numbers["smaller than theory"][0] == pytest.approx(28.8 - gap)
        assert (claim.judge(numbers).outcome == "reproduced") is holds


def test_analysts_choice_is_compared_at_each_ones_own_number_of_features() -> None:
    knobs = Knobs(task="holdout", signal=True, seeds=2)
    values = {"Plain reuse": {"chosen/fresh": 70.0}, "Thresholdout": {"chosen/fresh": 66.0}}
    claim = CLAIMS["thresholdout-finds-signal"]
    verdict = claim.verdict(log_at_the_end(knobs, values), knobs)
    assert verdict.estimate == pytest.approx(-4.0)
    assert verdict.outcome == "opposite"
    assert not claim.applies(Knobs(task="holdout"))


def test_hoeffdings_bound_of_the_claim_is_the_librarys() -> None:
    assert sample_size("nonadaptive", 2000, FIXED / 100, 0.05) == pytest.approx(2000)
    assert CLAIMS["fixed-questions-are-safe"].rule.threshold == FIXED


def test_updates_are_a_share_of_the_bound() -> None:
    knobs = Knobs(**PRESETS["small-universe"].knobs)
    log = log_at_the_end(knobs, {"PMW": {"spent": 4 * math.log(1024) / 0.01}})
    assert CLAIMS["pmw-updates-are-few"].measure(log, knobs)[0] == pytest.approx(100.0)  # type: ignore[operator]


# ---- charts


OWN = {"reported", "plane", "answers", "features", "digits"}
"""Charts that are made here, or from a log that is."""


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_chart_draws_a_short_run(preset: str) -> None:
    knobs = EXPERIMENT.knobs.parse({**PRESETS[preset].knobs, **SMALL})
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    for name, figure in EXPERIMENT.figures(log, knobs).items():
        assert figure.data is not None, name
        assert len(figure.data), name
        if name in OWN and preset in ("signal", "hill-climb"):
            check_scales(figure)


@pytest.mark.parametrize("preset", ["signal", "hill-climb"])
def test_charts_without_data_have_their_axes(preset: str) -> None:
    knobs = EXPERIMENT.setting(PRESETS[preset])
    for figure in EXPERIMENT.figures(
        FrameLog(), knobs, names=OWN & set(EXPERIMENT.sheet(knobs).drawers)
    ).values():
        check_scales(figure)


def test_plane_ends_at_the_moment_and_has_the_diagonal() -> None:
    knobs = Knobs(**SMALL, signal=True, mechanisms=("plain",))
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    figure = EXPERIMENT.figures(log, knobs, 50, ["plane"])["plane"]
    assert figure.data is not None
    assert figure.data["step"].max() <= 50
    diagonal = figure.data[figure.data["arm"] == ""]
    assert (diagonal["fresh"] == diagonal["reported"]).all()
    assert figure.moment == "query 48"


def test_the_first_picture_has_theory_beside_measurement() -> None:
    knobs = Knobs(**{**SMALL, "seeds": 2}, mechanisms=("plain", "gaussian"))
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    data = EXPERIMENT.figures(log, knobs, None, ["reported"])["reported"].data
    assert data is not None
    assert set(data["arm"]) == {
        "Plain reuse",
        "Plain reuse, theory",
        "Gaussian noise",
        "Gaussian noise, theory",
    }
    mean = log.final("reported").query("arm == 'Plain reuse'")["value"].mean()
    assert data[data["arm"] == "Plain reuse"]["mean"].iloc[-1] == pytest.approx(mean)


# ---- closed forms in the browser


def in_vega(expression: str, values: Sequence[float], params: dict[str, float]) -> list[float]:
    """What Vega computes for these numbers of questions."""
    spec = {
        "data": {"values": [{"m": m} for m in values]},
        "params": [{"name": name, "value": value} for name, value in params.items()],
        "transform": [{"calculate": f"({expression}) + ''", "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    svg = vl_convert.vegalite_to_svg(spec)
    return [float(html.unescape(t)) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


QUESTIONS = [1, 10, 500, 20_000]


def test_reports_in_the_browser_are_the_librarys() -> None:
    params = {"rows": 700.0, "noise": 0.03}
    for name, noise in (("without noise", 0.0), ("with noise", 0.06)):
        expected = [100 * expected_attack_accuracy(700, m, noise) for m in QUESTIONS]
        assert in_vega(REPORT_CURVES[name], QUESTIONS, params) == pytest.approx(expected, rel=1e-6)
    assert in_vega(REPORT_CURVES["true"], QUESTIONS, params) == [50.0] * 4


def test_rows_in_the_browser_are_the_librarys() -> None:
    params = {"tau": 0.07, "beta": 0.02, "bits": 12.0}
    for name, kind in (("fixed questions", "nonadaptive"), ("splitting", "splitting")):
        expected = [sample_size(kind, m, 0.07, 0.02) for m in QUESTIONS]
        assert in_vega(BOUND_CURVES[name][1], QUESTIONS, params) == pytest.approx(expected, rel=1e-9)
    slopes = np.diff(np.log(in_vega(BOUND_CURVES["noise"][1], [100, 10_000], params))) / np.log(100)
    assert slopes[0] == pytest.approx(0.5)


def test_privacy_in_the_browser_is_the_librarys() -> None:
    params = {"rows": 900.0, "noise": 0.04, "budget": 7.0, "sigma": 0.02, "tau": 0.1}
    expected = {
        "Laplace noise": [laplace_privacy(m, 900, 0.04 / math.sqrt(2)) for m in QUESTIONS],
        "Gaussian noise": [gaussian_privacy(m, 900, 0.04, 1e-6) for m in QUESTIONS],
        "sparse test": [sparse_privacy(7, 0.02, 900)] * 4,
        "wanted: τ/2": [0.05] * 4,
    }
    for name, values in expected.items():
        assert in_vega(PRIVACY_CURVES[name], QUESTIONS, params) == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("make", [report_figure, rows_needed_figure, privacy_figure])
def test_closed_forms_are_drawn(make: Any) -> None:
    check_scales(make())


# ---- the game


def test_vote_accuracy_is_that_of_all_outcomes() -> None:
    agreements = [0.6, 0.5, 0.45, 0.8]
    expected = 0.0
    for outcome in product((0, 1), repeat=4):
        p = math.prod(a if hit else 1 - a for a, hit in zip(agreements, outcome, strict=True))
        expected += p * (1.0 if sum(outcome) > 2 else 0.5 if sum(outcome) == 2 else 0.0)
    assert vote_accuracy(agreements) == pytest.approx(expected)
    assert vote_accuracy([0.7]) == pytest.approx(0.7)


@pytest.mark.parametrize("kind", ["plain", "gaussian", "thresholdout"])
def test_game_repeats_from_its_seed_and_refuses_what_is_no_vote(kind: GameKind) -> None:
    one, two = AnalystGame(kind, 5), AnalystGame(kind, 5)
    np.testing.assert_array_equal(one.clues, two.clues)
    assert one.ask(one.best(7)) == two.ask(two.best(7))
    assert one.questions == FEATURES + 1
    for bad in ([], [FEATURES], [-1]):
        with pytest.raises(ValueError, match="picked must be"):
            one.ask(bad)
    assert len(one.history) == 1


def test_tempted_analyst_is_told_too_much_by_plain_reuse() -> None:
    gaps = []
    for seed in range(20):
        game = AnalystGame("plain", seed)
        report = game.ask(game.best(12))
        assert report.reported is not None
        gaps.append(report.reported - report.true)
    assert np.mean(gaps) > 0.08  # 12 of 40 noise features about 100 rows


def test_budget_of_the_game_runs_out() -> None:
    game = AnalystGame("thresholdout", 1)
    for count in range(1, 400):
        report = game.ask([count % FEATURES, (7 * count) % FEATURES, (11 * count) % FEATURES])
        if report.reported is None:
            break
    assert report.reported is None
    assert game.budget_left == 0
    assert sum(r.from_holdout for r in game.history) <= BUDGET


def test_game_charts_show_picks_and_history() -> None:
    game = AnalystGame("plain", 0)
    hidden = clues_figure(game, {0, 3}, reveal=False)
    assert hidden.data is not None
    assert (hidden.data["kind"] == "in your vote").sum() == 2
    assert not hidden.data["real"].any()
    shown = clues_figure(game, set(), reveal=True)
    assert shown.data is not None
    assert (np.flatnonzero(shown.data["real"]) == game.real).all()
    assert history_figure(game).data is not None
    game.ask([0, 1, 2])
    data = history_figure(game).data
    assert data is not None
    assert set(data["arm"]) == {"the holdout says", "true"}
    for figure in (hidden, shown, history_figure(game)):
        check_scales(figure)

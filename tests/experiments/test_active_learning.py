"""The page *Active learning*: exact losses, classes, games and formulas against independent derivations."""

from __future__ import annotations

import html
import math
import re
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from normviz.adaptive.animal_table import ANIMAL_TABLE, ANIMALS, QUESTIONS
from normviz.experiments.active_learning import EXPERIMENT, Knobs
from normviz.experiments.active_learning.contest import Contest, build_problem, build_rival
from normviz.experiments.active_learning.game_figures import belief_figure
from normviz.experiments.active_learning.knobs import MOST_PATHS, NAMES
from normviz.experiments.active_learning.learners import Learner, stages_of
from normviz.experiments.active_learning.question_game import BUDGET, Asker, QuestionGame
from normviz.experiments.active_learning.two_arms import TWO_ARM_CURVES, two_arm_figure
from normviz.frame import Frame, FrameLog
from tests.figures.test_every_figure import check_scales

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
SMALL: dict[str, Any] = {"steps": 10, "particles": 8, "classes": 2, "queries": 3, "seeds": 1}


@pytest.fixture(scope="module")
def contest() -> Contest:
    return Contest(Knobs(**SMALL), 0)


def uniform_regret(means: np.ndarray, budget: int) -> float:
    """Expected regret of random pulls, summed over every sequence of arms and answers."""
    n, total = len(means), 0.0
    for arms in product(range(n), repeat=budget):
        for answers in product((0, 1), repeat=budget):
            p = n**-budget
            pulls, sums = np.zeros(n), np.zeros(n)
            for arm, answer in zip(arms, answers, strict=True):
                p *= (1 + means[arm]) / 2 if answer else (1 - means[arm]) / 2
                pulls[arm] += 1
                sums[arm] += 2 * answer - 1
            value = sums / (pulls + 0.1)
            chosen = next(j for j in range(n) if value[j] >= value.max() - 1e-9)
            total += p * (means.max() - means[chosen])
    return total


# ---- the contest


def test_losses_are_sums_over_all_episodes(contest: Contest) -> None:
    policy = build_rival("uniform", contest.problem, contest.budget)
    losses = contest.losses(policy, contest.tested)
    for i in (0, 30, 100):
        expected = uniform_regret(contest.tested.theta[i].numpy(), 3)
        assert float(losses[i]) == pytest.approx(expected, abs=1e-10)


def test_problems_lie_in_their_class(contest: Contest) -> None:
    """Complexity of three arms once more, by a search over designs."""
    grid = np.array(
        [(a, b, 1 - a - b) for a in np.arange(0.01, 0.99, 0.01) for b in np.arange(0.01, 0.99 - a, 0.01)]
    )
    for i in (0, 40, 90, 127):
        theta = contest.tested.theta[i].numpy()
        best = int(theta.argmax())
        others = [j for j in range(3) if j != best]
        costs = [(1 / grid[:, best] + 1 / grid[:, j]) / (theta[best] - theta[j]) ** 2 for j in others]
        searched = np.max(costs, axis=0).min()
        assert float(contest.tested.hardness[i]) <= searched * (1 + 1e-9)
        assert float(contest.tested.hardness[i]) == pytest.approx(searched, rel=0.02)
        radius = contest.radii[int(contest.tested.home[i])]
        assert float(contest.tested.hardness[i]) <= radius * (1 + 1e-6)
        assert np.abs(theta).max() <= 1
    assert contest.tested.inside(1, contest.radii[1]).all()
    assert not torch.equal(contest.tested.theta[:32], contest.checked.theta[:32])


def test_an_attack_only_makes_things_worse_and_stays_in_class(contest: Contest) -> None:
    policy = build_rival("robin", contest.problem, contest.budget)
    losses = contest.losses(policy, contest.tested)
    before, after = contest.worst(losses, contest.tested), contest.attacked(policy, losses)
    assert all(a >= b - 1e-12 for a, b in zip(after, before, strict=True))
    assert before == sorted(before)
    assert after == sorted(after)
    assert max(after) <= 2.0  # the largest gap in the box


def test_questions_of_round_robin_are_known(contest: Contest) -> None:
    asked = contest.asked(build_rival("robin", contest.problem, contest.budget))
    np.testing.assert_allclose(asked, np.eye(3))
    uniform = contest.asked(build_rival("uniform", contest.problem, contest.budget))
    assert np.abs(uniform - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 200)


# ---- training


def test_stages_end_where_the_axis_ends() -> None:
    for steps, classes in ((10, 5), (150, 3), (151, 4)):
        knobs = Knobs(steps=steps, classes=classes)
        assert len(knobs.stage_steps()) == classes + 1
        assert knobs.total_steps() == steps
        assert knobs.stage_steps()[-1] >= 2 * knobs.stage_steps()[0]


def test_an_iterate_that_is_worse_is_not_kept() -> None:
    contest = Contest(Knobs(**SMALL), 1)
    learner = Learner("minimax", contest)
    stage = stages_of("minimax", contest)[0]
    learner._compare(stage)
    kept = {name: value.clone() for name, value in learner.best.state_dict().items()}
    with torch.no_grad():  # a policy that always asks one arm knows nothing about the others
        for p in learner.policy.parameters():
            p.mul_(50.0)
    one_sided = contest.worst(contest.losses(learner.policy, contest.checked), contest.checked)[-1]
    before = contest.worst(contest.losses(learner.best, contest.checked), contest.checked)[-1]
    learner._compare(stage)
    same = all(torch.equal(value, kept[name]) for name, value in learner.best.state_dict().items())
    assert same == (one_sided >= before)


@pytest.fixture(scope="module")
def log() -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**SMALL), "cpu"))


def test_experts_come_class_by_class_and_gaps_after_them(log: FrameLog) -> None:
    knobs = Knobs(**SMALL)
    ends = np.cumsum(knobs.stage_steps()[:-1])
    worst = [entry for entry in log.array_history("worst") if entry.arm == NAMES["experts"]]
    known = {entry.step: int(np.isfinite(entry.value).sum()) for entry in worst}
    assert known[knobs.total_steps()] == 2
    assert min(known) >= ends[0] - 1
    gaps = log.scalars("gap")
    assert gaps["step"].min() >= ends[-1] - 1
    final = {entry.arm: entry.value for entry in log.arrays("attacked_worst")}
    gap = log.final("attacked_gap").set_index("arm")["value"]
    for arm in (NAMES["robust"], NAMES["uniform"]):
        expected = float((final[arm] - final[NAMES["experts"]]).max())
        assert gap[arm] == pytest.approx(expected, abs=1e-6)
    assert np.diff(final[NAMES["experts"]]).min() >= 0


def test_charts_of_a_run_have_honest_axes(log: FrameLog) -> None:
    for figure in EXPERIMENT.figures(log, Knobs(**SMALL)).values():
        check_scales(figure)
        assert "nothing is measured" not in figure.alt


# ---- twenty questions


def test_binary_search_never_errs_without_noise_and_often_with() -> None:
    clean = FrameLog(EXPERIMENT.frames(Knobs(task="animals", noise=0.0, seeds=1), "cpu"))
    wrong = clean.final("wrong").set_index("arm")["value"]
    assert wrong["Binary search"] == 0
    assert wrong["Soft search"] == 0
    for figure in EXPERIMENT.figures(clean, Knobs(task="animals", noise=0.0, seeds=1)).values():
        check_scales(figure)
    noisy = FrameLog(
        EXPERIMENT.frames(Knobs(task="animals", noise=0.2, seeds=1, rivals=("gbs", "soft")), "cpu")
    )
    wrong = noisy.final("wrong").set_index("arm")["value"]
    assert wrong["Binary search"] > wrong["Soft search"] + 10
    belief = next(entry.value for entry in noisy.arrays("belief") if entry.arm == "Soft search")
    assert belief.shape == (BUDGET + 1, len(ANIMALS))
    np.testing.assert_allclose(belief.sum(axis=1), 1, atol=1e-5)


def test_belief_is_bayes_rule() -> None:
    asker = Asker(0.1)
    answers = [(0, True), (5, False), (0, True), (3, True)]
    expected = np.ones(len(ANIMALS))
    for question, answer in answers:
        asker.tell(question, answer)
        for a in range(len(ANIMALS)):
            expected[a] *= 0.9 if ANIMAL_TABLE[a][question] == answer else 0.1
    np.testing.assert_allclose(asker.belief(), expected / expected.sum(), atol=1e-12)
    asker.back()
    assert len(asker.history) == 3


def test_questions_split_evenly() -> None:
    yes = [sum(row[j] for row in ANIMAL_TABLE) for j in range(len(QUESTIONS))]
    assert yes[Asker(0.1).next_question()] == min(yes, key=lambda count: abs(count - 8))


@pytest.mark.parametrize("animal", range(len(ANIMALS)))
def test_true_answers_lead_to_the_animal(animal: int) -> None:
    asker = Asker(0.02)
    for _ in range(8):
        question = asker.next_question()
        asker.tell(question, ANIMAL_TABLE[animal][question])
    assert asker.guess() == animal


def test_a_game_is_played_by_both_and_ends() -> None:
    game = QuestionGame(0.0, 3)
    for t in range(BUDGET):
        assert game.ask(t) == ANIMAL_TABLE[game.animal][t]
    assert game.over
    assert game.reader.guess() == game.policy.guess() == game.animal
    with pytest.raises(ValueError, match="question must be"):
        game.ask(0)
    assert game.guess(game.animal)
    lies = QuestionGame(0.4, 3)
    wrong = sum(lies.ask(0) != ANIMAL_TABLE[lies.animal][0] for _ in range(BUDGET))
    assert 0 < wrong < BUDGET
    for bad in (-0.1, 0.5):
        with pytest.raises(ValueError, match="noise must be"):
            QuestionGame(bad, 0)
    for bad in (0.0, 0.5):
        with pytest.raises(ValueError, match="eps must be"):
            Asker(bad)


def test_belief_bars_show_both_players() -> None:
    game = QuestionGame(0.1, 0)
    game.ask(0)
    figure = belief_figure({"your answers": game.reader, "the policy's": game.policy})
    check_scales(figure)
    assert figure.data is not None
    assert len(figure.data) == 2 * len(ANIMALS)


# ---- the formula


@pytest.mark.parametrize("budget", [2, 20])
def test_two_arms_are_a_normal_probability(budget: int) -> None:
    vl_convert = pytest.importorskip("vl_convert")
    figure = two_arm_figure()
    assert figure.spec is not None
    assert figure.data is not None
    check_scales(figure)
    c = 4.0
    error = NormalDist(0, 2 / math.sqrt(budget)).cdf(
        -2 / math.sqrt(c)
    )  # the averages differ by Delta + noise
    expected = {"wrong decision": error, "regret": error * 2 / math.sqrt(c), "gap Δ": 2 / math.sqrt(c)}
    for name, expression in TWO_ARM_CURVES.items():
        spec = {
            "data": {"values": [{"c": c}]},
            "params": [{"name": "budget", "value": budget}],
            "transform": [{"calculate": expression, "as": "v"}],
            "mark": "text",
            "encoding": {"text": {"field": "v", "format": ".6f"}},
        }
        svg = html.unescape(vl_convert.vegalite_to_svg(spec))
        found = re.findall(r">(-?[0-9.]+)</text>", svg.replace("−", "-"))
        assert float(found[0]) == pytest.approx(expected[name], abs=2e-6), name


# ---- knobs and claims


def test_budgets_fit_the_exact_sums() -> None:
    for task in ("arms", "thresholds"):
        for options in range(2, 8):
            knobs = Knobs(task=task, options=options, queries=8)
            assert (2 * knobs.size()) ** knobs.budget() <= MOST_PATHS
            assert build_problem(knobs).actions.shape[0] == knobs.size()
    assert Knobs(task="animals", rivals=("minimax",)).kinds() == ("uniform",)
    assert Knobs(rivals=("gbs",)).kinds() == ("robust", "experts")


def test_too_much_work_is_refused_with_advice_that_fits() -> None:
    heavy: dict[str, Any] = {"steps": 2000, "seeds": 10, "queries": 6, "particles": 128}
    with pytest.raises(ValidationError, match="steps = ") as refused:
        Knobs(**heavy)
    fits = int(str(refused.value).split("steps = ")[1].split(",")[0])
    assert Knobs(**{**heavy, "steps": fits}).steps == fits


def test_gap_claim_compares_with_every_rival() -> None:
    knobs = Knobs(seeds=2)
    claim = CLAIMS["robust-has-the-smallest-gap"]
    gaps = {"Robust policy": 0.02, "Minimax": 0.05, "Fixed prior": 0.06, "Uniform": 0.1, "Elimination": 0.2}
    frames = [
        Frame(step, arm, seed, {"attacked_gap": gap + 1e-4 * seed})
        for step in (knobs.total_steps() - 1, knobs.total_steps())
        for arm, gap in gaps.items()
        for seed in (0, 1)
    ]
    verdict = claim.verdict(FrameLog(frames), knobs)
    assert verdict.outcome == "reproduced"
    assert verdict.estimate > 0
    assert {interval.rival for interval in verdict.intervals} == set(gaps) - {"Robust policy"}

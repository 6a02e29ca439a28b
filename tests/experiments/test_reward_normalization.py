from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

from normviz.arms import Arms
from normviz.experiments.reward_normalization import EXPERIMENT, Knobs, frozen
from normviz.experiments.reward_normalization.advantages import advantages, reward_parts
from normviz.experiments.reward_normalization.arithmetic import (
    BLANK,
    VOCABULARY,
    Questions,
    exact_rewards,
    new_policy,
    pretrain,
    reward_of,
)
from normviz.experiments.reward_normalization.beta_curves import beta_density, newest_fits, second_moment
from normviz.experiments.reward_normalization.claims import CLAIMS
from normviz.experiments.reward_normalization.frames import frames
from normviz.experiments.reward_normalization.knobs import (
    ESTIMATOR_NAMES,
    SUM,
    UNDECOMPOSED,
    reference_arm,
)
from normviz.experiments.reward_normalization.question_map import SIGNS, question_map_figure
from normviz.figures import Board
from normviz.figures.expressions import log_beta, log_gamma
from normviz.frame import Frame, FrameLog
from normviz.models import TokenPolicy
from normviz.testing import log_of_rows
from normviz.weighting import bnpo_parameters, gradient_second_moment, group_advantage

ALL = tuple(ESTIMATOR_NAMES)
CLAIM = {claim.id: claim for claim in CLAIMS}
BOTH = "accuracy_and_format"
TINY = {"steps": 10, "seeds": 1, "group": 4, "questions": 8}
BNPO, GRPO, BASELINE, REINFORCE, REMAX, PLUS = (
    ESTIMATOR_NAMES[n] for n in ("bnpo", "grpo", "reinforce_baseline", "reinforce", "remax", "reinforce++")
)


@pytest.fixture(scope="module")
def questions() -> Questions:
    return Questions()


@pytest.fixture(scope="module")
def taught(questions: Questions) -> TokenPolicy:
    torch.manual_seed(1)
    policy = new_policy()
    pretrain(policy, questions, 0.3)
    return policy


@pytest.fixture(scope="module")
def accuracy_log() -> FrameLog:
    return FrameLog(frames(Knobs(estimators=ALL, **TINY), "cpu"))


@pytest.fixture(scope="module")
def both_log() -> FrameLog:
    return FrameLog(frames(Knobs(estimators=ALL, rewards=BOTH, **{**TINY, "seeds": 2}), "cpu"))


# ------------------------------------------------------------------------------------------------------------- knobs


def test_names_of_arms() -> None:
    assert Knobs(estimators=("grpo", "bnpo")).shown_arms().names == (GRPO, BNPO)
    both = Knobs(estimators=("bnpo", "remax"), rewards=BOTH)
    assert both.shown_arms().names == (BNPO, UNDECOMPOSED, REMAX)
    assert reference_arm(both) == BNPO
    assert reference_arm(Knobs(estimators=("remax", "rloo"))) == REMAX
    assert Knobs.parse(Knobs(estimators=("reinforce++", "rloo")).to_query()).estimators == (
        "reinforce++",
        "rloo",
    )


# -------------------------------------------------------------------------------------------------------- arithmetic


def test_questions_and_answers(questions: Questions) -> None:
    assert len(questions) == 300
    texts = ["".join(VOCABULARY[t] for t in row) for row in questions.prompts.tolist()]
    assert len(set(texts)) == 300
    for text, answer, written in zip(
        texts, questions.answers.tolist(), questions.written().tolist(), strict=True
    ):
        a, sign, b = int(text[0]), text[1], int(text[2])
        assert answer == {"+": a + b, "-": abs(a - b), "×": a * b}[sign]
        assert "".join(VOCABULARY[t] for t in written) == f"{answer:2d}"
    assert torch.bincount(questions.operation).tolist() == [100, 100, 100]


def test_rewards_by_hand() -> None:
    responses = torch.tensor([[0, 7], [BLANK, 7], [7, BLANK], [1, 7], [BLANK, BLANK]])
    rewards = reward_of(responses, torch.full((5,), 7))
    assert rewards["accuracy"].tolist() == [1, 1, 0, 0, 0]
    assert rewards["format"].tolist() == [1, 0, 0, 1, 0]
    assert reward_of(torch.tensor([5, 6]), torch.tensor(56))["accuracy"].item() == 1


def test_exact_rewards_equal_enumeration(questions: Questions, taught: TokenPolicy) -> None:
    exact = exact_rewards(taught, questions)
    pairs = torch.tensor(list(itertools.product(range(11), repeat=2)))
    for q in (0, 37, 142, 299):
        sequences = torch.cat([questions.prompts[q].expand(121, 3), pairs], 1)
        p = taught.log_probs(sequences).sum(1).exp()
        first, second = pairs.T
        right = ((first % 10) * (first != BLANK) * 10 + second == questions.answers[q]) & (second != BLANK)
        formed = (first != BLANK) & (second != BLANK)
        assert exact["accuracy"][q].item() == pytest.approx(p[right].sum().item(), abs=1e-6)
        assert exact["format"][q].item() == pytest.approx(p[formed].sum().item(), abs=1e-6)


def test_pretraining_reaches_the_accuracy(questions: Questions, taught: TokenPolicy) -> None:
    accuracy = exact_rewards(taught, questions)["accuracy"].mean().item()
    assert 0.3 <= accuracy < 0.34
    assert pretrain(taught, questions, 0.3) == 0


# -------------------------------------------------------------------------------------------------------- advantages


def test_advantages_of_one_and_of_two_rewards() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = {n: (torch.rand(6, 5, generator=generator) < 0.6).float() for n in ("accuracy", "format")}
    greedy = {n: torch.ones(6) for n in rewards}
    one, greedy_one = {"accuracy": rewards["accuracy"]}, {"accuracy": greedy["accuracy"]}
    for estimator, arm in ESTIMATOR_NAMES.items():
        kw = {"greedy_rewards": torch.ones(6)} if estimator == "remax" else {}
        torch.testing.assert_close(
            advantages(arm, one, greedy_one), group_advantage(one["accuracy"], estimator, **kw)
        )
    parts = [group_advantage(r, "bnpo") for r in rewards.values()]
    torch.testing.assert_close(advantages(BNPO, rewards, greedy), (parts[0] + parts[1]) / 2)
    total = rewards["accuracy"] + rewards["format"]
    torch.testing.assert_close(advantages(UNDECOMPOSED, rewards, greedy), group_advantage(total / 2, "bnpo"))
    own, summed = reward_parts(BNPO, rewards), reward_parts(UNDECOMPOSED, rewards)
    assert list(own) == list(rewards)
    for name, part in zip(rewards, parts, strict=True):
        torch.testing.assert_close(own[name].advantages, part)
    torch.testing.assert_close(summed[SUM].advantages, group_advantage(total / 2, "bnpo"))
    torch.testing.assert_close(advantages(REMAX, rewards, greedy), total - 2)
    torch.testing.assert_close(advantages(GRPO, rewards, greedy), group_advantage(total, "grpo"))


# ------------------------------------------------------------------------------------------------- at a frozen policy


def sample(policy: TokenPolicy, questions: Questions, group: int, key: int = 0) -> frozen.Sampled:
    return frozen.sample_answers(policy, questions.prompts, questions.answers, group, ("accuracy",), (key,))


def test_gradient_of_each_question(questions: Questions, taught: TokenPolicy) -> None:
    sampled = sample(taught, questions, 4)
    A = advantages(BASELINE, sampled.rewards, sampled.greedy)
    gradients = frozen._gradients(taught, sampled.sequences, A)
    assert gradients.shape == (300, sum(p.numel() for p in taught.parameters()))
    for q in (3, 150):
        objective = (A[q] * taught.log_probs(sampled.sequences[q]).sum(1)).mean()
        expected = torch.autograd.grad(objective, list(taught.parameters()))
        flat = torch.cat([g.flatten() for g in expected])
        torch.testing.assert_close(gradients[q], flat, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("arm", "slope"), [(REINFORCE, 1.0), (BASELINE, 7 / 8), ("RLOO", 1.0), (REMAX, 1.0)])
def test_slopes_of_linear_advantages(arm: str, slope: float) -> None:
    p = torch.linspace(0.2, 0.8, 40)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand(40, 8, generator=generator) for _ in range(200)]
    c = frozen._slopes(arm, p, draws, {"accuracy": torch.zeros(40)})
    # 64,000 rewards: the mean's standard error is below 0.01.
    assert c.mean().item() == pytest.approx(slope, abs=0.03)


def test_slope_of_grpo_is_that_of_binomial_counts() -> None:
    G, p = 4, 0.3
    expected = 0.0
    for k in range(1, G):
        pk = math.comb(G, k) * p**k * (1 - p) ** (G - k)
        m, std = k / G, math.sqrt(k * (G - k) / G / (G - 1))
        expected += pk * (m * (1 - m) / (std + 1e-6)) / (p * (1 - p))
    generator = torch.Generator().manual_seed(1)
    draws = [torch.rand(500, G, generator=generator) for _ in range(100)]
    c = frozen._slopes(GRPO, torch.full((500,), p), draws, {})
    assert c.mean().item() == pytest.approx(expected, rel=0.01)
    settled = frozen._slopes(GRPO, torch.tensor([0.0, 1.0]), [torch.rand(2, G)], {})
    assert settled.tolist() == [0, 0]


def test_expected_gradient_is_the_mean_of_sampled_ones(questions: Questions, taught: TokenPolicy) -> None:
    """Along the expected gradient, the mean of 9600 sampled answers agrees within its error."""
    arm = BASELINE
    p = exact_rewards(taught, questions)["accuracy"]
    exact = torch.autograd.grad((7 / 8 * p).mean(), list(taught.parameters()))
    direction = torch.cat([g.flatten() for g in exact])
    along = []
    for key in range(4):
        sampled = sample(taught, questions, 8, key)
        g = frozen._gradients(taught, sampled.sequences, advantages(arm, sampled.rewards, sampled.greedy))
        along.append(g @ direction / direction.square().sum())
    values = torch.stack(along)  # (repetitions, questions)
    error = values.var(0).mean().sqrt() / math.sqrt(values.numel())
    assert abs(values.mean().item() - 1) < 4 * error.item()
    assert error < 0.2


def test_noise_is_scale_free(
    questions: Questions, taught: TokenPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = sample(taught, questions, 4)
    before = frozen.gradient_noise(taught, questions, sampled, [BASELINE], 32)
    plain = frozen.advantages
    monkeypatch.setattr(frozen, "advantages", lambda *a: 7 * plain(*a))
    after = frozen.gradient_noise(taught, questions, sampled, [BASELINE], 32)
    assert after[BASELINE] == pytest.approx(before[BASELINE], rel=1e-4)
    halved = frozen.gradient_noise(taught, questions, sampled, [BASELINE], 64)
    assert halved[BASELINE] == pytest.approx(before[BASELINE] / 2, rel=1e-4)


def test_second_moments(questions: Questions, taught: TokenPolicy) -> None:
    moments = frozen.second_moments(taught, questions, sample(taught, questions, 4))
    p = exact_rewards(taught, questions)["accuracy"].detach().double().numpy()
    m, v = p.mean(), p.var(ddof=1)
    kappa = m * (1 - m) / v - 1
    a, b = kappa * m, kappa * (1 - m)
    assert moments[BASELINE]["moment_theory"] == pytest.approx(a * b / ((a + b) * (a + b + 1)), rel=1e-6)
    assert moments[GRPO]["moment_theory"] == pytest.approx((math.pi / 8) ** 2, rel=1e-6)
    assert moments[BASELINE]["moment_policy"] == pytest.approx((p * (1 - p)).mean(), rel=1e-6)
    assert moments[GRPO]["moment_policy"] == pytest.approx((math.pi / 8) ** 2, rel=1e-6)
    others = [moments[arm]["moment_theory"] for arm in (GRPO, BASELINE)]
    margin = math.log10(min(others) / moments[BNPO]["moment_theory"])
    assert moments[BNPO]["theory_margin"] == pytest.approx(margin)
    assert margin > 0
    for arm in moments:
        assert 0.2 < moments[arm]["moment_gradient"] / moments[arm]["moment_policy"] < 5


def test_measured_second_moment_by_loop(questions: Questions, taught: TokenPolicy) -> None:
    sampled = sample(taught, questions, 2)
    p = exact_rewards(taught, questions)["accuracy"].detach()
    numerator = denominator = 0.0
    for q in range(300):
        for g in range(2):
            row = sampled.sequences[q, g]
            logp = log_softmax(taught(row[None])[0], -1)[[0, 1], row[3:]].sum()
            grads = torch.autograd.grad(logp, list(taught.parameters()))
            size = sum(x.square().sum().item() for x in grads)
            numerator += (sampled.rewards["accuracy"][q, g] - p[q]).item() ** 2 * size
            denominator += size
    measured = frozen.second_moments(taught, questions, sampled)[BASELINE]["moment_gradient"]
    assert measured == pytest.approx(numerator / denominator, rel=1e-4)


def test_no_moments_without_a_beta(questions: Questions) -> None:
    policy = new_policy()
    with torch.no_grad():
        policy.network.head.weight.zero_()
        policy.network.head.bias.zero_()
    # Equal probabilities for all answers: only "07" against "7" sets questions apart, v is tiny and a huge.
    assert frozen.second_moments(policy, questions, sample(policy, questions, 2))
    with torch.no_grad():
        policy.network.head.bias[0] = 200.0  # always "00": p is 0 or 1
    assert frozen.second_moments(policy, questions, sample(policy, questions, 2)) == {}


def test_special_cases() -> None:
    R = (torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    R[0], R[1] = 0, 1
    assert frozen.special_case_error(R) < 1e-12


# ------------------------------------------------------------------------------------------------------------- frames


def test_frames_of_all_estimators(accuracy_log: FrameLog) -> None:
    assert tuple(accuracy_log.arms) == Knobs(estimators=ALL).shown_arms().names
    assert not accuracy_log.events
    norms = accuracy_log.scalars("grad_norm")
    for arm in accuracy_log.arms:
        assert sorted(norms.loc[norms["arm"] == arm, "step"]) == list(range(10))
        evaluated = accuracy_log.scalars("accuracy")
        assert evaluated.loc[evaluated["arm"] == arm, "step"].tolist() == [0, 5, 10]
    start = accuracy_log.scalars("accuracy").query("step == 0")["value"]
    assert start.nunique() == 1
    assert set(accuracy_log.scalars("noise")["arm"]) == set(accuracy_log.arms)
    relative = accuracy_log.scalars("relative_noise")
    assert (relative.loc[relative["arm"] == BASELINE, "value"] == 1).all()
    assert accuracy_log.scalars("noise")["step"].unique().tolist() == [0, 10]
    assert set(accuracy_log.scalars("moment_theory")["arm"]) == {BNPO, GRPO, BASELINE}
    assert not [name for name in accuracy_log.scalar_names if name.startswith("part/")]
    assert "format" not in accuracy_log.scalar_names


def test_fit_of_the_log_is_that_of_the_library(accuracy_log: FrameLog) -> None:
    fit = {e.arm: e.value for e in accuracy_log.arrays("fit")}[GRPO]
    p = {e.arm: e.value for e in accuracy_log.arrays("p")}[GRPO]
    alpha, beta = bnpo_parameters(torch.tensor(p))
    np.testing.assert_allclose(fit[2:], [alpha, beta], rtol=1e-4)
    np.testing.assert_allclose(fit[2:], np.maximum(1 + fit[:2] / 3, 1), rtol=1e-5)


def test_frames_with_two_rewards(both_log: FrameLog) -> None:
    assert UNDECOMPOSED in both_log.arms
    assert {"accuracy", "format", "batch_accuracy", "batch_format"} <= set(both_log.scalar_names)
    assert set(both_log.scalars("noise")["arm"]) == set(both_log.arms) - {UNDECOMPOSED}
    assert both_log.last_step == 10
    parts = {name: set(both_log.scalars(f"part/{name}")["arm"]) for name in ("accuracy", "format", SUM)}
    assert parts == {"accuracy": {BNPO}, "format": {BNPO}, SUM: {UNDECOMPOSED}}
    assert set(both_log.scalars("alpha")["arm"]) == {BNPO, UNDECOMPOSED}


def test_all_arms_start_from_one_policy_and_see_one_batch(accuracy_log: FrameLog) -> None:
    batch = accuracy_log.scalars("batch_accuracy").query("step == 0")["value"]
    assert batch.nunique() == 1
    assert accuracy_log.scalars("batch_accuracy").query("step == 9")["value"].nunique() > 1


def test_learning_raises_the_accuracy() -> None:
    knobs = Knobs(estimators=("reinforce_baseline",), steps=40, seeds=1)
    log = FrameLog(frames(knobs, "cpu"))
    table = log.scalars("accuracy")["value"]
    assert table.iloc[-1] > table.iloc[0] + 0.05


def test_divergence_stops_one_member_only() -> None:
    knobs = Knobs(estimators=("grpo", "reinforce"), optimizer="sgd", **TINY)
    log = FrameLog(frames(knobs.model_copy(update={"learning_rate": 1e30}), "cpu"))
    assert log.events
    assert all("diverged at step" in e.text for e in log.events)
    assert math.isinf(log.final("grad_norm")["value"].iloc[0])


# ------------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize("x", [0.05, 0.3, 1.0, 2.5, 17.0])
def test_log_gamma_expression(x: float) -> None:
    names = {"log": math.log, "pow": pow, "PI": math.pi, "x": x, "y": 0.7}
    assert eval(log_gamma("x"), names) == pytest.approx(math.lgamma(x), abs=1e-6)
    expected = math.lgamma(x) + math.lgamma(0.7) - math.lgamma(x + 0.7)
    assert eval(log_beta("x", "y"), names) == pytest.approx(expected, abs=1e-6)


def test_beta_density_integrates_to_one() -> None:
    x = (np.arange(20000) + 0.5) / 20000
    for shape in ((1.0, 1.0), (1.5, 1.5), (2.3, 5.1)):
        assert beta_density(x, *shape).mean() == pytest.approx(1.0, abs=1e-4)
    assert beta_density(np.array([0.25]), 2.0, 3.0)[0] == pytest.approx(12 * 0.25 * 0.75**2)


def test_map_is_that_of_the_library() -> None:
    axis = np.linspace(0.5, 4, 9)
    ours = second_moment(axis[None, :], axis[:, None], 1.7, 3.2)
    theirs = gradient_second_moment(torch.tensor(axis)[None, :], torch.tensor(axis)[:, None], 1.7, 3.2)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-9)
    assert np.isinf(ours).any()


def test_figures_of_full_logs(accuracy_log: FrameLog, both_log: FrameLog) -> None:
    for log, knobs in (
        (accuracy_log, Knobs(estimators=ALL, **TINY)),
        (both_log, Knobs(estimators=ALL, rewards=BOTH, **{**TINY, "seeds": 2})),
    ):
        for step in (None, 6):
            for figure in EXPERIMENT.figures(log, knobs, step).values():
                assert "nothing is measured" not in figure.alt
                assert figure.data is None or not figure.data.empty
            assert newest_fits(log, step)[BNPO].step == (5 if step else 10)


def test_question_map_has_every_question_in_its_place(accuracy_log: FrameLog, questions: Questions) -> None:
    board = Board(accuracy_log, Arms.of([BNPO, GRPO]))
    data = question_map_figure(board, BNPO).data
    assert data is not None
    p = {e.arm: e.value for e in accuracy_log.arrays("p")}
    for i in (0, 37, 142, 299):
        a, sign, b = (VOCABULARY[t] for t in questions.prompts[i].tolist())
        row = data.iloc[i]
        number = "+-×".index(sign)
        assert (row["column"], row["row"]) == (11 * number + int(a), int(b))
        assert row["question"] == {0: f"{a} + {b}", 1: f"|{a} − {b}|", 2: f"{a} × {b}"}[number]
        assert row[BNPO] == pytest.approx(p[BNPO][i], abs=0.006)
        assert row[GRPO] == pytest.approx(p[GRPO][i], abs=0.006)
    assert len(SIGNS) == 3


def test_histogram_and_curves(accuracy_log: FrameLog) -> None:
    data = EXPERIMENT.figures(accuracy_log, Knobs(estimators=ALL, **TINY))["distribution"].data
    assert data is not None
    rows = data[data["arm"] == BNPO]
    bars = rows[rows["kind"] == "accuracies"]
    assert (bars["density"] * (bars["x2"] - bars["x"])).sum() == pytest.approx(1.0, abs=1e-3)
    assert rows["kind"].nunique() == 3


def test_browser_computes_the_normaliser_of_the_library() -> None:
    """Vega's formulas, run by vl-convert, for the sliders' first values a = 4, b = 2."""
    svg = EXPERIMENT.figures(FrameLog(), Knobs(), names=["normaliser"])["normaliser"].to_svg()
    a, b = 4.0, 2.0
    best = float(gradient_second_moment(1 + a / 3, 1 + b / 3, a, b))
    none = float(gradient_second_moment(1.0, 1.0, a, b))
    assert "α = 2.33, β = 1.67" in svg
    assert f"BNPO {best:.3f}, GRPO 0.154, none {none:.3f}" in svg


# ------------------------------------------------------------------------------------------------------------- claims


def measured(id: str, log: FrameLog, rival: str = "", **values: object) -> dict[int, float]:
    """The numbers of the seeds that have one, in a run that ends where the log does."""
    knobs = Knobs(**{"seeds": len(log.seeds), "steps": max(log.last_step, 10), **values})  # type: ignore[arg-type]
    found = CLAIM[id].rivals[rival](log, knobs)
    return {seed: value for seed, value in found.items() if not math.isnan(value)}


def test_noise_and_moments_by_hand() -> None:
    noise = {BNPO: [1.0, 2.0, 5.0], GRPO: [2.0, 3.0, 4.0], BASELINE: [1.0, 1.5, 6.0]}
    rows = [
        (5 * s, arm, 0, {"noise": v, "moment_gradient": v})
        for arm, c in noise.items()
        for s, v in enumerate(c)
    ]
    log = log_of_rows(rows)
    assert measured("least-noise", log, GRPO) == {0: pytest.approx(2 / 3)}
    assert measured("least-noise", log, BASELINE) == {0: pytest.approx(2 / 3)}
    against_grpo = np.mean([math.log10(1 / 2), math.log10(2 / 3), math.log10(5 / 4)])
    against_none = np.mean([math.log10(1 / 1), math.log10(2 / 1.5), math.log10(5 / 6)])
    assert measured("smallest-moment", log, GRPO) == {0: pytest.approx(against_grpo)}
    assert measured("smallest-moment", log, BASELINE) == {0: pytest.approx(against_none)}
    assert measured("less-noise-than-grpo", log) == {0: pytest.approx(against_grpo)}
    assert measured("least-noise", log_of_rows(rows[:6]), BASELINE) == {}
    assert measured("least-noise", log, GRPO, steps=20) == {}  # the run has not ended
    broken = log_of_rows([*rows, (10, GRPO, 1, {"noise": math.nan}), (10, BNPO, 1, {"noise": 1.0})])
    assert set(measured("least-noise", broken, GRPO)) == {0}


def test_final_accuracy_against_every_rival() -> None:
    finals = {BNPO: 0.7, REINFORCE: 0.5, REMAX: 0.6, GRPO: 0.75, PLUS: 0.1}
    rows = [(5 * s, arm, 0, {"accuracy": v if s else 9.0}) for arm, v in finals.items() for s in range(4)]
    log = log_of_rows(rows)
    for rival in (REINFORCE, REMAX, GRPO, PLUS):
        expected = {0: pytest.approx(0.7 - finals[rival])}
        assert measured("best-accuracy", log, rival, steps=15) == expected
    assert not CLAIM["best-accuracy"].applies(Knobs(rewards=BOTH))
    log.append(Frame.diverged(15, BNPO, 0, "the gradient's norm is nan", lost=["grad_norm"]))
    assert measured("best-accuracy", log, GRPO, steps=15) == {0: -math.inf}


def test_steadiness_ignores_scale_and_trend() -> None:
    def curve(scale: float, jitter: float) -> list[float]:
        return [scale * math.exp(0.1 * s + jitter * (s % 2)) for s in range(11)]

    jitters = {BNPO: 0.2, REINFORCE: 0.5, REMAX: 0.4, GRPO: 0.3, PLUS: 0.6}
    rows = [
        (s, arm, 0, {"grad_norm": v})
        for i, (arm, j) in enumerate(jitters.items())
        for s, v in enumerate(curve(10.0**i, j))
    ]

    def spread(jitter: float) -> float:
        return float(np.std(np.diff(np.log(curve(1.0, jitter))), ddof=1))

    for rival in (REINFORCE, REMAX, GRPO, PLUS):
        expected = {0: pytest.approx(spread(0.2) - spread(jitters[rival]))}
        assert measured("steadiest-gradients", log_of_rows(rows), rival) == expected
    lost = log_of_rows(rows)
    lost.append(Frame.diverged(10, GRPO, 0, "the gradient's norm is inf", lost=["grad_norm"]))
    assert measured("steadiest-gradients", lost, GRPO) == {0: -math.inf}


def test_decomposition_takes_the_mean_of_both_rewards() -> None:
    finals = {BNPO: (0.6, 0.9), UNDECOMPOSED: (0.5, 0.8)}
    rows = [
        (5 * s, arm, 0, {"accuracy": a if s else 0.0, "format": f if s else 0.0})
        for arm, (a, f) in finals.items()
        for s in range(4)
    ]
    assert measured("decomposition-helps", log_of_rows(rows), steps=15) == {0: pytest.approx(0.1)}
    assert measured("decomposition-helps", log_of_rows(rows[:4]), steps=15) == {}
    assert not CLAIM["decomposition-helps"].applies(Knobs())


def test_identities(accuracy_log: FrameLog) -> None:
    knobs = Knobs(estimators=ALL, **TINY)
    verdicts = EXPERIMENT.verdicts(accuracy_log, knobs)
    assert verdicts["special-cases"].outcome == "reproduced"
    assert verdicts["minimal-by-theory"].outcome == "reproduced"
    assert all(v.seeds == 1 for id, v in verdicts.items() if id != "decomposition-helps")
    broken = log_of_rows([(0, BNPO, 0, {"special_case_error": 0.1, "theory_margin": -0.2})])
    assert CLAIM["special-cases"].verdict(broken, knobs).outcome == "opposite"
    assert CLAIM["minimal-by-theory"].verdict(broken, knobs).outcome == "opposite"

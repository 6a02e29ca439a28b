"""All estimators at one and the same policy, which is not trained meanwhile: how noisy are their gradients?

Every question is answered once by a group of G; each estimator turns the same rewards into advantages. g_q is the
gradient from question q (mean over its answers). The noise of a batch of Q random questions is

    (E |g_q|^2 - |E g_q|^2) / Q   divided by   |E g_q|^2,

which does not depend on the scale of the advantages. The expected gradient is too small beside the noise to be measured
by sampling, but follows from the exact probability p_q of being right: E[A grad log pi] = c_q grad p_q with
c_q = E[A (R - p_q)] / (p_q (1 - p_q)), where rewards alone have to be simulated.

The theory speaks of something else, the second moment E[A^2 |grad log pi|^2] / E|grad log pi|^2, where each density f
has its normalising constant: measured with the exact p, beside V(alpha, beta) for p ~ Beta(a, b).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import log_softmax

from normviz.data import seeded_generator
from normviz.experiments.reward_normalization.advantages import advantages
from normviz.experiments.reward_normalization.arithmetic import Questions, exact_rewards, reward_of
from normviz.experiments.reward_normalization.knobs import ESTIMATOR_NAMES
from normviz.frame import Value
from normviz.models import TokenPolicy
from normviz.weighting import beta_moments, bnpo_advantage, bnpo_parameters, gradient_second_moment
from normviz.weighting.beta_normalizer import inverse_density

__all__ = ["Sampled", "gradient_noise", "sample_answers", "second_moments", "special_case_error"]

ANSWERS = 2
"""Answers per question in the measurement of the second moment."""
SIMULATIONS = 32
"""Simulated batches of rewards behind the expected gradient."""
SETTLED = 1e-5
"""A question whose p (1 - p) is smaller has no part in the expected gradient."""


class Sampled:
    """Sequences [Q, G, P + T] with their rewards [Q, G] and the greedy answers' rewards [Q], by name."""

    def __init__(self, sequences: Tensor, rewards: dict[str, Tensor], greedy: dict[str, Tensor]) -> None:
        self.sequences, self.rewards, self.greedy = sequences, rewards, greedy


def sample_answers(
    policy: TokenPolicy,
    prompts: Tensor,
    answers: Tensor,
    group: int,
    names: Sequence[str],
    key: tuple[int, ...],
) -> Sampled:
    """G answers to each of the prompts [Q, 3]; the random numbers depend on ``key`` alone, so all arms share them."""
    uniforms = torch.rand(len(prompts) * group, 2, generator=seeded_generator(*key)).to(prompts.device)
    sequences = policy.sample(prompts.repeat_interleave(group, 0), uniforms).view(len(prompts), group, -1)
    rewards = reward_of(sequences[..., 3:], answers[:, None])
    greedy = reward_of(policy.greedy(prompts)[:, 3:], answers)
    return Sampled(sequences, {n: rewards[n] for n in names}, {n: greedy[n] for n in names})


def _weighted_logp(policy: TokenPolicy, params: dict[str, Tensor], sequences: Tensor, A: Tensor) -> Tensor:
    """Mean over answers of A log pi(answer): sequences [G, P + T], A [G]."""
    logits = functional_call(policy, params, (sequences,))
    logp = log_softmax(logits, -1).gather(2, sequences[:, 3:, None])[..., 0].sum(1)  # [G]
    return (A * logp).mean()


def _gradients(policy: TokenPolicy, sequences: Tensor, A: Tensor) -> Tensor:
    """One gradient for each row of answers: sequences [N, G, P + T], A [N, G] -> [N, number of parameters]."""
    params = {name: p.detach() for name, p in policy.named_parameters()}

    def objective(params: dict[str, Tensor], sequences: Tensor, A: Tensor) -> Tensor:
        return _weighted_logp(policy, params, sequences, A)

    by_name = vmap(grad(objective), in_dims=(None, 0, 0))(params, sequences, A)
    return torch.cat([g.flatten(1) for g in by_name.values()], dim=1)


def gradient_noise(
    policy: TokenPolicy, questions: Questions, sampled: Sampled, arms: Sequence[str], batch: int
) -> dict[str, float]:
    """The noise of each arm's gradient in a batch of ``batch`` questions, see the module; NaN without any signal.

    Args:
        policy: held fixed.
        questions: all questions.
        sampled: a group of answers to each of them, with the accuracy as the only reward.
        arms: arms to compare.
        batch: Q.
    """
    p = exact_rewards(policy, questions)["accuracy"]  # [300], differentiable
    generator = seeded_generator(0, 3)
    group = sampled.sequences.shape[1]
    draws = [torch.rand(len(p), group, generator=generator).to(p.device) for _ in range(SIMULATIONS)]
    noise: dict[str, float] = {}
    for arm in arms:
        g = _gradients(policy, sampled.sequences, advantages(arm, sampled.rewards, sampled.greedy))
        c = _slopes(arm, p.detach(), draws, sampled.greedy)
        expected = torch.autograd.grad((c * p).mean(), list(policy.parameters()), retain_graph=True)
        signal = sum(float(part.square().sum()) for part in expected)
        noise[arm] = (float(g.square().sum(1).mean()) / signal - 1) / batch if signal > 0 else math.nan
    return noise


def _slopes(arm: str, p: Tensor, draws: Sequence[Tensor], greedy: dict[str, Tensor]) -> Tensor:
    """c_q = E[A (R - p_q)] / (p_q (1 - p_q)) over simulated rewards [Q, G]; 0 where a question is settled."""
    total = torch.zeros_like(p)
    for uniforms in draws:
        R = (uniforms < p[:, None]).float()
        total += (advantages(arm, {"accuracy": R}, greedy) * (R - p[:, None])).mean(1)
    variance = p * (1 - p)
    return torch.where(variance > SETTLED, total / len(draws) / variance.clamp(min=SETTLED), 0.0)


def second_moments(
    policy: TokenPolicy, questions: Questions, sampled: Sampled
) -> dict[str, dict[str, Value]]:
    """Theory and measurement of the three normalisers at this policy, by arm; nothing where the fit has a or b <= 0.

    Returns:
        for each arm ``moment_theory`` = V for the fitted Beta, ``moment_policy`` = mean of p (1 - p) / f(p)^2 over the
        questions, ``moment_gradient`` = E[A^2 |grad log pi|^2] / E|grad log pi|^2 with A = (R - p) / f(p); for BNPO
        also ``theory_margin`` = log10 of the smaller V of the other two over its own.
    """
    with torch.no_grad():
        p = exact_rewards(policy, questions)["accuracy"].cpu().double()  # not every device has doubles
    a, b = beta_moments(p)
    alpha, beta = bnpo_parameters(p)
    if float(a) <= 0 or float(b) <= 0:
        return {}
    shapes = {
        ESTIMATOR_NAMES["bnpo"]: (float(alpha), float(beta)),
        ESTIMATOR_NAMES["grpo"]: (1.5, 1.5),
        ESTIMATOR_NAMES["reinforce_baseline"]: (1.0, 1.0),
    }
    answers = min(ANSWERS, sampled.sequences.shape[1])
    sequences = sampled.sequences[:, :answers].flatten(0, 1)[:, None]  # [Q x answers, 1, P + T]
    scores = _gradients(policy, sequences, torch.ones(sequences.shape[:2], device=sequences.device))
    size = scores.square().sum(1).cpu()  # [Q x answers]
    deviation = (sampled.rewards["accuracy"][:, :answers].cpu() - p[:, None]).flatten()
    values: dict[str, dict[str, Value]] = {}
    for arm, (x, y) in shapes.items():
        w = inverse_density(p, x, y, 1e6)[0]
        A = w.repeat_interleave(answers) * deviation
        values[arm] = {
            "moment_theory": float(gradient_second_moment(x, y, float(a), float(b))),
            "moment_policy": float((p * (1 - p) * w.square()).mean()),
            "moment_gradient": float((A.square() * size).mean() / size.mean()),
        }
    bnpo, *others = (float(v["moment_theory"]) for v in values.values())
    values[ESTIMATOR_NAMES["bnpo"]]["theory_margin"] = math.log10(min(others) / bnpo)
    return values


def special_case_error(rewards: Tensor) -> float:
    """Largest difference of BNPO with alpha = beta = 1 from R - p, and with 3/2 from pi/8 (R - p) / sqrt(p (1 - p))."""
    R = rewards.cpu().double()
    p = R.mean(1, keepdim=True)
    mixed = ((p > 0) & (p < 1)).flatten()
    std = (p * (1 - p)).sqrt()[mixed]
    one = bnpo_advantage(R, alpha=1.0, beta=1.0).advantages - (R - p)
    half = bnpo_advantage(R, alpha=1.5, beta=1.5).advantages[mixed] - math.pi / 8 * (R - p)[mixed] / std
    return float(torch.cat([one.abs().flatten(), half.abs().flatten()]).max())

"""Arithmetic on digits with rewards that can be verified, and the exact probabilities of being rewarded.

300 questions a + b, |a - b|, a x b with digits a, b. The answer is two tokens: digits, or a blank in front. "07" and
" 7" are both right (accuracy); only "07" has two digits (format). With 11 x 11 possible answers, the probability that
a policy is right on a question is computed exactly, without sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from normviz.models import TokenPolicy

__all__ = ["BLANK", "VOCABULARY", "Questions", "exact_rewards", "new_policy", "pretrain", "reward_of"]

VOCABULARY = "0123456789 +-×"
BLANK = VOCABULARY.index(" ")
ACTIONS = BLANK + 1
SIGNS = [VOCABULARY.index(sign) for sign in "+-×"]

MOST_PRETRAINING = 500
"""Supervised steps after which the start is taken as it is."""


class Questions:
    """All questions: prompts (300, 3), answers (300,), number of the operation (300,), on a device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        a, b = (grid.flatten() for grid in torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij"))
        results = [a + b, (a - b).abs(), a * b]
        prompts = [torch.stack([a, torch.full_like(a, sign), b], dim=1) for sign in SIGNS]
        self.prompts = torch.cat(prompts).to(device)  # (300, 3)
        self.answers = torch.cat(results).to(device)
        self.operation = torch.arange(len(SIGNS)).repeat_interleave(len(a)).to(device)

    def __len__(self) -> int:
        return len(self.answers)

    def written(self) -> Tensor:
        """The answers as one writes them, without a leading zero: (300, 2) tokens."""
        tens, ones = self.answers // 10, self.answers % 10
        return torch.stack([torch.where(tens == 0, BLANK, tens), ones], dim=1)


def new_policy() -> TokenPolicy:
    """An untrained policy."""
    return TokenPolicy(len(VOCABULARY), prompt_length=3, response_length=2, num_actions=ACTIONS)


def reward_of(responses: Tensor, answers: Tensor) -> dict[str, Tensor]:
    """Accuracy and format of responses (..., 2) to questions with these answers (...): 0 or 1 each, float32."""
    first, second = responses[..., 0], responses[..., 1]
    value = torch.where(first == BLANK, 0, first) * 10 + second
    right = (second != BLANK) & (value == answers)
    formed = (first != BLANK) & (second != BLANK)
    return {"accuracy": right.float(), "format": formed.float()}


def exact_rewards(policy: TokenPolicy, questions: Questions) -> dict[str, Tensor]:
    """Probability of each reward on each question under the policy, (300,) each; differentiable."""
    n = len(questions)
    prompts = questions.prompts.repeat_interleave(ACTIONS, 0)
    first = torch.arange(ACTIONS, device=prompts.device).repeat(n)[:, None]
    sequences = torch.cat([prompts, first, torch.zeros_like(first)], dim=1)  # (300 x 11, 5)
    start = log_softmax(policy.logits_at(sequences[::ACTIONS], 0), -1).exp()  # (300, 11)
    follow = log_softmax(policy.logits_at(sequences, 1), -1).exp().view(n, ACTIONS, ACTIONS)
    joint = start[:, :, None] * follow  # (300, first token, second token)
    each = torch.cartesian_prod(torch.arange(ACTIONS), torch.arange(ACTIONS)).to(prompts.device)  # (121, 2)
    rewards = reward_of(each[None], questions.answers[:, None])
    return {name: (joint.flatten(1) * reward).sum(1).clamp(0, 1) for name, reward in rewards.items()}


def pretrain(policy: TokenPolicy, questions: Questions, accuracy: float) -> int:
    """Teach the policy by examples until its mean accuracy is reached; returns the number of steps."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    targets = questions.written()
    sequences = torch.cat([questions.prompts, targets], dim=1)
    for step in range(MOST_PRETRAINING):
        with torch.no_grad():
            reached = float(exact_rewards(policy, questions)["accuracy"].mean())
        if reached >= accuracy:
            return step
        optimizer.zero_grad()
        loss = cross_entropy(policy(sequences).flatten(0, 1), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return MOST_PRETRAINING

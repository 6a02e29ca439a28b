"""One way to the gradient, training adapters: exact attention, or low-rank factors of a polynomial near exp."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normviz.adapters import (
    LoRAAttentionGradients,
    LoRAWeight,
    feature_rank,
    lora_attention_gradients,
    lora_init,
    required_degree,
)
from normviz.adapters.score_radius import score_radius
from normviz.experiments.lora_limits.adapter_task import AdapterTask
from normviz.experiments.lora_limits.gradient_cost import without_gain_warning
from normviz.experiments.lora_limits.knobs import Knobs
from normviz.experiments.lora_limits.recorded import MOST_RANK

__all__ = ["Learner", "Polynomial", "adapter_gradient"]


@dataclass(frozen=True)
class Polynomial:
    """A polynomial near exp and the factors it gives.

    Attributes:
        kind: "taylor" or "chebyshev".
        degree: g.
        rank: monomials, C(d + g, g): columns of the factors.
    """

    kind: str
    degree: int
    rank: int


class Learner:
    """Adapters of one arm with one seed, trained by Adam on gradients in closed form.

    Args:
        kind: the arm's key in the knobs.
        knobs: the setting.
        task: inputs, targets and frozen weights.
        seed: of the adapters; every arm of a seed starts with the same.
    """

    def __init__(self, kind: str, knobs: Knobs, task: AdapterTask, seed: int) -> None:
        self.kind, self.knobs, self.task, self.seed = kind, knobs, task, seed
        draw = torch.Generator().manual_seed(seed + 1_000_000)
        self.adapters: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}
        for name in knobs.adapt:
            A, B, _ = lora_init(task.weights[name].cpu(), knobs.adapter_rank(), draw)
            self.adapters[name] = nn.Parameter(A.to(task.x.device)), nn.Parameter(B.to(task.x.device))
        parameters = [p for pair in self.adapters.values() for p in pair]
        self.optimizer = torch.optim.Adam(parameters, lr=knobs.learning_rate)
        start = required_degree(self.radius(), knobs.eps)
        self._kept = start + start % 2  # an even degree stays positive when the scores outgrow it

    def weights(self) -> dict[str, LoRAWeight]:
        """The projections by letter, with their adapters where they have one."""
        scaling = self.knobs.alpha / self.knobs.adapter_rank()
        found = {}
        for name, W in self.task.weights.items():
            A, B = (p.detach() for p in self.adapters[name]) if name in self.adapters else (None, None)
            found[name] = LoRAWeight(W, A, B, scaling)
        return found

    def projected(self) -> dict[str, Tensor]:
        """Queries, keys and values [L, d] by letter."""
        return {name: self.task.x @ weight.effective().mT for name, weight in self.weights().items()}

    def radius(self) -> float:
        """Bound of the present scores (Cauchy-Schwarz)."""
        at = self.projected()
        return float(score_radius(at["q"], at["k"], self.task.tau))

    def needed(self, kind: str) -> Polynomial | None:
        """What the present norms need for the wanted error; None: more than float64 or the most monomials allow."""
        try:
            degree = required_degree(self.radius(), self.knobs.eps, kind)
        except ValueError:  # the radius is beyond what any polynomial in float64 reaches
            return None
        rank = feature_rank(self.knobs.head_dim, degree)
        return Polynomial(kind, degree, rank) if rank <= MOST_RANK else None

    def polynomial(self) -> Polynomial | None:
        """What this arm uses now; None for the exact arm, and where there is none."""
        if self.kind == "exact":
            return None
        if self.kind == "kept":
            rank = feature_rank(self.knobs.head_dim, self._kept)
            return Polynomial("taylor", self._kept, rank) if rank <= MOST_RANK else None
        return self.needed(self.kind)

    def gradients(self, polynomial: Polynomial | None = None) -> LoRAAttentionGradients:
        """Loss, output and gradients at the present weights; None: exact."""
        x, weights = self.task.x, self.weights()
        options = {} if polynomial is None else {"degree": polynomial.degree, "poly": polynomial.kind}
        with without_gain_warning():
            return lora_attention_gradients(
                x,
                x,
                x,
                self.task.target,
                *(weights[name] for name in "qkv"),
                scale=self.task.tau,
                method="exact" if polynomial is None else "lowrank",
                **options,  # type: ignore[arg-type]
            )

    def update(self) -> float:
        """One step of Adam; returns the loss of one output entry as this arm computes it.

        Raises:
            ValueError: no polynomial serves the present norms; the message says why.
        """
        polynomial = self.polynomial()
        if self.kind != "exact" and polynomial is None:
            raise ValueError(
                f"scores up to {self.radius():.1f} need more than {MOST_RANK} monomials, or more than float64"
            )
        found = self.gradients(polynomial)
        for name, parameters in self.adapters.items():
            gradients = getattr(found, name)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        return mean_loss(found, self.task)


def mean_loss(found: LoRAAttentionGradients, task: AdapterTask) -> float:
    """Mean squared error of one output entry."""
    return 2 * float(found.loss) / task.target.numel()


def adapter_gradient(found: LoRAAttentionGradients) -> Tensor:
    """All adapters' gradients as one vector."""
    parts = [g.flatten() for pair in (found.q, found.k, found.v) if pair is not None for g in pair]
    return torch.cat(parts)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """``||found - exact|| / ||exact||``; NaN where the exact gradient is zero."""
    size = float(exact.norm())
    return float((found - exact).norm()) / size if size else math.nan

"""What can be set on the page *LoRA limits*, and the names of the arms that follow from it."""

from __future__ import annotations

import math
from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.knobs import Knobs as Base
from normviz.knobs import knob

__all__ = ["ARMS", "CHEBYSHEV", "EXACT", "KEPT", "TAYLOR", "ArmKind", "Knobs", "arm_name"]

ArmKind = Literal["exact", "taylor", "chebyshev", "kept"]

EXACT, TAYLOR, CHEBYSHEV, KEPT = "Exact", "Low-rank, Taylor", "Low-rank, Chebyshev", "Degree kept"
ARMS: dict[str, str] = {"exact": EXACT, "taylor": TAYLOR, "chebyshev": CHEBYSHEV, "kept": KEPT}
LOOKS = {"exact": (1, 0, 1), "taylor": (0, 1, 0), "chebyshev": (2, 2, 2), "kept": (3, 3, 3)}
"""Colour, dash and symbol. Lines that lie on each other are told apart by their dashes."""

EVALUATIONS = 16
"""Moments at which errors, ranks and spectra are measured."""


class Knobs(Base):
    """One head of attention with adapters, how its gradient is computed, and how far its norms are driven."""

    arms: tuple[ArmKind, ...] = knob(
        ("exact", "taylor", "chebyshev", "kept"),
        label="How the gradient is computed",
        help="Exact: the whole L x L attention matrix. Low-rank: a polynomial near exp, its degree chosen anew in each "
        "step from the norms. Degree kept: Taylor, with the degree that was enough at the start.",
        labels=ARMS,
        section="Gradient",
    )
    eps: float = knob(
        1e-3,
        1e-4,
        0.3,
        label="Wanted error ε",
        help="Largest relative error of the polynomial on the range of the scores; it decides the degree.",
        log=True,
        section="Gradient",
    )
    scale: Literal["practice", "theory"] = knob(
        "practice",
        label="Score scale τ",
        help="Scores are τ QKᵀ. 1/√d is usual in practice; the theorems take 1/d.",
        labels={"practice": "1/√d", "theory": "1/d"},
        section="Gradient",
    )
    length: int = knob(
        256,
        64,
        1024,
        label="Tokens L",
        help="Length of the sequence that is trained on. The low-rank factors gain nothing once they have L columns.",
        step=64,
        section="Task",
    )
    head_dim: int = knob(
        2,
        1,
        4,
        label="Head size d",
        help="Channels of the head. The number of monomials C(d + g, g) explodes with it, so that 4 is the most here.",
        section="Task",
    )
    start_radius: float = knob(
        0.8,
        0.1,
        4.0,
        label="Radius at the start",
        help="Bound of all scores before training: τ times the longest query times the longest key.",
        step=0.1,
        section="Task",
    )
    teacher_radius: float = knob(
        3.0,
        0.1,
        12.0,
        label="Radius of the teacher",
        help="The same for the attention that makes the targets. The student's norms grow towards it in training.",
        step=0.1,
        section="Task",
    )
    adapt: Literal["qv", "qkv"] = knob(
        "qv",
        label="Adapted projections",
        help="Queries and values is the paper's special case, queries, keys and values its general one.",
        labels={"qv": "queries, values", "qkv": "queries, keys, values"},
        section="Adapters",
    )
    rank: int = knob(
        1,
        1,
        4,
        label="Rank r of the adapters",
        help="Columns of B and rows of A; at most the head size is used.",
        section="Adapters",
    )
    alpha: float = knob(
        2.0,
        0.5,
        8.0,
        label="LoRA's α",
        help="The adapter counts s = α / r times.",
        step=0.5,
        section="Adapters",
    )
    longest_exact: Literal["1024", "2048", "4096"] = knob(
        "2048",
        label="Longest sequence, exact",
        help="The cost of one gradient is measured up to here with the exact method; 4096 tokens take 0.7 GB.",
        section="Cost",
    )
    longest: Literal["4096", "16384", "65536"] = knob(
        "16384",
        label="Longest sequence, low-rank",
        help="The cost of one gradient is measured up to here with low-rank factors of degree 4.",
        section="Cost",
    )
    steps: int = knob_fields.steps(120, 400)
    learning_rate: float = knob_fields.learning_rate(
        0.03, 0.001, 0.3, help="Of Adam on the adapters' A and B."
    )
    seeds: int = knob_fields.seeds(2)

    def kinds(self) -> tuple[str, ...]:
        """The arms' keys, in the order of the legend."""
        return tuple(kind for kind in ARMS if kind in self.arms) or ("exact",)

    def shown_arms(self) -> Arms:
        """One arm for each way to the gradient."""
        return Arms(tuple(Look(ARMS[kind], *LOOKS[kind]) for kind in self.kinds()))

    def adapter_rank(self) -> int:
        """Rank of the adapters: at most the head size."""
        return min(self.rank, self.head_dim)

    def tau(self) -> float:
        """The scale of the scores."""
        return 1 / math.sqrt(self.head_dim) if self.scale == "practice" else 1 / self.head_dim

    def stride(self) -> int:
        """Steps between two measurements."""
        return max(1, self.steps // EVALUATIONS)

    def lengths(self, kind: str) -> tuple[int, ...]:
        """Lengths at which an arm's cost is measured, ascending; none for arms whose cost is another's."""
        longest = {"exact": self.longest_exact, "taylor": self.longest}.get(kind)
        if longest is None:
            return ()
        return tuple(2**k for k in range(8, int(longest).bit_length()))

    def work(self) -> float:
        """Seconds: the steps of every arm, the exact ones quadratic in the length, and the costs at longer lengths."""
        seeds, squared = len(self.seed_range()), float(self.length**2)
        lowrank = sum(arm != "exact" for arm in self.arms) * self.length * self.head_dim**2
        steps = 0.0014 * len(self.arms) + 5.9e-09 * squared + 2.3e-06 * lowrank
        evaluations = 1.1e-08 * len(self.arms) * EVALUATIONS * squared
        longest = 9.7e-08 * int(self.longest_exact) ** 2 if "exact" in self.arms else 0.0
        longest += 5.2e-05 * int(self.longest) if "taylor" in self.arms else 0.0
        return seeds * (self.steps * steps + evaluations + longest + 0.31)


def arm_name(kind: str) -> str:
    """The arm's name on all charts."""
    return ARMS[kind]

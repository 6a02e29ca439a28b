"""What can be set on the page *Active learning*, and the names of the arms that follow from it."""

from __future__ import annotations

from typing import Literal

from normviz import knob_fields
from normviz.arms import Arms, Look
from normviz.knobs import Knobs as Base
from normviz.knobs import knob
from normviz.progress import QUERIES, STEPS, Progress

__all__ = [
    "ANIMAL_QUERIES",
    "EXPERTS",
    "EXPERTS_NAME",
    "MOST_PATHS",
    "NAMES",
    "ROBUST",
    "Knobs",
    "Task",
    "arm_name",
]

Task = Literal["arms", "thresholds", "animals"]
Rival = Literal["minimax", "prior", "uniform", "robin", "elimination", "gbs", "soft"]

ROBUST, EXPERTS = "robust", "experts"
NAMES: dict[str, str] = {
    ROBUST: "Robust policy",
    EXPERTS: "Class experts",
    "minimax": "Minimax",
    "prior": "Fixed prior",
    "uniform": "Uniform",
    "robin": "Round robin",
    "elimination": "Elimination",
    "gbs": "Binary search",
    "soft": "Soft search",
}
EXPERTS_NAME = NAMES[EXPERTS]
COLOURS = dict(zip(NAMES, (0, 2, 3, 4, 6, 9, 5, 1, 8), strict=True))
DASHES = {EXPERTS: 2, "uniform": 1, "robin": 4, "elimination": 3}

RIVALS: dict[Task, tuple[str, ...]] = {
    "arms": ("minimax", "prior", "uniform", "robin", "elimination"),
    "thresholds": ("minimax", "prior", "uniform", "elimination", "gbs", "soft"),
    "animals": ("uniform", "elimination", "gbs", "soft"),
}
"""Policies that a task has beside the robust one: binary search needs hypotheses that answer yes or no."""

ANIMAL_QUERIES = 20
"""Questions of a game about animals."""
MOST_PATHS = 200_000
"""Most sequences of questions and answers over which an expected loss is summed exactly."""
MOST_PROBLEM: dict[Task, int] = {"arms": 4, "thresholds": 7, "animals": 20}
FINAL_SHARE = 2
"""The last stage of the training is so many times as long as that of a class."""


class Knobs(Base):
    """The family of problems, how much may be asked, the classes of difficulty, and the training."""

    task: Task = knob(
        "arms",
        label="Problems",
        help="Arms: which of a few slot machines pays best? Thresholds: labels of points on a line, where do they "
        "change? Animals: twenty questions with wrong answers; nothing is trained there.",
        labels={"arms": "Slot machines", "thresholds": "Thresholds on a line", "animals": "Twenty questions"},
        section="Experiment",
    )
    rivals: tuple[Rival, ...] = knob(
        ("minimax", "prior", "uniform", "robin", "elimination", "gbs", "soft"),
        label="Rivals",
        help="Policies beside the robust one. Those that a task cannot have are left out.",
        labels={kind: name for kind, name in NAMES.items() if kind not in (ROBUST, EXPERTS)},
        section="Experiment",
    )
    loss: Literal["simple_regret", "best_identification"] = knob(
        "simple_regret",
        label="Loss",
        help="Regret: by how much the decision is worse than the best. Wrong decision: 1 if it is not the best one, "
        "however close. Twenty questions always count wrong decisions.",
        labels={"simple_regret": "Regret", "best_identification": "Wrong decision"},
        section="Experiment",
    )
    options: int = knob(
        3,
        2,
        7,
        label="Arms or points",
        help="Slot machines (at most 4) or points on the line.",
        section="Problem",
    )
    queries: int = knob(
        4,
        2,
        8,
        label="Questions T",
        help="Questions before the decision. Losses are exact sums over all answers, so that many options leave fewer "
        "questions: then the most that is possible is taken. Twenty questions always has 20.",
        section="Problem",
    )
    noise: float = knob(
        0.2,
        0.0,
        0.4,
        label="Wrong answers",
        help="Twenty questions: how often an answer is wrong. Elsewhere the problems themselves decide.",
        step=0.05,
        section="Problem",
    )
    classes: int = knob(
        3,
        1,
        5,
        label="Classes K",
        help="Classes of difficulty, nested: the first holds the easiest problems only.",
        section="Classes",
    )
    easiest: float = knob(
        3.0,
        3.0,
        10.0,
        label="Easiest class C ≤",
        help="Largest complexity in the first class. Each next class reaches further by the factor below.",
        step=0.5,
        section="Classes",
    )
    ratio: float = knob(
        3.0,
        1.5,
        6.0,
        label="Factor between classes",
        help="By how much the largest complexity grows from class to class.",
        step=0.5,
        section="Classes",
    )
    particles: int = knob(
        32,
        8,
        128,
        label="Particles",
        help="Problems that the adversary moves to where the policy is worst.",
        step=8,
        section="Training",
    )
    steps: int = knob_fields.steps(
        150,
        2000,
        help="Updates of each policy. The robust one spends them on one expert per class and then on itself; its "
        "rivals get as many.",
    )
    seeds: int = knob_fields.seeds(2)

    def kinds(self) -> tuple[str, ...]:
        """The arms of this task by key, in the order of the legend."""
        rivals = tuple(kind for kind in RIVALS[self.task] if kind in self.rivals)
        if self.task == "animals":
            return rivals or ("uniform",)
        return (ROBUST, EXPERTS, *rivals)

    def shown_arms(self) -> Arms:
        """One arm per policy."""
        order = list(NAMES)
        looks = (Look(NAMES[k], COLOURS[k], DASHES.get(k, 0), order.index(k)) for k in self.kinds())
        return Arms(tuple(looks))

    def size(self) -> int:
        """Arms or points of the problem."""
        return min(self.options, MOST_PROBLEM[self.task])

    def budget(self) -> int:
        """Questions before the decision, as many as the exact sums allow."""
        if self.task == "animals":
            return ANIMAL_QUERIES
        return max(t for t in range(1, self.queries + 1) if (2 * self.size()) ** t <= MOST_PATHS)

    def radii(self) -> list[float]:
        """Largest complexity of each class."""
        return [self.easiest * self.ratio**k for k in range(self.classes)]

    def stage_steps(self) -> list[int]:
        """Updates of each class's expert and, last, of the robust policy."""
        each = max(self.steps // (self.classes + FINAL_SHARE), 1)
        return [*[each] * self.classes, max(self.steps - each * self.classes, 1)]

    def total_steps(self) -> int:
        """Updates of each policy; in the game about animals its questions."""
        return ANIMAL_QUERIES if self.task == "animals" else sum(self.stage_steps())

    def progress(self) -> Progress:
        """Training steps; in the game about animals questions."""
        return QUERIES if self.task == "animals" else STEPS

    def stride(self) -> int:
        """Steps between two measurements."""
        return 1 if self.task == "animals" else max(1, self.total_steps() // 20)

    def work(self) -> float:
        """Seconds: steps of every policy that is trained, and exact sums over all answers at every measurement."""
        seeds = len(self.seed_range())
        if self.task == "animals":
            return 0.3 * seeds
        call, particle = {
            "arms": (0.0031, 2.4e-05),
            "thresholds": (0.0011, 0.00021),
        }[self.task]
        trained = sum(kind in (ROBUST, "minimax", "prior") for kind in self.kinds())
        steps = trained * self.steps * self.budget() * (call + particle * self.particles)
        paths: float = 22.0 * (2 * self.size()) ** self.budget()
        return seeds * (steps + len(self.kinds()) * (1.6e-06 * paths + 0.17))


def arm_name(kind: str) -> str:
    """The arm's name on all charts."""
    return NAMES[kind]

"""What is drawn on the page *Active learning*."""

from __future__ import annotations

from normviz.adaptive.animal_table import ANIMALS, QUESTIONS
from normviz.experiments.active_learning.class_picture import class_figure
from normviz.experiments.active_learning.knobs import EXPERTS, NAMES, ROBUST, Knobs
from normviz.experiments.active_learning.problem_profiles import hardest_figure
from normviz.experiments.active_learning.problem_scatter import scatter_figure
from normviz.experiments.active_learning.query_map import query_map_figure
from normviz.figures import Board, Drawer, Figure, Sheet

__all__ = ["sheet"]

MAPPED = ("robust", "minimax", "prior", "elimination", "gbs", "soft")
"""Policies whose questions are mapped, at most four of a task."""
SCATTERED = ("robust", "minimax", "uniform")
"""Policies whose losses are drawn as dots: more would hide each other."""
FAR_OFF = ("robin", "elimination")
"""Policies left out of two line charts: at small budgets they lose so much more that the other lines would be one."""
MOST_MAPPED = 4
LOSSES = {"simple_regret": "regret", "best_identification": "wrong decisions"}
SHOWN_ANIMAL = "owl"


def _some(board: Board, kinds: tuple[str, ...], most: int = 9) -> Board:
    """The board for the first few of these policies that are there; all if none is."""
    names = [NAMES[kind] for kind in kinds if NAMES[kind] in board.arms][:most]
    return board.only(names) if names else board


def _without(board: Board, *kinds: str) -> Board:
    """The board without these policies."""
    left_out = {NAMES[kind] for kind in kinds}
    return board.only(name for name in board.arms if name not in left_out)


def _positions(knobs: Knobs) -> list[str]:
    n = knobs.size()
    if knobs.task == "arms":
        return ["best", *(["2nd", "3rd", "4th"][: n - 1])]
    return [str(j + 1) for j in range(n)]


def _worst(knobs: Knobs) -> Drawer:
    return lambda board: class_figure(board, knobs.radii(), loss=LOSSES[knobs.loss])


def _scatter(knobs: Knobs) -> Drawer:
    return lambda board: scatter_figure(_some(board, SCATTERED), loss=LOSSES[knobs.loss])


def _hardest(knobs: Knobs) -> Drawer:
    arms = knobs.task == "arms"

    def draw(board: Board) -> Figure:
        return hardest_figure(
            board,
            NAMES[ROBUST],
            x="arm" if arms else "point on the line",
            y="chance of a win" if arms else "chance of the label +",
            positions=_positions(knobs),
        )

    return draw


def _asked(knobs: Knobs) -> Drawer:
    if knobs.task == "animals":
        numbers = [str(j + 1) for j in range(len(QUESTIONS))]

        def draw_questions(board: Board) -> Figure:
            return query_map_figure(
                board,
                "asked",
                rows=QUESTIONS,
                shown=numbers,
                title="What is asked when",
                y="question",
                value="share of games",
                look_for="Who asks the same questions in every game?",
            )

        return draw_questions
    arms = knobs.task == "arms"

    def draw(board: Board) -> Figure:
        return query_map_figure(
            _some(board, MAPPED, MOST_MAPPED),
            "asked",
            rows=_positions(knobs),
            title="What is asked when, on one hard problem",
            y="arm" if arms else "point",
            value="share of episodes",
            look_for="Does a policy turn to the best two arms?" if arms else "Does a policy narrow down?",
        )

    return draw


def _hard(knobs: Knobs) -> Drawer:
    def draw(board: Board) -> Figure:
        return _without(board, *FAR_OFF).lines(
            "hard",
            title="Worst case in the hardest class",
            y=f"largest expected {LOSSES[knobs.loss]}",
            look_for="Does training sink below uniform? (Elimination: far above.)",
        )

    return draw


def _gap(board: Board) -> Figure:
    return _without(board, EXPERTS, *FAR_OFF).lines(
        "gap",
        title="Largest gap to the class experts",
        y="loss above the best",
        look_for="Comes once the experts are trained. 0: as good as all experts.",
        zero_line=True,
    )


def _attacked(board: Board) -> Figure:
    return _without(board, EXPERTS).dots(
        {"found by chance": "gap", "after an attack": "attacked_gap"},
        title="Gap on problems that fight back",
        x="largest gap to the class experts",
        look_for="At the end: how much does gradient ascent still find?",
    )


def _loss(board: Board) -> Figure:
    return board.lines(
        "loss",
        title="Loss on the adversary's problems",
        y="mean loss of a batch",
        look_for="The adversary raises it, the policy lowers it.",
    )


def _effective(board: Board) -> Figure:
    return board.lines(
        "effective",
        title="Problems that matter",
        y="effective number of particles",
        look_for="How many problems share the adversary's weight?",
    )


def _identified(board: Board) -> Figure:
    return board.lines(
        "identified",
        title="Animals named rightly",
        y="games (%)",
        look_for="Whose guess is best after each question?",
        unit=" %",
    )


def _certain(board: Board) -> Figure:
    return board.lines(
        "certain",
        title="How sure one could be",
        y="probability of the likeliest animal (%)",
        look_for="Which questions tell most?",
        unit=" %",
    )


def _wrong(board: Board) -> Figure:
    return board.lines(
        "wrong",
        title="Animals named wrongly",
        y="games (%)",
        look_for="Who stops improving?",
        unit=" %",
        log_scale=True,
    )


def _belief(board: Board) -> Figure:
    return query_map_figure(
        board,
        "belief",
        rows=ANIMALS,
        title=f"One game about the {SHOWN_ANIMAL}",
        y="animal",
        value="probability",
        look_for=f"When does the {SHOWN_ANIMAL}'s row turn blue?",
        first=0,
    )


def _found(board: Board) -> Figure:
    return query_map_figure(
        board,
        "found",
        rows=ANIMALS,
        title="Which animals are found",
        y="animal",
        value="named rightly",
        look_for="Which animals are mixed up longest?",
        first=0,
    )


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    if knobs.task == "animals":
        return Sheet(
            {
                "identified": _identified,
                "belief": _belief,
                "questions": _asked(knobs),
                "found": _found,
                "certain": _certain,
                "wrong": _wrong,
            }
        )
    return Sheet(
        {
            "worst": _worst(knobs),
            "hard": _hard(knobs),
            "hardest": _hardest(knobs),
            "asked": _asked(knobs),
            "scatter": _scatter(knobs),
            "gap": _gap,
        },
        {"The game": {"loss": _loss, "effective": _effective, "attacked": _attacked}},
    )

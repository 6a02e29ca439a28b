"""The board: the log, the arms and the moment that all charts of a page share; a chart says only what it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from normviz.arms import Arms
from normviz.figures.areas import area_figure
from normviz.figures.bars import bar_figure
from normviz.figures.curves import curve_figure
from normviz.figures.dots import dot_figure
from normviz.figures.figure import Figure
from normviz.figures.lines import line_figure
from normviz.figures.profiles import profile_figure
from normviz.figures.ridges import ridge_figure
from normviz.figures.strips import strips_figure
from normviz.frame import Log
from normviz.progress import STEPS, Progress

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_ON_STAGE", "Board", "Drawer", "Sheet"]

MOST_ON_STAGE = 6
"""Most charts that a page shows at once."""


@dataclass(frozen=True)
class Board:
    """What all charts of a run share.

    Args:
        log: the frames.
        arms: the arms of the setting, in the order of the legend.
        step: moment that is shown; None: the newest.
        last: last position of the run on its progress axis, so that axes do not move while it grows.
        progress: what a step counts.
    """

    log: Log
    arms: Arms
    step: int | None = None
    last: int = 0
    progress: Progress = STEPS

    def only(self, names: Iterable[str]) -> Board:
        """The same board for some of the arms."""
        return replace(self, arms=self.arms.only(names))

    def of(self, log: Log, arms: Arms | None = None) -> Board:
        """The same moment for another log (a view, a derived one) and, if given, other arms."""
        return replace(self, log=log, arms=self.arms if arms is None else arms)

    @property
    def _shared(self) -> dict[str, Any]:
        return {"arms": self.arms, "step": self.step, "progress": self.progress}

    def lines(
        self,
        series: str | Sequence[str] | Mapping[str, str],
        *,
        title: str,
        y: str,
        look_for: str,
        **options: Any,
    ) -> Figure:
        """Lines along the run; see :func:`normviz.figures.line_figure`."""
        shared = {**self._shared, "last": self.last}
        return line_figure(self.log, series, title=title, y=y, look_for=look_for, **{**shared, **options})

    def areas(self, parts: Mapping[str, str], *, title: str, y: str, look_for: str, **options: Any) -> Figure:
        """Stacked shares along the run; see :func:`normviz.figures.area_figure`."""
        shared = {**self._shared, "last": self.last}
        return area_figure(self.log, parts, title=title, y=y, look_for=look_for, **{**shared, **options})

    def profile(self, name: str, *, title: str, x: str, y: str, look_for: str, **options: Any) -> Figure:
        """A value by position at the moment shown; see :func:`normviz.figures.profile_figure`."""
        return profile_figure(
            self.log, name, title=title, x=x, y=y, look_for=look_for, **{**self._shared, **options}
        )

    def ridges(
        self, name: str, *, title: str, x: str, look_for: str, low: float, high: float, **options: Any
    ) -> Figure:
        """Histograms by layer at the moment shown; see :func:`normviz.figures.ridge_figure`."""
        shared = {**self._shared, "low": low, "high": high}
        return ridge_figure(self.log, name, title=title, x=x, look_for=look_for, **{**shared, **options})

    def strips(self, name: str, *, title: str, y: str, value: str, look_for: str, **options: Any) -> Figure:
        """A value by layer and time as colour; see :func:`normviz.figures.strips_figure`."""
        shared = {**self._shared, "last": self.last}
        return strips_figure(
            self.log, name, title=title, y=y, value=value, look_for=look_for, **{**shared, **options}
        )

    def dots(self, places: Mapping[str, str], *, title: str, x: str, look_for: str, **options: Any) -> Figure:
        """Values side by side at the moment shown; see :func:`normviz.figures.dot_figure`."""
        return dot_figure(
            self.log, places, title=title, x=x, look_for=look_for, **{**self._shared, **options}
        )

    def curves(
        self, data: pd.DataFrame, *, title: str, x: str, y: str, look_for: str, **options: Any
    ) -> Figure:
        """Values against any quantity from a tidy table; see :func:`normviz.figures.curve_figure`."""
        return curve_figure(data, title=title, x=x, y=y, look_for=look_for, **{"arms": self.arms, **options})

    def bars(
        self, values: Mapping[str, float], *, title: str, x: str, look_for: str, **options: Any
    ) -> Figure:
        """A number of each arm as a bar; see :func:`normviz.figures.bar_figure`."""
        return bar_figure(values, title=title, x=x, look_for=look_for, **{"arms": self.arms, **options})


Drawer = Callable[[Board], Figure]
"""Draws one chart."""


@dataclass(frozen=True)
class Sheet:
    """The charts of a setting: the stage that is always in sight, and further charts in named groups.

    Charts are drawn when they are asked for: a page draws the stage and the group that is open.

    Args:
        stage: at most six, in order; the first is the page's picture.
        more: further charts by the group's name.

    Raises:
        ValueError: no chart or more than six on the stage, or a name that stands twice.
    """

    stage: Mapping[str, Drawer]
    more: Mapping[str, Mapping[str, Drawer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.stage) <= MOST_ON_STAGE:
            raise ValueError(f"stage must hold 1 to {MOST_ON_STAGE} charts, got {len(self.stage)}.")
        names = [*self.stage, *(name for group in self.more.values() for name in group)]
        if len(set(names)) < len(names):
            raise ValueError(f"charts must have different names, got {', '.join(names)}.")

    @property
    def drawers(self) -> dict[str, Drawer]:
        """All charts by name, the stage first."""
        return {**self.stage, **{name: draw for group in self.more.values() for name, draw in group.items()}}

    def draw(self, board: Board, names: Iterable[str] | None = None) -> dict[str, Figure]:
        """The charts of these names (default: all) for what the board shows."""
        drawers = self.drawers
        return {name: drawers[name](board) for name in (drawers if names is None else names)}

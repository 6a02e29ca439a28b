"""Progress of a run on the terminal: a bar with the newest values, or a line now and then where nothing is redrawn."""

from __future__ import annotations

import os
import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from normviz.frame import Frame
from normviz.knobs import Knobs

__all__ = ["RunProgress", "can_redraw", "run_bars"]

_PLAIN_LINES = 5
"""Lines of progress where the terminal cannot redraw one (a file, a notebook)."""


class RunProgress:
    """A bar with the newest loss of each arm and the time left; where nothing can be redrawn, a line now and then.

    Args:
        console: where to draw (standard error, so that results can be piped).
        knobs: the run's knobs; positions are in the units of their progress axis.
        title: shown before the bar.
        quiet: draw nothing.
    """

    def __init__(self, console: Console, knobs: Knobs, title: str, *, quiet: bool = False) -> None:
        self._console, self._title, self._quiet = console, title, quiet
        self._total, self._axis = knobs.total_steps(), knobs.progress()
        self._steps: dict[tuple[str, int], int] = {}
        self._values: dict[str, dict[int, float]] = {}
        self._headline = ""
        self._began = time.monotonic()
        self._lines = 0
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn(f"{self._axis.one} {{task.completed:.0f}} of {{task.total}}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task(title, total=self._total)
        self._live: Live | None = None

    @property
    def step(self) -> float:
        """Mean over the networks of the position each has reached; one that diverged counts as done."""
        return sum(self._steps.values()) / max(len(self._steps), 1)

    def on_frame(self, frame: Frame) -> None:
        """Take note of a frame."""
        diverged = frame.kind == "diverged"
        self._steps[frame.arm, frame.seed] = self._total if diverged else frame.step
        for name, value in frame.values.items():
            if isinstance(value, float) and (name == "loss" or self._headline in ("", name)):
                if name != self._headline:
                    self._headline = name
                    self._values.clear()
                self._values.setdefault(frame.arm, {})[frame.seed] = value
        if not self._quiet and self._live is None:
            self._print_line()

    def newest(self) -> str:
        """The newest value of each arm, mean over seeds."""
        means = {arm: sum(by_seed.values()) / len(by_seed) for arm, by_seed in self._values.items()}
        listed = ", ".join(f"{arm} {value:.3g}" for arm, value in means.items())
        return f"{self._headline}: {listed}" if means else ""

    def __enter__(self) -> RunProgress:
        self._began = time.monotonic()
        if not self._quiet and can_redraw(self._console):
            self._live = Live(
                console=self._console, get_renderable=self._render, refresh_per_second=8, transient=False
            )
            self._live.start()
        elif not self._quiet:
            self._say(f"{self._title}: starting")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _render(self) -> RenderableType:
        self._bar.update(self._task, completed=self.step)
        return Group(self._bar.get_renderable(), Text(self.newest() or "loading PyTorch", style="dim"))

    def _print_line(self) -> None:
        done = self.step / self._total if self._total else 0.0
        if int(done * _PLAIN_LINES) > self._lines:
            self._lines = int(done * _PLAIN_LINES)
            left = (time.monotonic() - self._began) * (1 - done) / done
            when = f", about {left:.0f} s left" if done < 1 else ""
            self._say(f"{self._title}: {self._axis.at(self.step)} of {self._total}{when}; {self.newest()}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def run_bars(console: Console) -> Progress:
    """Bars for several runs; a task says what it does in its field ``doing``."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[doing]}", markup=False),
        TimeElapsedColumn(),
        console=console,
    )


def can_redraw(console: Console) -> bool:
    """Whether lines can be drawn over; a notebook's shell looks like a terminal but cannot."""
    return console.is_terminal and not console.is_dumb_terminal and "JPY_PARENT_PID" not in os.environ

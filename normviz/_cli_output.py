"""What the command line shows: progress of a run, tables of verdicts, of a sweep and of the catalog."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from normviz.catalog import PAGES, PAPERS, papers_of_page
from normviz.claims import Claim, Verdict
from normviz.experiments import SLUGS, Run
from normviz.frame import Frame
from normviz.knobs import Knobs

__all__ = ["RunProgress", "catalog_table", "final_values", "sweep_table", "tally", "verdict_table"]

_STYLE = {"reproduced": ("✓", "green"), "not reproduced": ("✗", "red"), "undecided": ("?", "yellow")}

_PLAIN_STEPS = 5
"""Lines of progress where the terminal cannot redraw one (a file, a notebook)."""

_HEADLINES = ("validation_loss", "loss")
"""The value that stands for an arm, the first that a run has; else its first scalar."""


class RunProgress:
    """A bar with the newest loss of each arm and the time left; where nothing can be redrawn, a line now and then.

    Args:
        console: where to draw (standard error, so that results can be piped).
        knobs: the run's knobs.
        title: shown before the bar.
        quiet: draw nothing.
    """

    def __init__(self, console: Console, knobs: Knobs, title: str, *, quiet: bool = False) -> None:
        self._console, self._title, self._quiet = console, title, quiet
        self._total = knobs.total_steps()
        self._steps: dict[tuple[str, int], int] = {}
        self._values: dict[str, dict[int, float]] = {}
        self._headline = ""
        self._began = time.monotonic()
        self._lines = 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("step {task.completed:.0f} of {task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=self._total)
        self._live: Live | None = None

    @property
    def step(self) -> float:
        """Mean over the networks of the step each has reached; one that diverged counts as done."""
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
        return (
            f"{self._headline}: " + ", ".join(f"{a} {_number(v)}" for a, v in means.items()) if means else ""
        )

    def __enter__(self) -> RunProgress:
        self._began = time.monotonic()
        if not self._quiet and _can_redraw(self._console):
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
        self._progress.update(self._task, completed=self.step)
        return Group(self._progress.get_renderable(), Text(self.newest() or "loading PyTorch", style="dim"))

    def _print_line(self) -> None:
        done = self.step / self._total if self._total else 0.0
        if int(done * _PLAIN_STEPS) > self._lines:
            self._lines = int(done * _PLAIN_STEPS)
            left = (time.monotonic() - self._began) * (1 - done) / done
            when = f", about {left:.0f} s left" if done < 1 else ""
            self._say(f"{self._title}: step {self.step:.0f} of {self._total}{when}; {self.newest()}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _can_redraw(console: Console) -> bool:
    """Whether lines can be drawn over; a notebook's shell looks like a terminal but cannot."""
    return console.is_terminal and not console.is_dumb_terminal and "JPY_PARENT_PID" not in os.environ


def verdict_table(claims: Sequence[Claim], verdicts: Mapping[str, Verdict], title: str = "") -> Table:
    """One row per claim: the statement, the paper's figure, the number measured here with its interval, the outcome."""
    table = Table(title=Text(title) if title else None, title_justify="left", show_lines=True, expand=False)
    for heading, ratio in (("Claim", 4), ("In the paper", 3), ("Measured here", 4), ("Outcome", 3)):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for claim in claims:
        verdict = verdicts[claim.id]
        mark, colour = _STYLE[verdict.outcome]
        why = f"\n{verdict.reason}" if verdict.outcome == "undecided" else ""
        paper = PAPERS.get(claim.paper)  # an experiment of one's own may cite another
        source = f" ({paper.authors.split(',')[0]} {paper.year}, arXiv {paper.arxiv})" if paper else ""
        table.add_row(
            Text(claim.statement + source),
            Text(claim.paper_figure),
            Text(f"{claim.measured_text(verdict)}: {claim.measured}."),
            Text.assemble((f"{mark} {verdict.outcome}", colour), why),
        )
    return table


def tally(verdicts: Iterable[Verdict]) -> str:
    """How many verdicts of each outcome, of those that were measured: "2 reproduced, 1 undecided"."""
    outcomes = [verdict.outcome for verdict in verdicts if verdict.per_seed]
    return ", ".join(f"{outcomes.count(o)} {o}" for o in _STYLE if o in outcomes) or "nothing measured"


def final_values(run: Run) -> tuple[str, dict[str, float]]:
    """Name and value, for each arm, of what stands for a run: the mean over seeds at the end."""
    names = run.log.scalar_names
    name = next((n for n in (*_HEADLINES, *names) if n in names), "")
    if not name:
        return "", {}
    table = run.log.final(name).groupby("arm", sort=False)["value"].mean()
    return name, {str(arm): float(value) for arm, value in table.items()}


def sweep_table(points: Sequence[Mapping[str, Any]], runs: Sequence[Run | None]) -> Table:
    """One row per combination: its knobs, how it ended, the arms' last values, the verdicts, the run's id."""
    ends = [final_values(run) if run is not None else ("", {}) for run in runs]
    names = {name for name, values in ends if values}
    table = Table(title=f"{len(points)} runs", title_justify="left")
    for heading in (*points[0], "status", f"last {' or '.join(sorted(names))}", "claims", "run"):
        table.add_column(heading, overflow="fold")
    for point, run, (_, values) in zip(points, runs, ends, strict=True):
        knobs = [Text("+".join(v) if isinstance(v, list) else str(v)) for v in point.values()]
        if run is None:
            table.add_row(*knobs, "not started")
            continue
        status = "interrupted" if run.status == "cancelled" else run.status
        listed = "\n".join(f"{arm} {_number(value)}" for arm, value in values.items())
        table.add_row(*knobs, status, Text(listed), tally(run.verdicts().values()), run.id)
    return table


def catalog_table() -> Table:
    """The pages with their papers and whether they can be run."""
    table = Table(show_lines=True)
    table.add_column("Page", no_wrap=True)
    table.add_column("Status", no_wrap=True)
    table.add_column("Papers", overflow="fold")
    for slug in PAGES:
        papers = "\n".join(f"{p.title} (arXiv {p.arxiv})" for p in papers_of_page(slug))
        status = Text("built", style="green") if slug in SLUGS else Text("planned", style="dim")
        table.add_row(slug, status, Text(papers))
    return table


def _number(value: float) -> str:
    return f"{value:.3g}"

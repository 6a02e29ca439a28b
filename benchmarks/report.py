"""How every benchmark reports: a table on the screen and a JSON file with the environment."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from normviz.environment import environment

RESULTS = Path(__file__).with_name("results")


def report(
    name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = ""
) -> None:
    """Print a table and write ``results/<name>.json`` with rows, environment and time."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    console = Console()
    console.print(table)
    if note:
        console.print(note, style="dim")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "title": title,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "note": note,
        "environment": environment(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


def paired_ratio(
    a: Callable[[], float], b: Callable[[], float], repeats: int = 5
) -> tuple[float, float, float]:
    """Median, lowest and highest ratio a / b of alternating measurements, after one warm-up of each."""
    a()
    b()
    ratios = [a() / b() for _ in range(repeats)]
    return statistics.median(ratios), min(ratios), max(ratios)


def seconds_per_call(call: Callable[[], object], slice_: float) -> Callable[[], float]:
    """A measurement: mean seconds of a call over one time slice."""

    def measure() -> float:
        calls, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < slice_:
            call()
            calls += 1
        return spent / calls

    return measure


def against_baseline(
    baseline: Callable[[], float], contenders: Sequence[Callable[[], float]], repeats: int
) -> list[tuple[float, float, float, float]]:
    """Median milliseconds, then median, lowest and highest ratio to the baseline; the baseline's own row first."""
    plain: list[float] = []
    rows = []
    for contender in contenders:
        own: list[float] = []
        ratios = paired_ratio(_noted(contender, own), _noted(baseline, plain), repeats)
        rows.append((1e3 * statistics.median(own), *ratios))
    return [(1e3 * statistics.median(plain), 1.0, 1.0, 1.0), *rows]


def _noted(measure: Callable[[], float], into: list[float]) -> Callable[[], float]:
    def noted() -> float:
        into.append(measure())
        return into[-1]

    return noted

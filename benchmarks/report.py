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

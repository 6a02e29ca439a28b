"""``python -m tests.soak``: all trials at full length, about ten minutes; ends with 1 if anything failed."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.soak.engine_faults import full_disks, killed_servers, killed_workers, many_owners
from tests.soak.hostile_input import damaged_files, hostile_links, random_settings
from tests.soak.tabs import many_tabs
from tests.soak.trial import Trial

__all__ = ["trials"]


def trials(folder: Path, size: float, seed: int) -> dict[str, Callable[[], Trial]]:
    """All trials by name; ``size`` 1 is full length."""

    def times(full: int) -> int:
        return max(1, round(full * size))

    def place(name: str) -> Path:
        path = folder / name
        path.mkdir()
        return path

    def chance() -> random.Random:
        return random.Random(seed)

    return {
        "workers": lambda: killed_workers(place("workers"), times(20), chance()),
        "servers": lambda: killed_servers(place("servers"), times(20), chance()),
        "disk": lambda: full_disks(place("disk"), times(20), chance()),
        "owners": lambda: many_owners(place("owners"), times(32), 6),
        "links": lambda: hostile_links(times(10_000), chance()),
        "settings": lambda: random_settings(times(460), chance()),
        "damage": lambda: damaged_files(place("damage"), times(500), chance()),
        "tabs": lambda: many_tabs(times(60), times(8)),
    }


def main() -> int:
    """Run the trials that are asked for and print what they came to."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--size", type=float, default=1.0, help="length of every trial, 1 is full")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of all chance")
    parser.add_argument("--only", default="", help="trials, separated by commas")
    given = parser.parse_args()
    table = Table("trial", "tried", "failed", "measured", "seconds", title=f"seed {given.seed}")
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NORMVIZ_EXPERIMENTS"] = "tests.engine.toy"
        os.environ["NORMVIZ_DATA"] = folder  # nothing of the reader's own is touched
        for name, trial in trials(Path(folder), given.size, given.seed).items():
            if given.only and name not in given.only.split(","):
                continue
            began = time.monotonic()
            done = trial()
            seconds = f"{time.monotonic() - began:.0f}"
            table.add_row(done.name, str(done.tried), str(len(done.failures)), done.measured, seconds)
            failed += [f"{done.name}: {sentence}" for sentence in done.failures]
    console = Console()
    console.print(table)
    for sentence in failed[:40]:
        console.print(sentence, style="red", markup=False)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

"""The default run of every page in two warm workers: seconds to its first frame and to its end.

The goal is an end within 20 seconds on two idle cores. The CPU time of the busier worker says nearly the same where
other programs take their share of the cores.
"""

from __future__ import annotations

import time

from benchmarks.report import report
from benchmarks.spread import timed
from normviz.engine import WorkerEngine
from normviz.experiments import SLUGS, get_experiment


def default_run(engine: WorkerEngine, slug: str) -> list[object]:
    """One row: seconds to the first frame and to the end, CPU seconds of the busier worker, the page's estimate."""
    experiment = get_experiment(slug)
    knobs = experiment.knobs()
    end, first, busier = timed(engine, experiment, knobs)
    return [slug, first, end, busier, knobs.work()]


def main() -> None:
    engine = WorkerEngine(2, threads=1)
    try:
        while engine.workers_ready() < 2:
            time.sleep(0.1)
        default_run(engine, SLUGS[0])  # warms both workers up
        rows = [default_run(engine, slug) for slug in SLUGS]
    finally:
        engine.close()
    report(
        "default_runs",
        "Default runs in two workers",
        ["page", "first frame (s)", "end (s)", "busier worker (CPU s)", "estimate (s of one core)"],
        rows,
        note="One run each. The goal is an end within 20 s on two idle cores.",
    )


if __name__ == "__main__":
    main()

"""A run of two seeds in two workers against the same run in one: seconds to its end and to its first frame.

Both are measured in turn in the same two warm workers, one thread each; "one worker" is the same experiment, declared
not to be divisible. Half the time is the best two cores can do.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from benchmarks.report import report
from normviz.engine import WorkerEngine
from normviz.experiments import Experiment, get_experiment

PAGES = ("normalization-statistics", "self-normalizing")
ROUNDS = 3


def timed(engine: WorkerEngine, experiment: Experiment) -> tuple[float, float]:
    """Seconds to the end and to the first frame of a run of the default knobs with two seeds."""
    start = time.perf_counter()
    run = engine.submit(experiment, experiment.knobs(seeds=2), owner="benchmark", device="cpu")  # type: ignore[call-arg]
    engine.wait_for_frames(run.id, 0, 60.0)
    first = time.perf_counter() - start
    while run.live:
        engine.wait_for_frames(run.id, len(run.log), 60.0)
    assert run.status == "done", run.error
    return time.perf_counter() - start, first


def measure(engine: WorkerEngine, slug: str) -> list[list[object]]:
    """Rows of ratios, two workers over one."""
    divided = get_experiment(slug)
    whole = replace(divided, divisible=False)
    ends, firsts = [], []
    for _ in range(ROUNDS):
        (two, two_first), (one, one_first) = timed(engine, divided), timed(engine, whole)
        ends.append(two / one)
        firsts.append(two_first / one_first)
    return [
        [f"{slug}: {what}", statistics.median(ratios), min(ratios), max(ratios)]
        for what, ratios in (("end", ends), ("first frame", firsts))
    ]


def main() -> None:
    engine = WorkerEngine(2, threads=1)
    try:
        while engine.workers_ready() < 2:
            time.sleep(0.1)
        rows = [row for slug in PAGES for row in measure(engine, slug)]
    finally:
        engine.close()
    columns = ("time in two workers / in one", "median", "lowest", "highest")
    report("spread", "Two seeds in two workers (half the time is the best)", columns, rows)


if __name__ == "__main__":
    main()

"""A run of two seeds in two workers against the same run in one: seconds to its end and to its first frame.

Both are measured in turn in the same two warm workers, one thread each; "one worker" is the same experiment, declared
not to be divisible. Half the time is the best two cores can do. The CPU time of the busier worker says the same where
other programs take their share of the cores.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import psutil

from benchmarks.report import report
from normviz.engine import WorkerEngine
from normviz.experiments import Experiment, get_experiment
from normviz.knobs import Knobs

PAGES = ("normalization-statistics", "self-normalizing")
ROUNDS = 3


def work(engine: WorkerEngine) -> dict[int, float]:
    """CPU seconds that each worker has used."""
    return {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in engine.worker_pids()}


def timed(engine: WorkerEngine, experiment: Experiment, knobs: Knobs) -> tuple[float, float, float]:
    """A run: seconds to its end and to its first frame, CPU seconds of the busier worker."""
    before, start = work(engine), time.perf_counter()
    run = engine.submit(experiment, knobs, owner="benchmark", device="cpu")
    engine.wait_for_frames(run.id, 0, 60.0)
    first = time.perf_counter() - start
    while run.live:
        engine.wait_for_frames(run.id, len(run.log), 60.0)
    assert run.status == "done", run.error
    end = time.perf_counter() - start
    return end, first, max(used - before[pid] for pid, used in work(engine).items())


def measure(engine: WorkerEngine, slug: str) -> list[list[object]]:
    """Rows of ratios, two workers over one."""
    divided = get_experiment(slug)
    whole = replace(divided, divisible=False)
    knobs = divided.knobs.parse({"seeds": 2})
    timed(engine, divided, knobs)  # warms both workers up
    ratios = [
        [
            two / one
            for two, one in zip(timed(engine, divided, knobs), timed(engine, whole, knobs), strict=True)
        ]
        for _ in range(ROUNDS)
    ]
    names = ("end", "first frame", "CPU time of the busier worker")
    return [
        [f"{slug}: {name}", statistics.median(column), min(column), max(column)]
        for name, column in zip(names, zip(*ratios, strict=True), strict=True)
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

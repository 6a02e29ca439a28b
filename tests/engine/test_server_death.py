from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from normviz.engine import RunStore
from tests.waiting import wait_until

SERVER = """
import json, sys, time
from normviz.engine import RunStore, WorkerEngine
from tests.engine.toy import EXPERIMENT, ToyKnobs
if __name__ == "__main__":
    store = RunStore(sys.argv[1])
    engine = WorkerEngine(1, store=store, threads=1)
    run = engine.submit(EXPERIMENT, ToyKnobs(steps=100_000, delay=5.0), owner="me")
    engine.submit(EXPERIMENT, ToyKnobs(), owner="me")
    while True:
        time.sleep(0.02)
        said = {"id": run.id, "frames": len(run.log), "pids": list(engine.worker_pids()), "time": time.time()}
        print(json.dumps(said), flush=True)
"""


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_killed_server_leaves_a_readable_store_and_no_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as server:
        for line in server.stdout:
            said.append(json.loads(line))
            if said[-1]["frames"] > 400:
                break
        server.kill()
        killed = time.time()
    # A second of the server's own time: while a busy machine did not let it run, it could store nothing.
    held = max(after["time"] - before["time"] for before, after in pairwise(said))
    old = [s["frames"] for s in said if s["time"] < killed - 1.0 - 2 * held]
    assert old[-1] > 10

    store = RunStore(tmp_path)
    (row,) = store.list()
    assert row.id == said[-1]["id"]
    assert row.status == "cancelled"
    run = store.load(row.id)
    assert run.error.startswith("The server ended while this run was going")
    assert len(run.log) >= old[-1]
    assert [f.step for f in run.log.frames] == list(range(len(run.log)))
    assert row.frames == len(run.log)
    store.close()

    assert len(said[-1]["pids"]) == 1
    wait_until(lambda: all(ended(pid) for pid in said[-1]["pids"]), "the workers' end")


STARTING = """
import os, signal, sys
from pathlib import Path
from normviz.engine import WorkerEngine, control
if __name__ == "__main__":
    control.SHARED_MEMORY = Path(sys.argv[1])
    engine = WorkerEngine(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="the system does not know open files by number"
)
def test_server_that_is_killed_while_its_workers_start_leaves_no_file(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", STARTING, str(tmp_path)], cwd=Path.cwd(), check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []

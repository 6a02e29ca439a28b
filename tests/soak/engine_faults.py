"""Workers and servers that are killed, and many owners at once, on the engine's own toy experiment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from normviz.engine import RunStore, WorkerEngine
from normviz.experiments import Run
from tests.engine.test_server_death import SERVER
from tests.engine.test_store import full_disk
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.soak.trial import Trial
from tests.waiting import wait_until

__all__ = ["full_disks", "killed_servers", "killed_workers", "many_owners"]


def _engine(folder: Path) -> tuple[WorkerEngine, RunStore]:
    store = RunStore(folder)
    engine = WorkerEngine(2, store=store, threads=1, nice=0)
    wait_until(lambda: engine.workers_ready() == 2, "two warm workers")
    return engine, store


def _end(run: Run) -> None:
    wait_until(lambda: not run.live, f"the end of run {run.id}", progress=lambda: len(run.log))


def killed_workers(folder: Path, times: int, chance: random.Random) -> Trial:
    """A worker is killed at a random moment of its run: only that run fails, and keeps what it had."""
    trial = Trial("worker killed (SIGKILL) while it trains")
    engine, store = _engine(folder)
    try:
        for _ in range(times):
            victim = engine.submit(EXPERIMENT, ToyKnobs(steps=2000, delay=2.0), owner="victim")
            other = engine.submit(EXPERIMENT, ToyKnobs(steps=100, delay=1.0), owner="other")
            wanted = chance.randrange(1, 120)
            wait_until(lambda wanted=wanted, run=victim: len(run.log) >= wanted or not run.live)
            pid = next((p for p, run_id in engine.worker_pids().items() if run_id == victim.id), None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            _end(victim)
            _end(other)
            trial.tried += 1
            trial.expect(victim.status == "failed", f"the run of a killed worker ended as {victim.status}")
            trial.expect(other.status == "done", f"another run ended as {other.status}: {other.error}")
            seen = len(victim.log)
            kept = store.load(victim.id)
            trial.expect(len(kept.log) == seen, f"{seen} frames were seen, {len(kept.log)} are kept")
    finally:
        engine.close()
        store.close()
    return trial


def killed_servers(folder: Path, times: int, chance: random.Random) -> Trial:
    """The server is killed while a run goes on: the store is whole, and at most about a second is lost."""
    trial = Trial("server killed (SIGKILL) while a run goes on")
    lost = 0.0
    for i in range(times):
        place = folder / str(i)
        said = []
        command = [sys.executable, "-c", SERVER, str(place)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as server:
            assert server.stdout is not None
            until = chance.randrange(50, 500)
            for line in server.stdout:
                said.append(json.loads(line))
                if said[-1]["frames"] > until:
                    break
            server.kill()
        trial.tried += 1
        store = RunStore(place)
        (row,) = store.list()
        run = store.load(row.id)
        trial.expect(row.status == "cancelled", f"the run is shown as {row.status}")
        kept = len(run.log)
        trial.expect([f.step for f in run.log.frames] == list(range(kept)), "frames are missing or twice")
        gone = [s["time"] for s in said if s["frames"] > kept]
        lost = max(lost, said[-1]["time"] - gone[0] if gone else 0.0)
        store.close()
    trial.measured = f"at most {lost:.2f} s of frames lost"
    trial.expect(lost <= 1.5, f"{lost:.2f} s of frames lost")
    return trial


def full_disks(folder: Path, times: int, chance: random.Random) -> Trial:
    """The disk is full for a while, also when the run ends: once there is room again, every frame is kept."""
    trial = Trial("disk full while a run trains or ends")
    engine, store = _engine(folder)
    try:
        for _ in range(times):
            run = engine.submit(EXPERIMENT, ToyKnobs(steps=300, delay=2.0), owner="one")
            first, last = sorted(chance.randrange(1, 400) for _ in range(2))
            wait_until(lambda first=first, run=run: len(run.log) >= first or not run.live)
            with full_disk(store):
                wait_until(lambda last=last, run=run: len(run.log) >= last or not run.live)
            _end(run)
            trial.tried += 1
            trial.expect(run.status == "done", f"the run ended as {run.status}: {run.error}")
            reader = RunStore(folder)
            wait_until(
                lambda run=run, reader=reader: reader.load(run.id).status == "done", "the end in the store"
            )
            kept = len(reader.load(run.id).log)
            trial.expect(kept == len(run.log), f"{len(run.log)} frames were seen, {kept} are kept")
            reader.close()
    finally:
        engine.close()
        store.close()
    return trial


def many_owners(folder: Path, owners: int, each: int) -> Trial:
    """Many owners with several runs each: every run has its own numbers, and nobody waits for another's whole queue."""
    trial = Trial(f"{owners} owners with {each} runs each at once")
    engine, store = _engine(folder)
    try:
        greedy = [engine.submit(EXPERIMENT, ToyKnobs(steps=20, tag=-1.0), owner="greedy") for _ in range(40)]
        runs = {
            (owner, n): engine.submit(
                EXPERIMENT, ToyKnobs(steps=5, tag=owner * 100.0 + n), owner=f"owner {owner}"
            )
            for n in range(each)
            for owner in range(owners)
        }
        for run in (*runs.values(), *greedy):
            _end(run)
        for (owner, n), run in runs.items():
            trial.tried += 1
            tags = set(run.log.scalars("tag")["value"])
            trial.expect(run.status == "done", f"a run ended as {run.status}: {run.error}")
            trial.expect(tags == {owner * 100.0 + n}, f"owner {owner} sees {tags}")
        firsts = max(runs[owner, 0].started or time.time() for owner in range(owners))
        last = max(run.started or 0.0 for run in greedy)
        trial.expect(firsts < last, "the one with forty runs was served before others' first runs")
    finally:
        engine.close()
        store.close()
    return trial

"""The worker engine: experiments run in a small pool of warm processes, and their frames stream back while they train.

The server never trains and never loads PyTorch. Each worker process is started once, with PyTorch already imported, and
runs one experiment after the other; a run begins within milliseconds and its first frame is sent at once. A thread per
worker reads its messages, appends the frames to the run's log and to the store, and wakes whoever waits for them.

- More runs than workers wait in a queue in which the owners (the page's visitors) take turns.
- A cancellation takes effect within one training step (:mod:`normviz.engine.control`); a worker that does not react to
  it is replaced.
- A worker that dies fails only the run it had, and is replaced.
- A run that nobody watches any more is cancelled after a grace period, in which a reloaded page can take it up again.
"""

from __future__ import annotations

import atexit
import copy
import logging
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from normviz.engine.fair_queue import FairQueue
from normviz.engine.keeper import Keeper
from normviz.engine.process import WorkerProcess
from normviz.engine.protocol import decode_frames
from normviz.engine.resolve import find_experiment
from normviz.engine.store import RunStore
from normviz.environment import environment
from normviz.experiments import Experiment, Run
from normviz.knobs import KnobError, Knobs
from normviz.validation import check_integer, check_real

__all__ = ["WorkerEngine"]

logger = logging.getLogger("normviz.engine")

MOST_WORKERS = 8
KEPT_IN_MEMORY = 32
"""Ended runs that nobody watches and that :meth:`WorkerEngine.get` still finds."""

PATIENCE = 10.0
"""Seconds a worker has to react to a cancellation before it is killed."""

_GIVE_UP_AFTER = 3
_LONGEST_BACKOFF = 60.0


@dataclass(eq=False)
class _Job:
    """A run and where it is: in the queue, in a worker, or ended (neither)."""

    run: Run
    owner: str
    number: int
    changed: threading.Condition
    worker: WorkerProcess | None = None
    viewers: set[str] = field(default_factory=set)
    attachments: int = 0
    started: bool = False
    cancelling: bool = False


class WorkerEngine:
    """A pool of warm worker processes with a fair queue before it. Thread-safe.

    Args:
        workers: processes; default: the environment variable ``NORMVIZ_WORKERS``, else one per CPU core that this
            process may use, at most 8. Each takes about 0.3 GB of memory (and, with CUDA, a context of about 0.5 GB on
            the GPU): with a GPU one worker per GPU is enough.
        store: where runs are kept; default: nowhere. A store that fails never stops a run
            (:meth:`store_message`). The engine does not close it.
        grace: seconds a run goes on without a viewer.
        threads: threads PyTorch uses in each worker; default: the cores shared out evenly, at least one.
        publish_interval: seconds between two batches of frames of a run; the first frame and the last are sent at once.
        nice: how much the workers' priority is lowered, so that the page stays responsive (POSIX).

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        store: RunStore | None = None,
        grace: float = 10.0,
        threads: int | None = None,
        publish_interval: float = 0.05,
        nice: int = 5,
    ) -> None:
        cores = _cores()
        if workers is None:
            workers = _workers_asked_for() or min(cores, MOST_WORKERS)
        self._size = check_integer("workers", workers, 1, 256)
        self._grace = check_real("grace", grace, 0.0)
        self._threads = check_integer(
            "threads", max(1, cores // self._size) if threads is None else threads, 1
        )
        self._nice = check_integer("nice", nice, 0, 19)
        self._interval = check_real("publish_interval", publish_interval, 0.0, 10.0)
        self._keeper = Keeper(store)
        self._lock = threading.RLock()
        self._jobs: dict[str, _Job] = {}
        self._queue: FairQueue[_Job] = FairQueue()
        self._workers: dict[WorkerProcess, _Job | None] = {}
        self._numbers = 0
        self._failed_starts = 0
        self._closed = False
        atexit.register(self.close)
        self._later(0.0, environment)  # asks git; the first run need not wait for it
        self._start_worker()

    # -- runs --------------------------------------------------------------------------------------------------------

    def submit(self, experiment: Experiment, knobs: Knobs, *, owner: str, device: str = "auto") -> Run:
        """Start a run as soon as a worker is free; returns at once.

        Args:
            experiment: what to run; the workers find it by its package.
            knobs: an instance of ``experiment.knobs``; checked again here.
            owner: who asks, e.g. the session's id; owners take turns in the queue.
            device: as for :meth:`normviz.experiments.Experiment.frames`; one that is not there fails the run.

        Returns:
            The live run, which this engine goes on changing: its log grows, its status follows.

        Raises:
            KnobError: the knobs are not allowed or are another experiment's.
            ValueError: the workers could not find the experiment.
            RuntimeError: the engine is closed.
        """
        if not isinstance(knobs, experiment.knobs):
            raise KnobError(f"knobs must be {experiment.knobs.__name__}, got {type(knobs).__name__}.")
        knobs = experiment.knobs.parse(knobs.model_dump())
        if find_experiment(experiment.package).slug != experiment.slug:
            raise ValueError(f"The package {experiment.package!r} holds another experiment.")
        run = Run(experiment, knobs, device=str(device))
        with self._lock:
            if self._closed:
                raise RuntimeError("The engine is closed.")
            self._numbers += 1
            job = _Job(run, owner, self._numbers, threading.Condition(self._lock))
            self._jobs[run.id] = job
            self._queue.push(job)
            self._dispatch()
        return run

    def get(self, run_id: str) -> Run | None:
        """A live run or one of the last that ended; None if this engine does not know it (any more)."""
        job = self._jobs.get(run_id)
        return job.run if job is not None else None

    def place(self, run_id: str) -> int:
        """Place in the queue: 1 is next; 0 if the run is going, has ended or is unknown."""
        with self._lock:
            waiting = [job.run.id for job in self._queue.order()]
        return waiting.index(run_id) + 1 if run_id in waiting else 0

    def cancel(self, run_id: str) -> None:
        """End a run: at once in the queue, within one training step in a worker. Unknown and ended runs are ignored."""
        with self._lock:
            job = self._jobs.get(run_id)
            if job is None or job.cancelling:
                return
            waits = job in self._queue
            if waits:
                self._queue.remove(job)
            elif job.worker is not None:
                job.cancelling = True
                job.worker.control.cancel(job.number)
                self._later(PATIENCE, lambda: self._kill_unresponsive(job))
        if waits:
            self._end(job, "cancelled")

    def pause(self, run_id: str) -> None:
        """Let a run wait after its current step; it keeps its worker. Only a run that is going is paused."""
        self._set_paused(run_id, True)

    def resume(self, run_id: str) -> None:
        """Let a paused run go on."""
        self._set_paused(run_id, False)

    def attach(self, run_id: str, viewer: str) -> Run | None:
        """A viewer begins to watch a run; None if the run is unknown."""
        with self._lock:
            job = self._jobs.get(run_id)
            if job is None:
                return None
            job.viewers.add(viewer)
            job.attachments += 1
            return job.run

    def detach(self, run_id: str, viewer: str) -> None:
        """A viewer no longer watches a run; without any viewer for the grace period a live run is cancelled."""
        with self._lock:
            job = self._jobs.get(run_id)
            if job is None or viewer not in job.viewers:
                return
            job.viewers.discard(viewer)
            if not job.viewers and job.run.live:
                seen = job.attachments
                self._later(self._grace, lambda: self._cancel_unwatched(job, seen))

    def wait_for_frames(self, run_id: str, seen: int, timeout: float) -> int:
        """Wait until the run has more than ``seen`` frames, has ended, or the time is over.

        Returns:
            How many frames the run has (0 if it is unknown).
        """
        with self._lock:
            job = self._jobs.get(run_id)
            if job is None:
                return 0
            run = job.run
            job.changed.wait_for(lambda: len(run.log) > seen or not run.live, timeout)
            return len(run.log)

    def store_message(self) -> str | None:
        """Why runs are not being kept, in one sentence; None if they are, or if there is no store."""
        return self._keeper.message

    # -- workers -----------------------------------------------------------------------------------------------------

    def workers_ready(self) -> int:
        """Workers that have started, idle or busy."""
        with self._lock:
            return sum(worker.ready for worker in self._workers)

    def worker_pids(self) -> dict[int, str | None]:
        """The process id of each worker, with the id of the run it has."""
        with self._lock:
            return {worker.pid: job.run.id if job else None for worker, job in self._workers.items()}

    def close(self) -> None:
        """Cancel all runs and end all workers; also called when the interpreter ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = self._queue.order()
            for job in waiting:
                self._queue.remove(job)
            workers = list(self._workers)
        atexit.unregister(self.close)
        for job in waiting:
            self._end(job, "cancelled")
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()

    def _start_worker(self) -> None:
        """Start one more worker; the next is started when it is ready, so that the first is ready soonest."""
        with self._lock:
            if self._closed or len(self._workers) >= self._size:
                return
            try:
                worker = WorkerProcess(
                    threads=self._threads,
                    nice=self._nice,
                    interval=self._interval,
                    on_message=self._on_message,
                    on_exit=self._on_exit,
                )
            except OSError as error:
                self._retry_start(f"No worker process can be started: {error.strerror or error}.")
            else:
                self._workers[worker] = None
                worker.start()

    def _retry_start(self, reason: str) -> None:
        """A worker could not start: try again later, and after several times do not let runs wait for it."""
        with self._lock:
            self._failed_starts += 1
            logger.error("a worker could not start: %s", reason)
            self._later(min(2.0 ** (self._failed_starts - 1), _LONGEST_BACKOFF), self._start_worker)
            hopeless = self._failed_starts >= _GIVE_UP_AFTER and not any(w.ready for w in self._workers)
            waiting = self._queue.order() if hopeless else []
            for job in waiting:
                self._queue.remove(job)
        for job in waiting:
            self._end(job, "failed", reason)

    def _dispatch(self) -> None:
        """Give waiting runs to idle workers; the caller holds the lock."""
        for worker, job in self._workers.items():
            if worker.ready and job is None and (entry := self._queue.pop()) is not None:
                entry.worker = worker
                self._workers[worker] = entry
                run = entry.run
                run.begin()
                entry.changed.notify_all()
                request = {"package": run.experiment.package, "knobs": run.knobs.model_dump(mode="json")}
                worker.forget_words()
                worker.send({"kind": "run", "job": entry.number, "device": run.device, **request})

    def _on_message(self, worker: WorkerProcess, header: dict[str, Any], payload: bytes) -> None:
        """In the worker's reader thread: a message has come."""
        job = self._workers[worker]
        match header["kind"]:
            case "ready":
                with self._lock:
                    worker.control.unlink()
                    worker.ready = True
                    self._failed_starts = 0
                    self._dispatch()
                self._start_worker()
            case "started" if job is not None:
                job.started = True
                self._keeper.begin(job.run)
            case "frames" if job is not None:
                frames = decode_frames(payload)
                job.run.log.extend(frames)
                with self._lock:
                    job.changed.notify_all()
                self._keeper.add(job.run.id, frames)
            case "end" if job is not None:
                if header["traceback"]:
                    logger.error("run %s failed:\n%s", job.run.id, header["traceback"])
                with self._lock:
                    self._release(worker)
                    self._dispatch()
                self._end(job, header["status"], header["error"])

    def _on_exit(self, worker: WorkerProcess, reason: str) -> None:
        """In the worker's reader thread: the process has ended."""
        with self._lock:
            job = self._release(worker)
            del self._workers[worker]
            if job is not None and not (job.started or job.cancelling or self._closed):
                # The worker was dead before it got the request: the run waits for another one.
                job.run.status, job.run.started = "queued", None
                self._queue.push(job)
                self._dispatch()
                job = None
        if job is not None:
            wanted = job.cancelling or self._closed
            self._end(job, "cancelled" if wanted else "failed", None if wanted else reason)
        if self._closed:
            return
        if worker.ready:
            logger.warning("worker %s is replaced: %s", worker.pid, reason)
            self._start_worker()
        else:
            self._retry_start(f"No worker process can be started. {reason}")

    def _release(self, worker: WorkerProcess) -> _Job | None:
        job = self._workers[worker]
        self._workers[worker] = None
        if job is not None:
            job.worker = None
        return job

    # -- the course of a run -----------------------------------------------------------------------------------------

    def _end(
        self, job: _Job, status: Literal["done", "cancelled", "failed"], error: str | None = None
    ) -> None:
        """Store how a run ended, then show it: who sees it ended finds it whole in the store."""
        run = job.run
        ended = copy.copy(run)
        ended.end(status, error)
        self._keeper.end(ended)
        with self._lock:
            run.finished, run.error, run.status = ended.finished, ended.error, ended.status
            job.changed.notify_all()
            self._forget_old()

    def _forget_old(self) -> None:
        """Drop the oldest runs that have ended and that nobody watches; the caller holds the lock."""
        old = [job for job in self._jobs.values() if not job.run.live and not job.viewers]
        old.sort(key=lambda job: job.run.finished or 0.0)
        for job in old[: max(0, len(old) - KEPT_IN_MEMORY)]:
            del self._jobs[job.run.id]

    def _set_paused(self, run_id: str, paused: bool) -> None:
        before, after = ("running", "paused") if paused else ("paused", "running")
        with self._lock:
            job = self._jobs.get(run_id)
            if job is not None and job.worker is not None and job.run.status == before:
                job.worker.control.pause(job.number if paused else 0)
                job.run.status = after  # type: ignore[assignment]
                job.changed.notify_all()

    def _cancel_unwatched(self, job: _Job, attachments: int) -> None:
        with self._lock:
            unwatched = not job.viewers and job.attachments == attachments
        if unwatched:
            self.cancel(job.run.id)

    def _kill_unresponsive(self, job: _Job) -> None:
        with self._lock:
            if job.worker is not None:
                logger.warning("worker %s did not react to a cancellation", job.worker.pid)
                job.worker.kill()

    def _later(self, seconds: float, action: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()


def _workers_asked_for() -> int | None:
    given = os.environ.get("NORMVIZ_WORKERS")
    if not given:
        return None
    if not given.isdecimal():
        raise ValueError(f"NORMVIZ_WORKERS must be an integer in [1, 256], got {given!r}.")
    return int(given)


def _cores() -> int:
    """CPU cores this process may use: those it is bound to, and no more than its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no bound
        return cores

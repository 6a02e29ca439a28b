"""The worker engine: experiments run in a small pool of warm processes, and their frames stream back while they train.

The server never trains and never loads PyTorch. Each worker process is started once, with PyTorch already imported, and
runs one experiment after the other; a run begins within milliseconds and its first frame is sent at once. A thread per
worker reads its messages, appends the frames to the run's log and to the store, and wakes whoever waits for them.

- A run's seeds spread over the workers that no other run waits for, one part for each worker; the frames of the parts
  join one log (:mod:`normviz.engine.merge`). Each network's numbers are those of a run in one worker, bit for bit.
- More runs than workers wait in a queue in which the owners (the page's visitors) take turns. A run that has several
  workers gives them back, down to one, at the next training step when others wait. The seeds of such a part are trained
  again from their start when a worker is free again: the steps made until then are computed twice, and shown once.
- A run that is done goes on with further seeds (:meth:`WorkerEngine.extend`).
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
from functools import partial
from pathlib import Path
from typing import Any

from normviz.engine.fair_queue import FairQueue
from normviz.engine.job import Ending, Job, Part, parts_to_give_back, share_out, split_seeds
from normviz.engine.keeper import Keeper
from normviz.engine.process import WorkerProcess
from normviz.engine.protocol import decode_frames
from normviz.engine.resolve import find_experiment
from normviz.engine.store import RunStore, StoreError
from normviz.environment import environment
from normviz.experiments import Experiment, Run
from normviz.frame import Frame
from normviz.knobs import KnobError, Knobs
from normviz.validation import check_integer, check_real
from normviz.variables import thread_count, worker_count

__all__ = ["WorkerEngine"]

logger = logging.getLogger("normviz.engine")

MOST_WORKERS = 8
KEPT_IN_MEMORY = 32
"""Ended runs that nobody watches and that :meth:`WorkerEngine.get` still finds."""

PATIENCE = 10.0
"""Seconds a worker has to react to a cancellation before it is killed."""

_GIVE_UP_AFTER = 3
_LONGEST_BACKOFF = 60.0


class WorkerEngine:
    """A pool of warm worker processes with a fair queue before it. Thread-safe.

    Args:
        workers: processes; default: the environment variable ``NORMVIZ_WORKERS``, else one per CPU core that this
            process may use, at most 8. Each takes about 0.3 GB of memory (and, with CUDA, a context of about 0.5 GB on
            the GPU): with a GPU one worker per GPU is enough.
        store: where runs are kept; default: nowhere. A store that fails never stops a run
            (:meth:`store_message`). The engine does not close it.
        grace: seconds a run goes on without a viewer.
        threads: threads PyTorch uses in each worker; default: the environment variable ``NORMVIZ_THREADS``, else the
            cores shared out evenly, at least one.
        publish_interval: seconds between two batches of frames of a run; the first frame and the last are sent at once.
        nice: how much the workers' priority is lowered, so that the page stays responsive (POSIX).

    Raises:
        ValueError: a number is out of range, as an argument or in an environment variable.
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
            workers = worker_count() or min(cores, MOST_WORKERS)
        self._size = check_integer("workers", workers, 1, 256)
        self._grace = check_real("grace", grace, 0.0)
        if threads is None:
            threads = thread_count() or max(1, cores // self._size)
        self._threads = check_integer("threads", threads, 1)
        self._nice = check_integer("nice", nice, 0, 19)
        self._interval = check_real("publish_interval", publish_interval, 0.0, 10.0)
        self._store = store
        self._keeper = Keeper(store)
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._queue: FairQueue[Job] = FairQueue()
        self._workers: dict[WorkerProcess, Part | None] = {}
        self._devices: dict[str, str] = {}
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
            owner: who asks, e.g. the visitor of a page; owners take turns in the queue; it becomes the
                run's ``visitor``.
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
        run = Run(experiment, knobs, device=str(device), visitor=owner)
        with self._lock:
            self._check_open()
            job = Job(run, owner, self._next_number(), threading.Condition(self._lock))
            self._jobs[run.id] = job
            self._queue.push(job)
            self._dispatch()
        return run

    def extend(self, run_id: str, seeds: int, *, owner: str | None = None) -> Run:
        """Go on with a run that is done: train further seeds and add them to its log; returns at once.

        The run keeps its id and its frames, in the store too; its knobs ask for so many seeds more, and only the new
        ones are trained. A run that is cancelled before a new seed has started is what it was.

        Args:
            run_id: a run of this engine or of its store.
            seeds: how many more.
            owner: who asks; default: who asked for the run, or for a run from the store nobody in particular.

        Returns:
            The live run: of this engine the same object as before.

        Raises:
            KnobError: the experiment does not allow so many seeds; the message has the allowed range.
            ValueError: the run has not ended as done, or its seeds cannot be trained apart.
            StoreError: there is no such run, or it cannot be read.
            RuntimeError: the engine is closed.
        """
        job = self._jobs.get(run_id)
        if job is None:
            if self._store is None:
                raise StoreError(f"There is no run {run_id!r}.")
            loaded = self._store.load(run_id)
            job = Job(loaded, owner or "", 0, threading.Condition(self._lock))
        with self._lock:
            self._check_open()
            job = self._jobs.setdefault(run_id, job)  # another thread may have been faster
            knobs, new = job.run.with_more_seeds(seeds)
            job.former, job.run.knobs = copy.copy(job.run), knobs
            job.owner, job.number = job.owner if owner is None else owner, self._next_number()
            job.plan(new)
            job.run.status = "queued"
            job.changed.notify_all()
            self._queue.push(job)
            self._dispatch()
            return job.run

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
            if job is None or job.cancelling or job.ending or not job.run.live:
                return
            job.cancelling = True
            if job.pending:
                job.outcome = job.outcome or ("cancelled", None)
            waits = not job.parts
            self._stop(job)
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

    def leave(self, run_id: str, viewer: str) -> None:
        """A viewer turns to another run: this one is cancelled at once if nobody else watches it."""
        with self._lock:
            job = self._jobs.get(run_id)
            if job is None:
                return
            job.viewers.discard(viewer)
            watched = bool(job.viewers)
        if not watched:
            self.cancel(run_id)

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

    def device_name(self, device: str) -> str:
        """What a device that a run asks for is on this machine: "CPU" or the GPU's name; empty if not yet known."""
        return self._devices.get(device.partition(":")[0], "")

    def workers_ready(self) -> int:
        """Workers that have started, idle or busy."""
        with self._lock:
            return sum(worker.ready for worker in self._workers)

    def worker_pids(self) -> dict[int, str | None]:
        """The process id of each worker, with the id of the run it has."""
        with self._lock:
            return {w.pid: part.job.run.id if part else None for w, part in self._workers.items()}

    def close(self) -> None:
        """Cancel all runs and end all workers; also called when the interpreter ends."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = [job for job in self._jobs.values() if job.run.live and not job.parts]
            for job in self._jobs.values():
                self._forget_pending(job)
            workers = list(self._workers)
        atexit.unregister(self.close)
        for job in waiting:
            self._end(job, "cancelled")
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("The engine is closed.")

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

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
                self._forget_pending(job)
        for job in waiting:
            self._end(job, "failed", reason)

    def _dispatch(self) -> None:
        """Give waiting runs and seeds to idle workers; the caller holds the lock.

        Each waiting run gets one worker; what is left goes to the runs that have shown a frame and have seeds left.
        Seeds are split for the workers that can be had now and for those that will be soon: still starting, ending a
        cancelled part, or held back from a run that has shown nothing yet, so that nothing delays its first frame.
        """
        idle = [worker for worker, part in self._workers.items() if worker.ready and part is None]
        given: dict[Job, int] = {}
        while len(given) < len(idle) and (job := self._queue.pop()) is not None:
            given[job] = 1
        spare = len(idle) - len(given)
        ending = sum(part is not None and self._is_ending(part) for part in self._workers.values())
        starting = sum(not worker.ready for worker in self._workers)
        under_way = [(job, len(job.pending)) for job in self._jobs.values() if job.takes_workers]
        beginning = [(job, len(job.pending) if self._is_divisible(job) else 1) for job in given]
        spare = share_out(under_way, spare, given)
        expected = dict(given)
        soon = spare + max(0, ending + starting - len(self._queue))
        share_out([*under_way, *beginning], soon, expected)
        for job, count in given.items():
            groups = split_seeds(job.pending, expected[job])
            job.pending = tuple(seed for group in groups[count:] for seed in group)
            for seeds in groups[:count]:
                self._give(idle.pop(0), job, seeds)
        for part in parts_to_give_back(self._jobs.values(), len(self._queue) - ending):
            part.returning = True
            part.worker.control.cancel(part.number)

    def _is_ending(self, part: Part) -> bool:
        return part.returning or part.job.cancelling or part.job.outcome is not None

    def _is_divisible(self, job: Job) -> bool:
        """Whether a run's seeds may be trained apart; an accelerator trains them together faster."""
        device = job.run.device.partition(":")[0]
        return job.run.experiment.divisible and (
            device == "cpu" or (device == "auto" and self.device_name("auto") == self.device_name("cpu"))
        )

    def _give(self, worker: WorkerProcess, job: Job, seeds: tuple[int, ...]) -> None:
        part = Part(job, self._next_number(), seeds, worker)
        self._workers[worker] = part
        job.parts.append(part)
        run = job.run
        if run.status == "queued":
            run.begin()
            job.changed.notify_all()
        request = {"package": run.experiment.package, "knobs": run.knobs.model_dump(mode="json")}
        registered = os.environ.get(
            "NORMVIZ_EXPERIMENTS", ""
        )  # what it is now, not when the worker was started
        worker.forget_words()
        worker.send(
            {
                "kind": "run",
                "job": part.number,
                "device": run.device,
                "seeds": seeds,
                "registered": registered,
                **request,
            }
        )

    def _on_message(self, worker: WorkerProcess, header: dict[str, Any], payload: bytes) -> None:
        """In the worker's reader thread: a message has come."""
        part = self._workers[worker]
        match header["kind"]:
            case "ready":
                with self._lock:
                    worker.control.unlink()
                    worker.ready = True
                    self._devices = {str(device): str(name) for device, name in header["devices"].items()}
                    self._failed_starts = 0
                    self._dispatch()
                self._start_worker()
            case "started" if part is not None:
                part.started = True
                with part.job.merging:
                    self._keep(part.job)
            case "frames" if part is not None:
                frames = decode_frames(payload)
                with part.job.merging:
                    self._add(part.job, part.job.merge.add(part.seeds, part.seen, frames))
                if not part.job.shown:
                    with self._lock:
                        part.job.shown = True
                        self._dispatch()
            case "end" if part is not None:
                if header["traceback"]:
                    logger.error("run %s failed:\n%s", part.job.run.id, header["traceback"])
                self._end_part(part, header["status"], header["error"])

    def _on_exit(self, worker: WorkerProcess, reason: str) -> None:
        """In the worker's reader thread: the process has ended."""
        with self._lock:
            part = self._workers.pop(worker)
            wanted = self._closed or (part is not None and part.job.cancelling)
        if part is not None:
            # Before it has started, the worker was dead before it got the request: the seeds wait for another one.
            part.returning = part.returning if part.started else not wanted
            again = wanted or not part.started
            self._end_part(part, "cancelled" if again else "failed", None if again else reason)
        if self._closed:
            return
        if worker.ready:
            logger.warning("worker %s is replaced: %s", worker.pid, reason)
            self._start_worker()
        else:
            self._retry_start(f"No worker process can be started. {reason}")

    # -- the course of a run -----------------------------------------------------------------------------------------

    def _keep(self, job: Job) -> None:
        """Tell the store of a run that has started; the caller holds the run's ``merging``."""
        if not job.kept:
            job.kept = True
            if job.former is None:
                self._keeper.begin(job.run)
            else:
                self._keeper.go_on(job.run)

    def _add(self, job: Job, frames: list[Frame]) -> None:
        """Show frames and store them; the caller holds the run's ``merging``."""
        if frames:
            job.run.log.extend(frames)
            with self._lock:
                job.changed.notify_all()
            self._keeper.add(job.run.id, frames)

    def _end_part(self, part: Part, status: Ending, error: str | None) -> None:
        """A worker has ended its part, or has ended itself."""
        job = part.job
        back = part.returning and status == "cancelled" and not job.cancelling
        if not back:
            with job.merging:
                self._add(job, job.merge.end(part.seeds))
        with self._lock:
            job.parts.remove(part)
            if part.worker in self._workers:
                self._workers[part.worker] = None
            if back and job.outcome is None and not self._closed:
                job.pending = tuple(sorted((*job.pending, *part.seeds)))
            elif status != "done" and job.outcome is None:
                job.outcome = (status, error)
                self._stop(job)
            ended = not job.parts and not job.pending
            if not ended and not job.parts:
                if not job.kept:
                    job.run.status, job.run.started = "queued", None
                    if job.former is not None:
                        job.run.started, job.run.finished = job.former.started, job.former.finished
                if job.run.status != "paused":
                    self._queue.push(job)
            self._dispatch()
        if ended:
            self._end(job, *(job.outcome or ("done", None)))

    def _stop(self, job: Job) -> None:
        """Let a run end: what it has in workers within a step, what waits at once; the caller holds the lock."""
        self._forget_pending(job)
        for part in job.parts:
            part.worker.control.cancel(part.number)
            self._later(PATIENCE, partial(self._kill_unresponsive, part))

    def _forget_pending(self, job: Job) -> None:
        job.pending = ()
        if job in self._queue:
            self._queue.remove(job)

    def _end(self, job: Job, status: Ending, error: str | None = None) -> None:
        """Store how a run ended, then show it: who sees it ended finds it whole in the store."""
        run = job.run
        with self._lock:
            if job.ending:
                return
            job.ending = True
        if job.former is not None and not job.kept:  # no new seed has started: it is what it was
            ended = job.former
        else:
            ended = copy.copy(run)
            ended.end(status, error)
            self._keeper.end(ended)
        with self._lock:
            run.knobs, run.started = ended.knobs, ended.started
            run.finished, run.error, run.status = ended.finished, ended.error, ended.status
            job.former = None
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
            if job is None or job.run.status != before or job.outcome is not None:
                return
            job.run.status = after  # type: ignore[assignment]
            for part in job.parts:
                part.worker.control.pause(part.number if paused else 0)
            if paused and job in self._queue:
                self._queue.remove(job)
            elif not paused:
                if job.pending and not job.parts:
                    self._queue.push(job)
                self._dispatch()
            job.changed.notify_all()

    def _cancel_unwatched(self, job: Job, attachments: int) -> None:
        with self._lock:
            unwatched = not job.viewers and job.attachments == attachments
        if unwatched:
            self.cancel(job.run.id)

    def _kill_unresponsive(self, part: Part) -> None:
        with self._lock:
            if part in part.job.parts:
                logger.warning("worker %s did not react to a cancellation", part.worker.pid)
                part.worker.kill()

    def _later(self, seconds: float, action: Callable[[], Any]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()


def _cores() -> int:
    """CPU cores this process may use: those it is bound to, and no more than its container's share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or "max": no bound
        return cores

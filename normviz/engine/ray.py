"""Run experiments on a Ray cluster: the same generators as streaming Ray tasks, for those who outgrow one machine.

Ray does the scheduling, the queue and the transport; here is only the bridge from its stream of frames to a run. The
machines of the cluster need normviz installed. Ray itself comes with the extra ``ray`` and is imported when a
:class:`RayEngine` is made. Other than a worker of :class:`normviz.engine.workers.WorkerEngine`, a task starts with an
import of PyTorch unless Ray has an idle process left from an earlier one, and it cannot be paused.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from normviz.engine.errors import describe
from normviz.engine.keeper import Keeper
from normviz.engine.protocol import decode_frames, encode_frames
from normviz.engine.resolve import find_experiment
from normviz.engine.store import RunStore
from normviz.experiments import Experiment, Run
from normviz.frame import Frame
from normviz.knobs import KnobError, Knobs
from normviz.variables import experiment_packages

__all__ = ["RayEngine"]


class RayEngine:
    """Runs as streaming Ray tasks, with the surface of the worker engine: submit, extend, get, cancel, wait for frames.

    Args:
        address: the cluster, e.g. ``"auto"`` or ``"ray://host:10001"``; None starts Ray on this machine. Not used when
            Ray is connected already.
        num_cpus: CPU cores each run asks Ray for.
        num_gpus: GPUs each run asks Ray for; a fraction lets runs share one.
        store: where runs are kept.
        publish_interval: seconds between two batches of frames.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        store: RunStore | None = None,
        publish_interval: float = 0.05,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("RayEngine needs Ray: pip install 'normviz[ray]'.") from error
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        self._ray = ray
        options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "num_returns": "streaming", "max_retries": 0}
        self._stream = ray.remote(**options)(stream)
        self._interval = publish_interval
        self._keeper = Keeper(store)
        self._changed = threading.Condition()
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, Any] = {}

    def submit(
        self,
        experiment: Experiment,
        knobs: Knobs,
        *,
        owner: str = "",  # noqa: ARG002  (the surface of WorkerEngine)
        device: str = "auto",
    ) -> Run:
        """Hand a run to Ray; returns at once. ``owner`` is not used: Ray has its own queue.

        Raises:
            KnobError: the knobs are not allowed or are another experiment's.
            ValueError: the cluster could not find the experiment.
        """
        if not isinstance(knobs, experiment.knobs):
            raise KnobError(f"knobs must be {experiment.knobs.__name__}, got {type(knobs).__name__}.")
        run = Run(experiment, experiment.knobs.parse(knobs.model_dump()), device=device)
        self._start(run, run.knobs.seed_range(), self._keeper.begin)
        return run

    def extend(self, run_id: str, seeds: int) -> Run:
        """Go on with a run that is done: train further seeds in one task and add them to its log; returns at once.

        Args:
            run_id: a run that was submitted here.
            seeds: how many more.

        Raises:
            KnobError: the experiment does not allow so many seeds; the message has the allowed range.
            ValueError: the run is unknown, has not ended as done, or its seeds cannot be trained apart.
        """
        run = self._runs.get(run_id)
        if run is None:
            raise ValueError(f"There is no run {run_id!r}.")
        with self._changed:
            run.knobs, new = run.with_more_seeds(seeds)
            run.status = "queued"
        self._start(run, new, self._keeper.go_on)
        return run

    def _start(self, run: Run, seeds: Sequence[int], keep: Callable[[Run], None]) -> None:
        package = find_experiment(run.experiment.package).package
        registered = os.environ.get("NORMVIZ_EXPERIMENTS", "")
        values = run.knobs.model_dump(mode="json")
        self._runs[run.id] = run
        self._tasks[run.id] = self._stream.remote(
            package, values, list(seeds), run.device, self._interval, registered
        )
        threading.Thread(target=self._follow, args=(run, keep), name=f"ray-{run.id}", daemon=True).start()

    def get(self, run_id: str) -> Run | None:
        """A run that was submitted here; None if it is unknown."""
        return self._runs.get(run_id)

    def cancel(self, run_id: str) -> None:
        """End a run: its task gets a ``KeyboardInterrupt``. Unknown and ended runs are ignored."""
        if (task := self._tasks.get(run_id)) is not None:
            self._ray.cancel(task)

    def wait_for_frames(self, run_id: str, seen: int, timeout: float) -> int:
        """Wait until the run has more than ``seen`` frames, has ended, or the time is over; how many it has."""
        run = self._runs.get(run_id)
        if run is None:
            return 0
        with self._changed:
            self._changed.wait_for(lambda: len(run.log) > seen or not run.live, timeout)
        return len(run.log)

    def store_message(self) -> str | None:
        """Why runs are not being kept, in one sentence; None if they are, or if there is no store."""
        return self._keeper.message

    def _follow(self, run: Run, keep: Callable[[Run], None]) -> None:
        """Thread: take the frames of a run as they come, and its end."""
        begun = False
        status: Literal["done", "cancelled", "failed"] = "done"
        error: str | None = None
        try:
            for reference in self._tasks[run.id]:
                frames = decode_frames(self._ray.get(reference))
                if not begun:
                    begun = True
                    run.begin()
                    keep(run)
                run.log.extend(frames)
                with self._changed:
                    self._changed.notify_all()
                self._keeper.add(run.id, frames)
        except self._ray.exceptions.TaskCancelledError:
            status = "cancelled"
        except self._ray.exceptions.RayTaskError as raised:
            status, error = "failed", describe(raised.cause or raised)
        except Exception as raised:  # a lost machine, a cluster that is gone: Ray says which
            status, error = "failed", describe(raised)
        ended = copy.copy(run)
        ended.end(status, error)
        self._keeper.end(ended)
        with self._changed:
            del self._tasks[run.id]
            run.finished, run.error, run.status = ended.finished, ended.error, ended.status
            self._changed.notify_all()


def stream(
    package: str,
    knobs: dict[str, Any],
    seeds: Sequence[int],
    device: str,
    interval: float,
    registered: str = "",
) -> Iterator[bytes]:
    """The Ray task: the experiment's frames in batches, each a plain Arrow stream; the first frame goes alone.

    ``registered`` is the submitting machine's ``NORMVIZ_EXPERIMENTS``; it joins this machine's.
    """
    known = {*experiment_packages(), *filter(None, registered.split(","))}
    os.environ["NORMVIZ_EXPERIMENTS"] = ",".join(sorted(known))
    experiment = find_experiment(package)
    waiting: list[Frame] = []
    sent = -interval
    for frame in experiment.frames(experiment.knobs.parse(knobs).for_seeds(seeds), device):
        waiting.append(frame)
        if time.monotonic() - sent >= interval:
            yield encode_frames(waiting)
            waiting, sent = [], time.monotonic()
    if waiting:
        yield encode_frames(waiting)

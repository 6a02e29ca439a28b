"""A worker process: ``python -m normviz.engine.worker``, started by :class:`normviz.engine.workers.WorkerEngine`.

It loads PyTorch and the experiments once, says that it is ready, and then runs one experiment after the other. Requests
come in on standard input and frames go out on what was standard output (:mod:`normviz.engine.protocol`); whatever an
experiment prints goes to standard error instead, so that it cannot be taken for a message. The process ends by itself
when standard input closes, that is, when the server ends in whatever way.
"""

from __future__ import annotations

import argparse
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from importlib import import_module
from typing import Any, BinaryIO

from normviz.engine.control import ControlBlock
from normviz.engine.errors import describe
from normviz.engine.protocol import encode_frames, read_message, write_message
from normviz.engine.resolve import find_experiment
from normviz.experiments import SLUGS
from normviz.frame import Frame

__all__ = ["main"]

_PAUSE_POLL = 0.02

_EAGER = 0.3
"""Seconds from the start of a job in which every frame is sent at once: somebody waits for the first points."""


class Outbox:
    """Sends frames to the server: at once when asked to, else in batches from a thread of its own.

    The thread keeps a slow training step from holding back frames that are there already, and a slow server from
    holding back the training.
    """

    def __init__(self, stream: BinaryIO, interval: float) -> None:
        self.job = 0
        self.error: Exception | None = None
        self._stream = stream
        self._interval = interval
        self._frames: list[Frame] = []
        self._arrived = threading.Condition()
        self._sending = threading.Lock()
        threading.Thread(target=self._publish, name="publisher", daemon=True).start()

    def add(self, frame: Frame) -> None:
        """Hand over a frame; it is sent within the publishing interval."""
        self.check()
        with self._arrived:
            self._frames.append(frame)
            self._arrived.notify()

    def flush(self) -> None:
        """Send now what is waiting."""
        with self._sending:
            with self._arrived:
                frames, self._frames = self._frames, []
            if not frames:
                return
            try:
                payload = encode_frames(frames)
            except Exception as error:  # raised by `check` in the training thread, where it fails the run
                self.error = error
                return
            self._write({"kind": "frames", "job": self.job}, payload)

    def check(self) -> None:
        """Raise what kept frames from being sent."""
        if self.error is not None:
            raise self.error

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message about the current job, after the frames that are waiting."""
        self.flush()
        with self._sending:
            self._write({"kind": kind, "job": self.job, **fields})

    def _write(self, header: dict[str, Any], payload: bytes = b"") -> None:
        try:
            write_message(self._stream, header, payload)
        except OSError:  # the server is gone and nobody is left to tell
            os._exit(1)

    def _publish(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._frames)
            self.flush()
            time.sleep(self._interval)


def run_job(request: dict[str, Any], control: ControlBlock, outbox: Outbox) -> None:
    """Train the seeds of one request to their end, their cancellation or their failure, and say which it was."""
    job = int(request["job"])
    outbox.job, outbox.error = job, None
    outbox.send("started")
    status, error, trace = "done", None, None
    try:
        os.environ["NORMVIZ_EXPERIMENTS"] = request["registered"]
        experiment = find_experiment(request["package"])
        knobs = experiment.knobs.parse(request["knobs"]).for_seeds(request["seeds"])
        frames = iter(experiment.frames(knobs, request["device"]))
        try:
            if not _train(frames, control, outbox):
                status = "cancelled"
        finally:
            if isinstance(frames, Generator):
                frames.close()
        del frames
        outbox.flush()
        outbox.check()
    except BaseException as raised:
        status, error, trace = "failed", describe(raised), traceback.format_exc()
    outbox.send("end", status=status, error=error, traceback=trace)
    _tidy()


def _train(frames: Iterator[Frame], control: ControlBlock, outbox: Outbox) -> bool:
    """Send the frames as they come; whether they came to their end."""
    eager = time.monotonic() + _EAGER
    while not _stopped(control, outbox):
        try:
            outbox.add(next(frames))
        except StopIteration:
            return True
        if time.monotonic() < eager:
            outbox.flush()
    return False


def _stopped(control: ControlBlock, outbox: Outbox) -> bool:
    """Whether the job is cancelled; does not return while it is paused."""
    job = outbox.job
    if control.paused(job):
        outbox.flush()
        while control.paused(job) and not control.cancelled(job):
            time.sleep(_PAUSE_POLL)
    return control.cancelled(job)


def _tidy() -> None:
    """Free what the run leaves in cycles, on the GPU too; cheap, because the imported modules are frozen."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _warm_up(threads: int) -> None:
    """Do once, before the first run, what would otherwise delay its first frame."""
    import torch

    torch.set_num_threads(threads)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            layer = torch.nn.Linear(8, 8, device=device)
            optimizer = torch.optim.Adam(layer.parameters())
            layer(torch.ones(4, 8, device=device)).square().mean().backward()
            optimizer.step()
        except RuntimeError:  # a GPU without memory left: runs on the CPU are still possible
            traceback.print_exc()
    encode_frames([Frame(0, "warm-up", 0, {"loss": 0.0})])
    for slug in SLUGS:
        try:
            import_module(f"{find_experiment(slug).package}.frames")
        except Exception:  # the others still run; a run of this one fails with this very message
            traceback.print_exc()
    gc.collect()
    gc.freeze()


def _devices() -> dict[str, str]:
    """The devices that a run may ask for here, with what they are."""
    from normviz.training import device_names

    return device_names()


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Take the protocol's pipes away from standard input and output, where prints could reach them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    return requests, replies


def _listen(stream: BinaryIO, inbox: queue.Queue[dict[str, Any]]) -> None:
    """Pass requests on; when the server has closed the stream, end the process in the middle of whatever it does."""
    try:
        while (message := read_message(stream)) is not None:
            inbox.put(message[0])
    finally:
        os._exit(0)


def main(arguments: list[str] | None = None) -> None:
    """Serve requests until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m normviz.engine.worker", description=__doc__)
    parser.add_argument("--control", required=True, help="file of the control block")
    parser.add_argument("--threads", type=int, default=1, help="threads that PyTorch uses")
    parser.add_argument("--nice", type=int, default=0, help="how much to lower the process's priority")
    parser.add_argument("--interval", type=float, default=0.05, help="seconds between two batches of frames")
    options = parser.parse_args(arguments)

    requests, replies = _own_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    if options.nice and hasattr(os, "nice"):
        os.nice(options.nice)
    control = ControlBlock(options.control)
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, inbox), name="requests", daemon=True).start()
    outbox = Outbox(replies, options.interval)
    _warm_up(options.threads)
    outbox.send("ready", devices=_devices())
    while True:
        run_job(inbox.get(), control, outbox)


if __name__ == "__main__":
    main()

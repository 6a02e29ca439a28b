"""Run an experiment here and now, in this process, and keep it: what the command line does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from normviz.engine.errors import describe
from normviz.engine.keeper import Keeper
from normviz.engine.store import RunStore
from normviz.experiments import Experiment, Run
from normviz.frame import Frame
from normviz.knobs import Knobs

__all__ = ["extend_inline", "run_inline"]


def run_inline(
    experiment: Experiment,
    knobs: Knobs,
    *,
    device: str = "auto",
    store: RunStore | None = None,
    on_frame: Callable[[Frame], None] | None = None,
) -> Run:
    """Run to the end and return what was measured, storing the frames while they come.

    Args:
        experiment: what to run.
        knobs: an instance of ``experiment.knobs``.
        device: as for :meth:`normviz.experiments.Experiment.frames`.
        store: where to keep the run; what it has is on the disk within a second, and a store that fails (a full disk)
            is logged as a warning and does not stop the run.
        on_frame: called with each frame as it comes. A ``KeyboardInterrupt``, there or anywhere in the run, ends it
            with the frames so far and the status ``"cancelled"``.

    Raises:
        Exception: whatever the experiment raises, after the run is stored as failed.
    """
    run = Run(experiment, knobs, device=device)
    keeper = Keeper(store)
    return _train(run, knobs, keeper, keeper.begin, on_frame)


def extend_inline(
    run: Run,
    seeds: int,
    *,
    store: RunStore | None = None,
    on_frame: Callable[[Frame], None] | None = None,
) -> Run:
    """Go on with a run that is done: train further seeds to the end and add their frames to its log.

    Args:
        run: what :func:`run_inline` returned, or :meth:`normviz.engine.RunStore.load`.
        seeds: how many more.
        store: where the run is kept; the new frames join those it has there.
        on_frame: as for :func:`run_inline`.

    Returns:
        The same run.

    Raises:
        KnobError: the experiment does not allow so many seeds; the message has the allowed range.
        ValueError: the run has not ended as done, or its seeds cannot be trained apart.
        Exception: whatever the experiment raises, after the run is stored as failed.
    """
    run.knobs, new = run.with_more_seeds(seeds)
    keeper = Keeper(store)
    return _train(run, run.knobs.for_seeds(new), keeper, keeper.go_on, on_frame)


def _train(
    run: Run,
    knobs: Knobs,
    keeper: Keeper,
    open_store: Callable[[Run], None],
    on_frame: Callable[[Frame], None] | None,
) -> Run:
    run.begin()
    open_store(run)
    try:
        frames = run.experiment.frames(knobs, run.device)
        with contextlib.closing(frames) if isinstance(frames, Generator) else contextlib.nullcontext():
            for frame in frames:
                run.log.append(frame)
                keeper.add(run.id, (frame,))
                if on_frame is not None:
                    on_frame(frame)
    except KeyboardInterrupt:
        run.end("cancelled")
    except BaseException as error:
        run.end("failed", describe(error))
        raise
    else:
        run.end("done")
    finally:
        keeper.end(run)
    return run

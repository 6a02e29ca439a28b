"""A run that the worker engine has taken on, its parts, and who gets which worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from normviz.engine.merge import FrameMerge, Seen
from normviz.engine.process import WorkerProcess
from normviz.experiments import Run

__all__ = ["Ending", "Job", "Part", "parts_to_give_back", "share_out", "split_seeds"]

Ending = Literal["done", "cancelled", "failed"]


@dataclass(eq=False)
class Part:
    """Some seeds of a run in one worker, trained from their start.

    Attributes:
        job: whose seeds they are.
        number: names the part in the control block; no two parts have the same.
        seeds: in ascending order.
        worker: where they are trained.
        seen: frames that came, by member.
        started: the worker has got the request.
        returning: it was asked to stop so that another run gets its worker.
    """

    job: Job
    number: int
    seeds: tuple[int, ...]
    worker: WorkerProcess
    seen: Seen = field(default_factory=Counter)
    started: bool = False
    returning: bool = False

    @property
    def done(self) -> float:
        """Frames for each seed so far: what is lost if the part has to begin again."""
        return self.seen.total() / len(self.seeds)


@dataclass(eq=False)
class Job:
    """A run and where it is: in the queue, in one worker or several (``parts``), or ended (neither).

    Attributes:
        run: changed by the engine alone.
        owner, number: for the queue.
        changed: notified when frames have come or the status is another; its lock is the engine's.
        pending: seeds that are still to be trained and that no worker has.
        parts: what the workers have.
        merge: joins the parts' frames; used by one thread at a time (``merging``), in the order of the store.
        merging: lock; taken before the engine's lock, never while that is held.
        kept: the store knows of it.
        shown: a frame has come.
        cancelling: it was cancelled.
        outcome: how it will end when the last part has, if not as done.
        ending: it is being ended.
        former: a run that is extended, as it was before.
        viewers, attachments: who watches it, and how often somebody began to.
    """

    run: Run
    owner: str
    number: int
    changed: threading.Condition
    pending: tuple[int, ...] = ()
    parts: list[Part] = field(default_factory=list)
    merge: FrameMerge = field(init=False)
    merging: threading.Lock = field(default_factory=threading.Lock)
    kept: bool = False
    shown: bool = False
    cancelling: bool = False
    outcome: tuple[Ending, str | None] | None = None
    ending: bool = False
    former: Run | None = None
    viewers: set[str] = field(default_factory=set)
    attachments: int = 0

    def __post_init__(self) -> None:
        self.plan(self.run.knobs.seed_range())

    def plan(self, seeds: Sequence[int]) -> None:
        """These seeds are to be trained."""
        self.pending = tuple(seeds)
        self.merge = FrameMerge(self.pending[0], self.run.log.arms)
        self.kept = self.shown = self.cancelling = self.ending = False
        self.outcome = None

    @property
    def takes_workers(self) -> bool:
        """Whether a worker that nobody waits for can be of use now; before the first frame it would delay that."""
        return self.shown and bool(self.pending) and bool(self.parts) and self.run.status == "running"


def split_seeds(seeds: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Neighbouring seeds in groups of (almost) equal size, the larger ones first."""
    count = min(count, len(seeds))
    size, larger = divmod(len(seeds), count)
    groups, start = [], 0
    for index in range(count):
        stop = start + size + (index < larger)
        groups.append(tuple(seeds[start:stop]))
        start = stop
    return groups


def share_out(jobs: Iterable[tuple[Job, int]], spare: int, given: dict[Job, int]) -> int:
    """Deal workers to jobs one by one, each to the job that has the fewest.

    Args:
        jobs: who can use some, with the most parts that its pending seeds can be split into.
        spare: workers to deal.
        given: how many each job gets; added to.

    Returns:
        How many workers nobody can use.
    """
    most = dict(jobs)
    while spare:
        takers = [job for job in most if given.get(job, 0) < most[job]]
        if not takers:
            break
        poorest = min(takers, key=lambda job: (len(job.parts) + given.get(job, 0), job.number))
        given[poorest] = given.get(poorest, 0) + 1
        spare -= 1
    return spare


def parts_to_give_back(jobs: Iterable[Job], wanted: int) -> list[Part]:
    """Parts that make room for waiting runs: of the runs with the most workers those that have come least far.

    Each run keeps one worker, and its leading part as long as that is under way.
    """
    staying = {job: [part for part in job.parts if not part.returning] for job in jobs if not job.outcome}
    chosen: list[Part] = []
    while len(chosen) < wanted:
        rich = [job for job, parts in staying.items() if len(parts) > 1]
        if not rich:
            break
        job = max(rich, key=lambda j: (len(staying[j]), j.number))
        candidates = [part for part in staying[job] if not job.merge.leads(part.seeds)]
        part = min(candidates, key=lambda p: p.done)
        staying[job].remove(part)
        chosen.append(part)
    return chosen

"""How evidence is made: every preset that decides a claim is run, tuned where it has a grid, and judged.

Seeds of verdicts and seeds of tuning are disjoint: verdicts use 0, 1, 2, …, tuning counts from :data:`TUNING`. A
preset with a grid is first run on the tuning seeds with every value of the grid; each arm's best value (by the
registered criterion) is kept, and the arms are then trained at their own best on the verdict's seeds. All arms of a
seed see the same batches from the same start whatever they are trained beside, so that differences stay paired.

The runs of all presets of a page wait in the engine's queue together, so that no core is idle while one preset ends.
They are kept in the run store; what was interrupted goes on with the runs that are there, as long as nothing has
changed that their numbers follow from (:mod:`normviz.evidence.sources`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

from normviz.claims import LEAST_SEEDS, Claim, Verdict, holm
from normviz.engine import RunStore, StoreError
from normviz.environment import environment
from normviz.evidence.record import (
    ClaimRecord,
    Evidence,
    IntervalRecord,
    PresetRecord,
    fingerprint,
    rounded,
)
from normviz.evidence.sources import sources_digest
from normviz.experiments import Experiment, Run
from normviz.frame import FrameLog, Log
from normviz.knobs import Knobs
from normviz.measures import scalar
from normviz.presets import Grid, Preset

__all__ = [
    "TUNING",
    "TUNING_SEEDS",
    "Engine",
    "Reproduction",
    "Stage",
    "deciding_presets",
    "reproduce",
]

TUNING = 1000
"""First seed of tuning runs."""

TUNING_SEEDS = 2
"""Seeds of each value of a grid."""

LOOK = 0.5
"""Seconds between two looks at the runs."""


class Engine(Protocol):
    """What trains: :class:`normviz.engine.WorkerEngine`, or :class:`normviz.engine.RayEngine`."""

    def submit(self, experiment: Experiment, knobs: Knobs, *, owner: str, device: str = "auto") -> Run:
        """Start a run as soon as there is room; returns at once."""

    def wait_for_frames(self, run_id: str, seen: int, timeout: float) -> int:
        """Wait until a run has more frames than that, has ended, or the time is over."""

    def cancel(self, run_id: str) -> None:
        """End a run."""


@dataclass(frozen=True)
class Stage:
    """Where one preset stands.

    Attributes:
        preset: its slug.
        doing: what goes on: runs of the grid, runs of the verdict, or nothing any more.
        share: how much of that is done, in [0, 1].
    """

    preset: str
    doing: Literal["tuning", "training", "done"]
    share: float


Report = Callable[[Sequence[Stage]], None]


@dataclass(frozen=True)
class Reproduction:
    """What reproducing a page gave.

    Attributes:
        evidence: the record.
        recorded: a run of the default preset, for the opening picture; None if the default preset was not asked for.
    """

    evidence: Evidence
    recorded: Run | None


@dataclass
class _Plan:
    """A preset on its way to its verdicts."""

    preset: Preset
    knobs: Knobs
    tuning: list[Run] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    tried: dict[str, dict[str, float]] = field(default_factory=dict)
    best: dict[str, str] = field(default_factory=dict)

    def stage(self) -> Stage:
        runs = self.runs or self.tuning
        share = sum(run.progress for run in runs) / max(len(runs), 1)
        if self.runs and all(run.status == "done" for run in self.runs):
            return Stage(self.preset.slug, "done", 1.0)
        return Stage(self.preset.slug, "training" if self.runs else "tuning", share)

    def log(self) -> FrameLog:
        """All arms, each from the run at its own best; an arm that every run has is taken from the first."""
        log = FrameLog()
        for run in self.runs:
            new = set(run.log.arms) - set(log.arms)
            log.extend(frame for frame in run.log.frames if frame.arm in new)
        return log

    def record(self, device: str) -> PresetRecord:
        grid = self.preset.grid
        return PresetRecord(
            knobs=self.knobs.model_dump(mode="json"),
            seeds=tuple(self.knobs.seed_range()),
            tuning_seeds=tuple(range(TUNING, TUNING + TUNING_SEEDS)) if grid is not None else (),
            grid=self.tried,
            best=self.best,
            seconds=round(sum(run.seconds for run in (*self.tuning, *self.runs)), 1),
            date=datetime.now(UTC).date().isoformat(),
            revision=environment(device).get("revision", "unknown"),
        )


def deciding_presets(experiment: Experiment) -> list[Preset]:
    """The presets that decide a claim, in the page's order; the default is always among them."""
    wanted = {claim.preset for claim in experiment.claims} | {experiment.presets.default.slug}
    return [preset for preset in experiment.presets.values() if preset.slug in wanted]


def reproduce(
    experiment: Experiment,
    engine: Engine,
    *,
    seeds: int = LEAST_SEEDS,
    store: RunStore | None = None,
    device: str = "auto",
    presets: Iterable[str] | None = None,
    former: Evidence | None = None,
    report: Report = lambda _: None,
) -> Reproduction:
    """Run the presets that decide a page's claims and judge every claim.

    Args:
        experiment: the page's experiment.
        engine: where runs are trained; it uses all its workers.
        seeds: seeds of each verdict, 0 to ``seeds`` - 1.
        store: the engine's store. Finished runs with the same numbers are taken from it instead of being trained again.
        device: as for runs.
        presets: slugs of some presets only; None: all that decide a claim.
        former: evidence whose other presets stay, as far as their claims are still the same.
        report: told every half second where each preset stands.

    Raises:
        RuntimeError: a run failed; the message has its error.
        KeyError: a preset is unknown.
        KnobError: the experiment does not allow so many seeds.
    """
    chosen = deciding_presets(experiment)
    if presets is not None:
        chosen = [experiment.presets[slug] for slug in presets]
    plans = [_Plan(preset, _with_seeds(experiment, preset, seeds)) for preset in chosen]
    trainer = _Trainer(experiment, engine, store, device, lambda: report([plan.stage() for plan in plans]))
    try:
        recorded = _train(trainer, plans)
    except BaseException:
        trainer.cancel()
        raise
    return Reproduction(_judge(experiment, plans, device, former), recorded)


def _with_seeds(experiment: Experiment, preset: Preset, seeds: int) -> Knobs:
    """The preset's setting with so many seeds; as it is where it decides no claim, or has no number of seeds."""
    plain = experiment.setting(preset)
    decides = any(claim.preset == preset.slug for claim in experiment.claims)
    if not decides or "seeds" not in type(plain).model_fields:
        return plain
    return experiment.knobs.parse({**plain.model_dump(), "seeds": seeds})


def _train(trainer: _Trainer, plans: Sequence[_Plan]) -> Run | None:
    """Train what all plans need; returns the run of the default setting."""
    default = trainer.experiment.presets.default.slug
    recorded: Run | None = None
    for plan in plans:
        if plan.preset.grid is None:
            plan.runs = trainer.start([plan.knobs])
            if plan.preset.slug == default:
                (recorded,) = plan.runs
        else:
            plan.tuning = trainer.start(_tuning_settings(plan.preset.grid, plan.knobs))
            if plan.preset.slug == default:
                (recorded,) = trainer.start([trainer.experiment.setting()])
    for plan in plans:
        if plan.preset.grid is not None:
            trainer.wait(plan.tuning)
            plan.tried = _tried(plan.preset.grid, plan.knobs, plan.tuning)
            plan.best = {arm: _best(plan.preset.grid, values) for arm, values in plan.tried.items()}
            plan.runs = trainer.start(_best_settings(plan.preset.grid, plan.knobs, plan.best))
    for plan in plans:
        trainer.wait(plan.runs)
    if recorded is not None:
        trainer.wait([recorded])
    return recorded


class _Trainer:
    """Trains settings through the engine, or finds them finished in the store."""

    def __init__(
        self,
        experiment: Experiment,
        engine: Engine,
        store: RunStore | None,
        device: str,
        report: Callable[[], None],
    ) -> None:
        self.experiment, self._engine, self._store, self._device = experiment, engine, store, device
        self._report = report
        self._name = f"reproduced, sources {sources_digest(experiment, device)}"
        self._started: list[Run] = []

    def start(self, settings: Iterable[Knobs]) -> list[Run]:
        """A run of every setting, in order: a stored one that is finished, else one in the engine's queue."""
        return [self._stored(knobs) or self._submit(knobs) for knobs in settings]

    def wait(self, runs: Sequence[Run]) -> None:
        """Return when all of these runs are done.

        Raises:
            RuntimeError: one failed or was cancelled.
        """
        for run in runs:
            while run.live:
                self._engine.wait_for_frames(run.id, seen=1 << 62, timeout=LOOK)
                self._name_finished()
                self._report()
            if run.status != "done":
                raise RuntimeError(f"A run of {self.experiment.slug} has {run.status}: {run.error}")
        self._name_finished()
        self._report()

    def cancel(self) -> None:
        """End all runs that are still going."""
        for run in self._started:
            self._engine.cancel(run.id)

    def _submit(self, knobs: Knobs) -> Run:
        run = self._engine.submit(self.experiment, knobs, owner="reproduce", device=self._device)
        self._started.append(run)
        return run

    def _name_finished(self) -> None:
        """Finished runs get a name by which they are found again; a store that fails keeps nothing."""
        for run in [run for run in self._started if run.status == "done" and not run.name]:
            run.name = self._name
            if self._store is not None:
                try:
                    self._store.rename(run.id, run.name)
                except StoreError:
                    continue

    def _stored(self, knobs: Knobs) -> Run | None:
        if self._store is None:
            return None
        wanted = (self._name, self._device, "done", json.loads(knobs.key()))
        try:
            for stored in self._store.list(self.experiment.slug, limit=10_000):
                if (stored.name, stored.device, stored.status, stored.knobs) == wanted:
                    return self._store.load(stored.id)
        except StoreError:
            return None
        return None


def _tuning_settings(grid: Grid, knobs: Knobs) -> list[Knobs]:
    """The setting with every value of the grid, on the tuning seeds."""
    seeds = {"first_seed": TUNING, "seeds": TUNING_SEEDS}
    return [type(knobs).parse({**knobs.model_dump(), grid.knob: value, **seeds}) for value in grid.values]


def _best_settings(grid: Grid, knobs: Knobs, best: Mapping[str, str]) -> list[Knobs]:
    """One setting for each value that is the best of some arms, with these arms."""
    by_value: dict[str, list[str]] = {}
    for arm, value in best.items():
        by_value.setdefault(value, []).append(arm)
    return [
        type(knobs).parse({**knobs.model_dump(), grid.knob: value, grid.arms: tuple(arms)})
        for value, arms in by_value.items()
    ]


def _tried(grid: Grid, knobs: Knobs, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """The criterion of every arm at every value of the grid, mean over the tuning seeds; the worst for no number."""
    worst = math.inf if grid.better == "lower" else -math.inf
    tried: dict[str, dict[str, float]] = {}
    for option in getattr(knobs, grid.arms):
        for value, run in zip(grid.values, runs, strict=True):
            measured = scalar(grid.criterion, _name_of(option, grid, run.knobs), bad=worst)(
                run.log, run.knobs
            )
            numbers = [worst if math.isnan(v) else v for v in measured.values()]
            tried.setdefault(option, {})[str(value)] = sum(numbers) / len(numbers)
    return tried


def _name_of(option: str, grid: Grid, knobs: Knobs) -> str:
    """The arm that an option of the knob of arms stands for; of several the first."""
    alone = type(knobs).parse({**knobs.model_dump(), grid.arms: (option,)})
    return alone.shown_arms().names[0]


def _best(grid: Grid, values: Mapping[str, float]) -> str:
    """The value with the best criterion; the first of equals."""
    choose = min if grid.better == "lower" else max
    return choose(values, key=lambda value: values[value])


def _judge(experiment: Experiment, plans: Sequence[_Plan], device: str, former: Evidence | None) -> Evidence:
    """All claims with their verdicts: those of the plans, and what is still valid of former evidence."""
    records: dict[str, ClaimRecord] = {}
    presets: dict[str, PresetRecord] = {}
    for plan in plans:
        log = plan.log().view()
        presets[plan.preset.slug] = plan.record(device)
        for claim in experiment.claims:
            if claim.preset == plan.preset.slug:
                records[claim.id] = _record(experiment, claim, plan.knobs, log)
    for claim in experiment.claims if former is not None else ():
        assert former is not None
        old, at = former.claim(claim.id), former.presets.get(claim.preset)
        if claim.id in records or old is None or at is None:
            continue
        if old.fingerprint == fingerprint(experiment, claim):
            records[claim.id], presets[claim.preset] = old, at
    corrected = holm(experiment.claims, {name: record.verdict() for name, record in records.items()})
    return Evidence(
        slug=experiment.slug,
        date=max(record.date for record in presets.values()),
        environment={k: v for k, v in environment(device).items() if v},
        presets={slug: presets[slug] for slug in experiment.presets if slug in presets},
        claims=tuple(
            records[c.id].model_copy(update={"corrected": corrected.get(c.id, "")})
            for c in experiment.claims
            if c.id in records
        ),
    )


def _record(experiment: Experiment, claim: Claim, knobs: Knobs, log: Log) -> ClaimRecord:
    """A claim's verdict; it follows from the numbers as they are written, so that anybody can check it."""
    verdict = claim.verdict(log, knobs)
    numbers = {interval.rival: rounded(interval.per_seed) for interval in verdict.intervals}
    if any(not math.isnan(v) for per_seed in numbers.values() for v in per_seed.values()):
        verdict = claim.judge({rival: numbers[rival] for rival in claim.rivals})
    named = {arm for measure in claim.rivals.values() for arm in measure.arm_names(knobs)}
    diverged = [(arm, seed) for arm, seed in sorted(log.diverged) if arm in named or not named]
    return ClaimRecord(
        id=claim.id,
        fingerprint=fingerprint(experiment, claim),
        preset=claim.preset,
        outcome=verdict.outcome,
        corrected="",
        measured=verdict.measured,
        intervals=tuple(_interval_record(verdict, i) for i in range(len(verdict.intervals))),
        diverged=tuple(f"{arm}, seed {seed}" for arm, seed in diverged),
        reason=verdict.reason,
    )


def _interval_record(verdict: Verdict, index: int) -> IntervalRecord:
    interval = verdict.intervals[index]
    return IntervalRecord(
        rival=interval.rival,
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        per_seed=dict(interval.per_seed),
        outcome=interval.outcome,
    )

"""Links and knobs that nobody sane would send, to every page, and files that were damaged on disk."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from itertools import islice
from pathlib import Path

from normviz.engine import RunStore, StoreError, run_inline
from normviz.experiments import SLUGS, get_experiment
from normviz.frame import FrameLog
from normviz.knobs import Control, KnobError
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.soak.trial import Trial

__all__ = ["damaged_files", "hostile_links", "random_settings"]

HOSTILE = (
    "", " ", "nan", "-inf", "1e999", "0x10", "1_000", "-1", "٣", "true", "null", "None", "[]", "[[1]]", "{}", "a,b",
    "\x00", "\u200b", "../../etc/passwd", "![x](http://host/x.png)", "<script>", "'; drop table runs; --",
    "max(0,1) " * 40, "9" * 400, "🙂" * 200,
)  # fmt: skip


def hostile_links(times: int, chance: random.Random) -> Trial:
    """Query strings of hostile texts: every part is used or refused by a sentence; nothing else happens."""
    trial = Trial("links with hostile values, over all pages")
    for n in range(times):
        experiment = get_experiment(SLUGS[n % len(SLUGS)])
        names = [*experiment.knobs.controls(), "run", "embed", "preset", "__class__", "x" * 300]
        query = {chance.choice(names): chance.choice(HOSTILE) for _ in range(chance.randrange(1, 6))}
        trial.tried += 1
        try:
            knobs, refused = experiment.knobs.parse_leniently(query)
            experiment.knobs.parse(knobs.model_dump())
            trial.expect(all(len(r.sentence) < 600 for r in refused), f"a sentence is endless: {query}")
        except Exception as error:
            trial.failures.append(f"{experiment.slug} {query!r:.200}: {type(error).__name__}: {error}"[:300])
    return trial


def random_settings(times: int, chance: random.Random, frames: int = 1) -> Trial:
    """Random settings that are allowed: the first frames and the charts of each can be made."""
    trial = Trial("random valid settings, over all pages: first frames and charts")
    for n in range(times):
        experiment = get_experiment(SLUGS[n % len(SLUGS)])
        controls = experiment.knobs.controls()
        changed = chance.sample(sorted(controls), min(4, len(controls)))
        values = {name: _random_value(controls[name], chance) for name in changed}
        try:
            knobs = experiment.knobs.parse(values)
        except KnobError:
            continue
        trial.tried += 1
        try:
            log = FrameLog(islice(experiment.frames(knobs, "cpu"), frames))
            experiment.figures(log, knobs)
        except ImportError as error:
            trial.expect("normviz[" in str(error), f"{experiment.slug} {values}: {error}")
        except Exception as error:
            trial.failures.append(f"{experiment.slug} {values}: {type(error).__name__}: {error}"[:300])
    return trial


def _random_value(control: Control, chance: random.Random) -> object:
    low, high = control.low, control.high
    if control.kind == "int" and low is not None and high is not None:
        return chance.randint(int(low), int(high))
    if control.kind == "float" and low is not None and high is not None:
        return chance.uniform(float(low), float(high))
    if control.kind == "choice":
        return chance.choice(control.options)
    if control.kind == "choices":
        return tuple(chance.sample(control.options, chance.randint(1, len(control.options))))
    return not control.default if control.kind == "bool" else control.default


def damaged_files(folder: Path, times: int, chance: random.Random) -> Trial:
    """Bytes of stored runs are changed, cut or added: whole runs stay whole, damaged ones are refused or shortened."""
    trial = Trial("damaged files of stored runs")
    source = folder / "source"
    store = RunStore(source)
    ids = [
        run_inline(EXPERIMENT, ToyKnobs(steps=30, tag=float(n)), device="cpu", store=store).id
        for n in range(3)
    ]
    store.close()
    for n in range(times):
        place = folder / f"copy{n % 8}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        files = sorted(p for p in place.rglob("*") if p.is_file() and ids[0] in p.name)
        target = chance.choice(files)
        target.write_bytes(_damaged(target.read_bytes(), chance))
        trial.tried += 1
        store = RunStore(place)
        try:
            listed = {row.id for row in store.list()}
            trial.expect(set(ids[1:]) <= listed, f"whole runs are hidden by damage to {target.name}")
            for run_id in ids[1:]:
                trial.expect(len(store.load(run_id).log) == 31, "a whole run lost frames")
            with suppress(StoreError):  # refused by a sentence, as it should be
                store.load(ids[0])
        except Exception as error:
            trial.failures.append(f"{target.name}: {type(error).__name__}: {error}"[:300])
        finally:
            store.close()
    return trial


def _damaged(data: bytes, chance: random.Random) -> bytes:
    kind = chance.choice(("flip", "cut", "add", "block", "empty"))
    at = chance.randrange(max(len(data), 1))
    if kind == "flip" and data:
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == "block":
        return data[:at] + chance.randbytes(64) + data[at + 64 :]
    if kind == "cut":
        return data[:at]
    return b"" if kind == "empty" else data + chance.randbytes(40)

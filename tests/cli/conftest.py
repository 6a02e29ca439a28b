"""What the tests of the command line share: an experiment outside of normviz, and how a refusal looks."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normviz.cli import engines, main
from normviz.engine import RunStore
from tests.evidence.conftest import HereAndNow

OWN = """
from normviz.arms import Arms
from normviz.claims import Bound, Claim, Effect, Identity
from normviz.experiments import Experiment
from normviz.knobs import Knobs, knob
from normviz.measures import constant, derived, scalar
from normviz.presets import Preset, Presets
from normviz.progress import ROUNDS


class OwnKnobs(Knobs):
    steps: int = knob(4, 1, 10, label="Steps", help="Steps.")
    seeds: int = knob(2, 1, 5, label="Seeds", help="Seeds.")
    preset: int = knob(0, 0, 9, label="Preset", help="A knob with the name of an option.")

    def progress(self):
        return ROUNDS

    def shown_arms(self):
        return Arms.of(["only"])


def claim(id, rule, measure=scalar("loss", "only", since=0.0), preset="default", **options):
    return Claim(id, "layer-norm", f"The claim {id}.", "In a table.", "a number", measure, rule, preset, **options)


CLAIMS = (
    claim("low", Bound("below", 10.0)),
    claim("high", Bound("above", 10.0), unit="nats"),
    claim("weak", Effect("above", floor=0.1, bar=100.0)),
    claim("none", Effect("above", floor=100.0)),
    claim("wide", Bound("below", 0.0), derived(lambda log, knobs: {0: -1.0, 1: 1.0})),
    claim("infinite", Bound("below", 0.0), derived(lambda log, knobs: {0: 0.0, 1: float("inf"), 2: float("inf")})),
    claim("exact", Identity("above", 0.5), constant("one")),
    claim("broken", Identity("below", 0.5), constant("one")),
    claim("absent", Bound("below", 0.0), given={"steps": 9}, preset="long"),
)
PRESETS = Presets([Preset("default", "Default", "As it is."), Preset("long", "Long", "Nine steps.", {"steps": 9})])
EXPERIMENT = Experiment(
    slug="own", title="Own [experiment]", question="?", papers=(), knobs=OwnKnobs, package=__name__, presets=PRESETS,
    claims=CLAIMS,
)
"""
OWN_FRAMES = """
from normviz.frame import Frame


def frames(knobs, device):
    for step in range(knobs.steps + 1):
        for seed in knobs.seed_range():
            yield Frame(step, "only", seed, {"loss": 1.0 + seed / 10 + 1 / (1 + step), "one": 1.0})
"""
OWN_FIGURES = """
from normviz.figures import Sheet


def sheet(knobs):
    return Sheet({"loss": lambda board: board.lines("loss", title="Loss", y="nats", look_for="Does it fall?")})
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, data_folder: Path) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("NORMVIZ_EVIDENCE", str(data_folder / "evidence"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package of an experiment with claims, outside of normviz."""
    folder = tmp_path / "lab" / "own"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(OWN)
    (folder / "frames.py").write_text(OWN_FRAMES)
    (folder / "figures.py").write_text(OWN_FIGURES)
    (folder.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        monkeypatch.delitem(sys.modules, name)
    return "lab.own"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[HereAndNow]:
    """No worker processes: what is trained is trained here. The engines that were made."""
    made: list[HereAndNow] = []

    class Closing(HereAndNow):
        def __init__(self, workers: int | None, *, store: RunStore | None, nice: int) -> None:
            super().__init__(store)
            self.workers = workers
            made.append(self)

        def close(self) -> None:
            pass

    monkeypatch.setattr(engines, "WorkerEngine", Closing)
    return made


def stored(folder: Path) -> list[tuple[str, str]]:
    """Slug and status of every stored run, the newest first."""
    store = RunStore(folder)
    rows = [(run.slug, run.status) for run in store.list()]
    store.close()
    return rows


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused: code 2, one line on standard error, nothing on standard output."""

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("normviz: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, "one sentence"
        assert "Traceback" not in err
        return err.removeprefix("normviz: ").strip()

    return run


def take_interrupts() -> None:
    """A job in the background of a shell is born deaf to Ctrl-C; the reader's is not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)

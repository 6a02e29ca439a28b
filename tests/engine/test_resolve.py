"""Names of experiments come from anywhere: only what somebody has opted for is imported."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from normviz.engine import RunStore, StoreError, WorkerEngine, find_experiment, resolve
from normviz.experiments import SLUGS, Run
from tests.engine.conftest import wait_for_end
from tests.engine.toy import EXPERIMENT, ToyKnobs

PACKAGE = """
from dataclasses import replace
from pathlib import Path
from tests.engine.toy import EXPERIMENT as TOY

(Path(__file__).parent / "imported").touch()
EXPERIMENT = replace(TOY, slug="own", package=__name__)
"""
FRAMES = "from tests.engine.toy.frames import frames\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``bench.own``, an experiment that leaves a trace when it is imported."""
    folder = tmp_path / "bench" / "own"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text(f"open({str(folder / 'parent')!r}, 'w').close()\n")
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "frames.py").write_text(FRAMES)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
        monkeypatch.delitem(sys.modules, name)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "bench"]:
        del sys.modules[name]


def test_pages_are_found_by_slug_and_by_package() -> None:
    for slug in SLUGS:
        package = f"normviz.experiments.{slug.replace('-', '_')}"
        assert find_experiment(slug) is find_experiment(package)


@pytest.mark.parametrize(
    "name",
    ["unittest.__main__", "tests.engine.test_resolve", "no.such", "..", "a b.c", "normviz.experiments"],
)
def test_what_is_not_registered_is_not_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(name: str) -> None:
        pytest.fail(f"{name} was imported")

    monkeypatch.setattr(resolve, "import_module", imported)
    with pytest.raises(ValueError, match="it is not registered") as refused:
        find_experiment(name)
    assert repr(name) in str(refused.value)


def test_own_package_is_imported_when_it_is_registered(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "tests.engine.toy")
    with pytest.raises(ValueError, match=r"set NORMVIZ_EXPERIMENTS=tests\.engine\.toy,bench\.own$"):
        find_experiment("bench.own")
    assert not (own / "parent").exists()
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "tests.engine.toy,bench.own")
    assert find_experiment("bench.own").slug == "own"
    assert (own / "imported").exists()


def test_entry_point_registers(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(group: str) -> list[EntryPoint]:
        return [EntryPoint("own", "bench.own", group)] if group == "normviz.experiments" else []

    monkeypatch.setattr(resolve, "entry_points", installed)
    resolve._declared.cache_clear()
    try:
        assert find_experiment("bench.own").slug == "own"
    finally:
        resolve._declared.cache_clear()


def test_store_imports_only_what_is_registered(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "bench.own")
    store = RunStore(tmp_path / "store")
    run = Run(find_experiment("bench.own"), ToyKnobs(), device="cpu")
    run.begin()
    store.create(run)
    run.end("done")
    store.finish(run)
    assert store.load(run.id).experiment is run.experiment
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "")
    with pytest.raises(StoreError, match=r"belongs to an experiment that is not there: .* not registered"):
        store.load(run.id)
    store.close()


def test_worker_imports_what_the_server_has_registered_since(
    own: Path, engine: WorkerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "tests.engine.toy,bench.own")
    experiment = find_experiment("bench.own")
    run = wait_for_end(engine, engine.submit(experiment, ToyKnobs(), owner="me"))
    # The worker has been told that it may; the folder is on the path of this process alone.
    assert run.error == (
        "ValueError: The experiment package 'bench.own' cannot be imported: No module named 'bench'."
    )
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", "")
    with pytest.raises(ValueError, match="not registered"):
        engine.submit(EXPERIMENT, ToyKnobs(), owner="me")

"""``normviz sweep``: all combinations, side by side, a failure in between, an interruption, its file."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from normviz.cli import engines, main
from normviz.cli.records import as_json
from normviz.cli.sweep_file import write_sweep
from normviz.engine import RunStore
from normviz.experiments import run_experiment
from tests.cli.conftest import stored, take_interrupts
from tests.engine.members import by_member
from tests.engine.toy import EXPERIMENT, ToyKnobs
from tests.evidence.conftest import HereAndNow

ROOT = Path(__file__).parents[2]
NAME = "tests.engine.toy"
Refused = Callable[..., str]


def test_sweep(here: list[HereAndNow], data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", NAME, "--grid", "steps=1,3", "--grid", "arms=a,a+b", "--tag", "7"]) == 0
    out, err = capsys.readouterr()
    store = RunStore(data_folder)
    runs = [store.load(run.id) for run in reversed(store.list())]
    store.close()
    dumps = [run.knobs.model_dump() for run in runs]
    assert [(d["steps"], d["arms"], d["tag"]) for d in dumps] == [
        (steps, arms, 7.0) for steps in (1, 3) for arms in (("a",), ("a", "b"))
    ]
    rows = [row for row in out.splitlines() if row.startswith(("│ 1 ", "│ 3 "))]
    assert [run.id in row and "done" in row for run, row in zip(runs, rows, strict=True)] == [True] * 4
    assert "last loss" in out
    assert "a 0.25" in rows[3]
    assert err.splitlines()[0] == "4 runs: starting"
    assert re.search(r"^2/4 steps=1, arms=a\+b: done in \d+\.\d s; loss: a 0\.5, b 0\.5$", err, re.MULTILINE)
    assert here[0].workers is None  # type: ignore[attr-defined]


def test_sweep_goes_on_after_a_failure(
    here: list[HereAndNow], data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", NAME, "--grid", "mode=raise,train", "--workers", "3"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"│ raise .* failed ", out)
    assert re.search(r"│ train .* done ", out)
    assert "normviz: The run 1/2 mode=raise failed: " in err
    assert stored(data_folder) == [("toy", "done"), ("toy", "failed")]
    assert here[0].workers == 3  # type: ignore[attr-defined]


def test_interrupted_sweep_starts_no_more(
    here: list[HereAndNow],
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit = HereAndNow.submit

    def interrupted(engine: HereAndNow, experiment: Any, knobs: Any, **options: Any) -> Any:
        if knobs.tag == 2.0:
            raise KeyboardInterrupt
        return submit(engine, experiment, knobs, **options)

    monkeypatch.setattr(HereAndNow, "submit", interrupted)
    target = tmp_path / "sweep.csv"
    assert main(["sweep", NAME, "--grid", "tag=1,2,3", "--out", str(target)]) == 130
    out, err = capsys.readouterr()
    assert re.findall(r"│ (done|interrupted|not started) ", out) == ["done", "not started", "not started"]
    assert stored(data_folder) == [("toy", "done")]
    assert f"Interrupted after 1 of 3 runs. What was measured is kept in {data_folder}." in err
    table = pd.read_csv(target)
    assert table["knob_tag"].tolist() == [1.0, 2.0, 3.0]
    assert table["status"].tolist() == ["done", "not started", "not started"]
    assert table["last_loss"].notna().tolist() == [True, False, False]


# -- for other programs ------------------------------------------------------------------------------------------------


def test_json_is_all_of_standard_output(
    here: list[HereAndNow], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "sweep.json"
    line = ["sweep", NAME, "--grid", "arms=a,a+b", "--grid", "mode=train,raise", "--seeds", "2"]
    assert main([*line, "--json", "--out", str(target)]) == 1
    out, err = capsys.readouterr()
    assert "4 runs: starting" in err
    assert json.loads(out) == json.loads(target.read_text())
    record = json.loads(out)
    assert (record["command"], record["experiment"], record["axes"]) == ("sweep", "toy", ["arms", "mode"])
    assert [run["point"] for run in record["runs"]] == [
        {"arms": arms, "mode": mode} for arms in (["a"], ["a", "b"]) for mode in ("train", "raise")
    ]
    assert [run["status"] for run in record["runs"]] == ["done", "failed", "done", "failed"]
    last = record["runs"][2]
    assert last["final"]["loss"] == {arm: {"0": 1 / 6, "1": 1 / 7} for arm in "ab"}
    assert (last["knobs"]["seeds"], last["error"]) == (2, None)
    assert main([*line, "--json", "--quiet"]) == 1
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 4


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table_of_last_values(here: list[HereAndNow], tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"sweep.{suffix}"
    assert (
        main(
            [
                "sweep",
                NAME,
                "--grid",
                "steps=1,3",
                "--grid",
                "arms=a,a+b",
                "--seeds",
                "2",
                "--out",
                str(target),
            ]
        )
        == 0
    )
    table = pd.read_csv(target) if suffix == "csv" else pd.read_parquet(target)
    expected = [
        (steps, "+".join(arms), arm, seed, steps, 1 / (steps + 1 + seed))
        for steps in (1, 3)
        for arms in (("a",), ("a", "b"))
        for seed in (0, 1)
        for arm in arms
    ]
    columns = ["knob_steps", "knob_arms", "arm", "seed", "step"]
    assert list(map(tuple, table[columns].to_numpy().tolist())) == [row[:5] for row in expected]
    assert table["last_loss"].tolist() == pytest.approx([row[5] for row in expected], rel=1e-12)
    assert set(table["status"]) == {"done"}
    assert table["run"].nunique() == 4
    assert [path.name for path in tmp_path.glob("sweep*")] == [target.name], "nothing is left of the writing"


def test_file_that_cannot_be_written_is_said_and_the_old_one_stays(
    here: list[HereAndNow],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "sweep.csv"
    target.write_text("before")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["sweep", NAME, "--grid", "steps=1", "--out", str(target)]) == 1
    assert "sweep.csv could not be written: No space left on device." in capsys.readouterr().err
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.glob("sweep*")] == ["sweep.csv"]


def test_file_is_checked_before_anything_runs(
    here: list[HereAndNow], tmp_path: Path, refused: Refused
) -> None:
    missing = str(tmp_path / "missing" / "sweep.csv")
    assert "there is no folder" in refused("sweep", NAME, "--grid", "steps=1", "--out", missing)
    assert "must end in" in refused("sweep", NAME, "--grid", "steps=1", "--json", "--out", "sweep.xlsx")
    assert here == []


def test_numbers_that_are_not_finite_are_text() -> None:
    values = {"a": [float("nan"), 1.5], "b": (float("inf"), float("-inf")), "λ": {1: True}}
    assert json.loads(as_json(values)) == {
        "a": ["NaN", 1.5],
        "b": ["Infinity", "-Infinity"],
        "λ": {"1": True},
    }
    assert as_json(values).isascii()


def test_knob_and_scalar_of_one_name_keep_apart(tmp_path: Path) -> None:
    run = run_experiment(EXPERIMENT, ToyKnobs(steps=1, tag=4.0))
    target = tmp_path / "sweep.csv"
    write_sweep(target, EXPERIMENT, [{"tag": "4"}], [run])
    table = pd.read_csv(target)
    assert (table["knob_tag"].tolist(), table["last_tag"].tolist()) == ([4.0], [4.0])


# -- where it is trained -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_give_the_numbers_of_one_process(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", NAME, "--grid", "tag=1,2,3", "--seeds", "2", "--workers", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    store = RunStore(data_folder)
    for tag, run in zip((1.0, 2.0, 3.0), record["runs"], strict=True):
        trained = store.load(run["id"]).log.frames
        assert by_member(trained) == by_member(EXPERIMENT.frames(ToyKnobs(tag=tag, seeds=2), "cpu"))
    store.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_keeps_what_there_is(data_folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "sweep.json"
    command = [sys.executable, "-m", "normviz.cli", "sweep", NAME, "--delay", "20", "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--grid", "steps=5,100000", "--out", str(target)],
        cwd=ROOT,
        preexec_fn=take_interrupts,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert lines[1].startswith("1/2 steps=5: done"), lines
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Interrupted after 1 of 2 runs." in err
    runs = json.loads(target.read_text())["runs"]
    assert runs[0]["status"] == "done"
    assert runs[1]["status"] in ("interrupted", "not started")


def test_ray_gets_the_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    addresses: list[str | None] = []

    class Cluster(HereAndNow):
        def __init__(self, address: str | None, *, store: RunStore | None) -> None:
            if address == "nowhere:1":
                raise ConnectionError("Could not find any\nrunning Ray instance.")
            addresses.append(address)
            super().__init__(store)

    monkeypatch.setattr(engines, "RayEngine", Cluster)
    for ray in (["--ray"], ["--ray", "ray://host:10001"]):
        assert main(["sweep", NAME, "--grid", "steps=1,2", "--quiet", *ray]) == 0
        assert main(["reproduce", "tests.evidence.lab", "--seeds", "2", "--no-write", "--quiet", *ray]) == 0
    assert addresses == [None, None, "ray://host:10001", "ray://host:10001"]
    capsys.readouterr()
    assert refused("sweep", NAME, "--grid", "steps=1", "--ray", "nowhere:1") == (
        "Ray cannot be reached at nowhere:1: Could not find any running Ray instance."
    )


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    sentence = "RayEngine needs Ray: pip install 'normviz[ray]'."
    assert refused("sweep", NAME, "--grid", "steps=1", "--ray") == sentence
    assert refused("reproduce", "tests.evidence.lab", "--ray") == sentence


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_sweep_on_ray(data_folder: Path) -> None:
    """In a process of its own: a cluster of one machine that ends with it."""
    code = (
        "import os, sys, warnings; warnings.simplefilter('ignore'); import ray\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False,"
        " runtime_env={'env_vars': {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}})\n"
        "from normviz.cli import main\n"
        f"sys.exit(main(['sweep', {NAME!r}, '--grid', 'steps=3,6', '--ray', '--json']))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(ended.stdout[ended.stdout.index("{") :])["runs"]
    assert [run["final"]["loss"]["a"]["0"] for run in runs] == [1 / 4, 1 / 7]
    assert stored(data_folder) == [("toy", "done")] * 2

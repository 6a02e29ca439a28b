"""``normviz run`` and ``normviz more``: what is trained, kept, written and said."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from normviz import __version__
from normviz.cli import main, session
from normviz.cli.progress import RunProgress
from normviz.cli.settings import parse_knobs
from normviz.engine import RunStore, read_parquet
from normviz.experiments import Run, get_experiment
from normviz.frame import Frame
from normviz.uploads import read_text
from tests.cli.conftest import stored, take_interrupts
from tests.engine.toy import EXPERIMENT as TOY
from tests.engine.toy import ToyKnobs
from tests.evidence.conftest import HereAndNow
from tests.own_files import plants, shapes

ROOT = Path(__file__).parents[2]
NAME = "tests.engine.toy"
REAL = "normalization-statistics"
Refused = Callable[..., str]


def test_run_stores_and_writes(tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.csv"
    assert (
        main(["run", NAME, "--steps", "10", "--arms", "a", "b", "--tag", "-2.5", "--out", str(target)]) == 0
    )
    out, err = capsys.readouterr()
    assert stored(data_folder) == [("toy", "done")]
    assert re.search(r"Done in \d+\.\d s\. Run [0-9a-f]{12} is kept in ", out)
    assert re.search(r"Toy: step 2 of 10, about \d+ s left; loss: a 0.333, b 0.333\n", err)
    assert "Toy: step 10 of 10; loss: a 0.0909, b 0.0909" in err
    table = pd.read_csv(target)
    assert table["step"].tolist() == [step for step in range(11) for _ in "ab"]
    assert set(table["tag"]) == {-2.5}
    assert [path.name for path in tmp_path.glob("run*")] == [
        "run.csv",
        *(p.name for p in tmp_path.glob("runs.*")),
    ]


def test_parquet_is_the_stored_run(tmp_path: Path, data_folder: Path) -> None:
    target = tmp_path / "run.parquet"
    assert main(["run", NAME, "--steps", "3", "--out", str(target), "--quiet"]) == 0
    back = read_parquet(target, TOY)
    store = RunStore(data_folder)
    kept = store.load(back.id)
    assert back.knobs == kept.knobs == ToyKnobs(steps=3)
    assert back.log.to_table().equals(kept.log.to_table())
    store.close()


def test_no_store_and_quiet(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", NAME, "--no-store", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert stored(data_folder) == []


def test_failed_run(data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.csv"
    assert main(["run", NAME, "--mode", "raise", "--out", str(target)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "normviz: The run failed (--traceback shows where): ArithmeticError: the loss is odd" in err
    assert "Traceback" not in err
    assert not target.exists()
    assert stored(data_folder) == [("toy", "failed")]
    assert main(["run", NAME, "--mode", "raise", "--traceback"]) == 1
    assert "_misbehave" in capsys.readouterr().err


def test_result_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "to_parquet", full)
    assert main(["run", NAME, "--out", str(tmp_path / "run.parquet")]) == 1
    assert "run.parquet could not be written: No space left on device." in capsys.readouterr().err


def test_store_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path / "file"))
    assert main(["run", NAME]) == 0
    out, err = capsys.readouterr()
    assert "could not be kept" in err
    assert "is kept" not in out + err


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("options", [[], ["--no-store"]])
def test_ctrl_c_keeps_what_there_is(data_folder: Path, tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "run.csv"
    gate = tmp_path / "gate"
    gate.write_bytes(b"." * 300)  # the steps it can make: it waits there, however fast the machine is
    command = [sys.executable, "-m", "normviz.cli", "run", NAME, "--steps", "1000", "--gate", str(gate)]
    process = subprocess.Popen(
        [*command, "--out", str(target), *options],
        cwd=ROOT,
        preexec_fn=take_interrupts,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = [process.stderr.readline(), process.stderr.readline()]
    assert lines[1].startswith("Toy: step 200 of 1000"), lines
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
    said = re.search(r"Interrupted at step (\d+) of 1000\. (.*)", err)
    assert said is not None
    assert 200 <= int(said[1]) <= 300
    assert len(pd.read_csv(target)) == int(said[1]) + 1
    if options:
        assert said[2] == "The run is not kept (--no-store)."
    else:
        assert stored(data_folder) == [("toy", "cancelled")]
        assert re.fullmatch(rf"Run [0-9a-f]{{12}} is kept in {re.escape(str(data_folder))}\.", said[2])
    assert "Claim" not in out


def test_interrupt_before_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_inline", interrupt)
    assert main(["run", NAME]) == 130
    assert "Interrupted before anything was measured." in capsys.readouterr().err


@pytest.mark.slow
def test_real_experiment(data_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("to be or not to be, that is the question. " * 400)
    flags = ["--steps", "10", "--seeds", "1", "--norms", "layer", "--no-reference", "--corpus", str(text)]
    assert main(["run", REAL, *flags]) == 0
    out = capsys.readouterr().out
    assert "= holds" in out
    assert re.search(r"corpus = text-[0-9a-f]{12}", out)
    assert stored(data_folder) == [(REAL, "done")]


def test_corpus_takes_a_file(tmp_path: Path, data_folder: Path, refused: Refused) -> None:
    schema = get_experiment(REAL).knobs
    text = tmp_path / "mine.txt"
    text.write_text("all happy families are alike. " * 100)
    key = parse_knobs(schema, {"corpus": str(text)}).model_dump()["corpus"]
    assert re.fullmatch(r"text-[0-9a-f]{12}", key)
    assert read_text(key) == text.read_text()
    assert parse_knobs(schema, {"corpus": key}).model_dump()["corpus"] == key
    assert parse_knobs(schema, {"corpus": "python-docs"}) == schema()
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bad.txt").write_bytes(b"\xff" * 5000)
    (tmp_path / "long.txt").write_bytes(b"x" * 1_000_001)
    for name, sentence in (
        ("short.txt", "short.txt has 9 characters; at least 2,000"),
        ("bad.txt", "bad.txt is not UTF-8: byte 0xff at position 0"),
        ("long.txt", "long.txt has 1,000,001 bytes; at most 1,000,000"),
        (".", "there is no file '.'"),
    ):
        os.chdir(tmp_path)
        try:
            assert sentence in refused("run", REAL, "--corpus", name)
        finally:
            os.chdir(ROOT)
    assert len(list((data_folder / "uploads").iterdir())) == 1, "nothing refused is kept"


@pytest.mark.slow
def test_a_table_of_ones_own(data_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "plants.csv"
    table.write_bytes(plants())
    flags = ["--steps", "10", "--seeds", "1", "--arms", "snn", "--depth", "2", "--own-table", str(table)]
    assert main(["run", "self-normalizing", *flags, "--target", "species"]) == 0
    assert re.search(r"data = own, own_table = table-[0-9a-f]{12}, target = species", capsys.readouterr().out)
    assert stored(data_folder) == [("self-normalizing", "done")]


def test_own_data_takes_files_and_folders(tmp_path: Path, data_folder: Path, refused: Refused) -> None:
    (tmp_path / "plants.csv").write_bytes(plants())
    (tmp_path / "bad.csv").write_bytes(b"a,b\n1,2,3\n")
    (tmp_path / "shapes.zip").write_bytes(shapes())
    with zipfile.ZipFile(tmp_path / "shapes.zip") as archive:
        archive.extractall(tmp_path / "shapes")
    schema = get_experiment("evolving-layers").knobs
    knobs, other = (parse_knobs(schema, {"own_images": str(tmp_path / n)}) for n in ("shapes.zip", "shapes"))
    assert knobs == other
    assert parse_knobs(schema, knobs.to_query()) == knobs, "by its key too"
    before = sorted((data_folder / "uploads").iterdir())
    for flags, sentence in (
        (["--own-table", "bad.csv"], "bad.csv: row 2 has 3 cells and the row of names has 2."),
        (
            ["--own-table", "shapes"],
            "own_table takes the key of a kept table, or a CSV file: there is no file",
        ),
        (
            ["--own-table", "table-0123456789ab"],
            "table-0123456789ab is not on this machine: upload it again.",
        ),
        (["--data", "wine", "--own-table", "plants.csv"], "own_table needs data = own, got wine."),
        (["--preset", "wine", "--own-table", "plants.csv"], "own_table needs data = own, got wine."),
        (["--data", "own"], "Bring a CSV table to train on, and choose its target."),
    ):
        os.chdir(tmp_path)
        try:
            assert sentence in refused("run", "self-normalizing", *flags)
        finally:
            os.chdir(ROOT)
    assert sorted((data_folder / "uploads").iterdir()) == before, "nothing refused is kept"
    assert "is classified: colour, species." in refused(
        "run", "self-normalizing", "--own-table", str(tmp_path / "plants.csv")
    )


# -- for other programs ------------------------------------------------------------------------------------------------


def test_json_is_all_of_standard_output(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "run.csv"
    assert main(["run", own, "--seeds", "3", "--json", "--out", str(target)]) == 0
    out, err = capsys.readouterr()
    assert "Own [experiment]: round 4 of 4" in err
    assert target.is_file()
    record = json.loads(out)
    assert (record["command"], record["version"]) == ("run", __version__)
    run = record["run"]
    assert (run["experiment"], run["status"], run["error"], run["knobs"]["seeds"]) == ("own", "done", None, 3)
    last = {str(seed): 1.0 + seed / 10 + 1 / 5 for seed in range(3)}
    assert run["final"]["loss"]["only"] == pytest.approx(last, rel=1e-12)
    assert run["environment"]["python"]
    claims = {claim["id"]: claim for claim in run["claims"]}
    assert {name: claim["outcome"] for name, claim in claims.items() if claim["measured"]} == {
        "low": "reproduced",
        "high": "opposite",
        "weak": "weaker",
        "none": "no effect",
        "wide": "undecided",
        "infinite": "undecided",
        "exact": "reproduced",
        "broken": "opposite",
    }
    assert [name for name, claim in claims.items() if not claim["measured"]] == ["absent"]
    (interval,) = claims["low"]["intervals"]
    mean = {str(seed): sum(1.0 + seed / 10 + 1 / (1 + step) for step in range(5)) / 5 for seed in range(3)}
    assert interval["per_seed"] == pytest.approx(mean, rel=1e-9)
    assert interval["low"] < interval["estimate"] < interval["high"]
    assert claims["infinite"]["intervals"][0]["per_seed"]["2"] == "Infinity"
    assert main(["more", run["id"], "--seeds", "1", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert (again["command"], again["run"]["id"], again["run"]["knobs"]["seeds"]) == ("more", run["id"], 4)
    assert err == ""


def test_json_of_a_run_that_fails_or_is_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", NAME, "--mode", "raise", "--json"]) == 1
    out, err = capsys.readouterr()
    run = json.loads(out)["run"]
    assert run["status"] == "failed"
    assert "ArithmeticError: the loss is odd" in run["error"]
    assert "normviz: The run failed" in err
    taken = RunProgress.on_frame

    def interrupt(progress: RunProgress, frame: Frame) -> None:
        taken(progress, frame)
        if frame.step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunProgress, "on_frame", interrupt)
    assert main(["run", NAME, "--json"]) == 130
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["status"], run["claims"], run["final"]["loss"]) == ("interrupted", [], {"a": {"0": 1 / 3}})


# -- verdicts, presets, more seeds -------------------------------------------------------------------------------------


def test_verdict_tables(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", own, "--seeds", "3"]) == 0
    out = capsys.readouterr().out
    assert "Own [experiment] (seeds = 3)" in out, "brackets are no markup"
    claims, _, identities = out.partition("Identities (true by construction")
    rows = [line for line in claims.splitlines() if line.startswith("│ The claim")]
    found = {re.search(r"claim (\w+)", row)[1]: re.search(r"([✓↗–✗?]) [a-z ]*(?<! )", row)[0] for row in rows}  # type: ignore[index]
    assert found == {
        "low": "✓ reproduced",
        "high": "✗ opposite",
        "weak": "↗ weaker than claimed",
        "none": "– no effect seen",
        "wide": "? undecided",
        "infinite": "? undecided",
    }
    assert all("arXiv 1607.06450" in row and "In a table." in row for row in rows)
    mean = [sum(1.0 + seed / 10 + 1 / (1 + s) for s in range(5)) / 5 for seed in range(3)]
    spread = 4.302653 * 0.1 / 3**0.5  # Student's t for 2 degrees of freedom
    interval = f"{mean[1]:.3g} nats (95 % interval {mean[1] - spread:.3g} to {mean[1] + spread:.3g}, 3 seeds)"
    assert interval in rows[1]
    assert "seed 2 gave no number" in claims
    assert re.search(r"claim exact.*= holds", identities)
    assert re.search(r"claim broken.*✗ A seed's number is not below 0.5", identities)
    assert (
        "Claims: 1 reproduced, 1 weaker than claimed, 1 no effect seen, 1 opposite, 2 undecided (so far); "
        "1 of 2 identities hold." in out
    )
    assert "1 more are decided by another setting:\n  - 1 at --preset long" in out


def test_preset_and_flags_that_override_it(own: str, data_folder: Path, here: list[HereAndNow]) -> None:
    assert main(["run", own, "--preset", "long", "--quiet"]) == 0
    assert main(["run", own, "--preset", "long", "--steps", "7", "--knob-preset", "3", "--quiet"]) == 0
    assert main(["sweep", own, "--preset", "long", "--grid", "seeds=1,2", "--quiet"]) == 0
    store = RunStore(data_folder)
    knobs = [(r.knobs["steps"], r.knobs["preset"], r.knobs["seeds"]) for r in reversed(store.list())]
    store.close()
    assert knobs == [(9, 0, 2), (7, 3, 2), (9, 0, 1), (9, 0, 2)]


def test_progress_is_in_the_units_of_the_axis(own: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", own]) == 0
    assert "Own [experiment]: round 4 of 4" in capsys.readouterr().err


def test_more_seeds_go_on_with_the_stored_run(
    own: str, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    assert main(["run", own, "--quiet"]) == 0
    store = RunStore(data_folder)
    (first,) = store.list()
    before = store.load(first.id).log.to_dataframe()
    store.close()
    target = tmp_path / "more.csv"
    assert main(["more", first.id[:6], "--seeds", "2", "--out", str(target)]) == 0
    out, err = capsys.readouterr()
    assert "4 seeds" in out
    assert f"Run {first.id} is kept in" in out
    assert "Own [experiment], 2 more: round 4 of 4" in err
    store = RunStore(data_folder)
    (again,) = store.list()
    assert (again.id, again.status, again.knobs["seeds"]) == (first.id, "done", 4)
    after = store.load(first.id).log.to_dataframe()
    store.close()
    pd.testing.assert_frame_equal(after[after["seed"] < 2].reset_index(drop=True), before)
    assert (
        main(["run", own, "--seeds", "4", "--no-store", "--out", str(tmp_path / "whole.csv"), "--quiet"]) == 0
    )
    pd.testing.assert_frame_equal(pd.read_csv(target), pd.read_csv(tmp_path / "whole.csv"))
    assert "seeds = 6 is not allowed: it takes 1 to 5." in refused("more", first.id, "--seeds", "2")
    assert refused("more") == f"Name a stored run: {first.id}."
    assert "There is no stored run" in refused("more", "0" * 12)


def test_only_runs_that_are_done_take_more_seeds(
    data_folder: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    assert main(["run", NAME, "--mode", "raise", "--quiet"]) == 1
    capsys.readouterr()
    store = RunStore(data_folder)
    (failed,) = store.list()
    store.close()
    assert "Only a run that is done takes more seeds" in refused("more", failed.id)


def test_more_seeds_that_fail(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", NAME, "--mode", "raise", "--only", "1", "--quiet"]) == 0
    store = RunStore(data_folder)
    (run,) = store.list()
    store.close()
    assert main(["more", run.id]) == 1
    assert "normviz: The run failed (--traceback shows where): ArithmeticError" in capsys.readouterr().err
    assert stored(data_folder) == [("toy", "failed")]

"""``normviz reproduce``: evidence written, resumed after an interruption, failures said, one file of all claims."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normviz.cli import main
from normviz.cli import reproduce as command
from normviz.cli.reproduce import _PageProgress
from normviz.evidence import read_evidence, recorded_run
from normviz.evidence.reproduce import Stage
from tests.evidence.conftest import HereAndNow
from tests.evidence.lab import EXPERIMENT

ROOT = Path(__file__).parents[2]
LAB = "tests.evidence.lab"
Refused = Callable[..., str]


def test_evidence_is_written_and_shown(
    here: list[HereAndNow], data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.json"
    assert main(["reproduce", LAB, "--out", str(ledger)]) == 0
    out, err = capsys.readouterr()
    assert "Lab: 2 reproduced, 1 no effect seen; 1 of 1 identities hold. Done in" in out
    assert re.search(r"1 of 1 pages in \d+ s\.", out)
    assert "Lab: starting" in err
    assert "Lab, Tuned: done" in err
    evidence = read_evidence("lab")
    assert evidence is not None
    assert {len(p.seeds) for p in evidence.presets.values()} == {5}
    recorded = recorded_run(EXPERIMENT)
    assert recorded is not None
    record = json.loads(ledger.read_text())
    assert (record["command"], record["failed"]) == ("reproduce", {})
    (page,) = record["pages"]
    assert page["environment"]["python"]
    assert [claim["outcome"] for claim in page["claims"]] == [
        "reproduced",
        "no effect",
        "reproduced",
        "reproduced",
    ]
    first = page["claims"][0]
    assert (first["arxiv"], first["statement"], first["unit"]) == (
        "1607.06450",
        "The quick arm ends lower.",
        "nats",
    )
    assert list(first["intervals"][0]["per_seed"]) == ["0", "1", "2", "3", "4"]
    assert first["rule"].startswith("Reproduced if the whole 95 % interval lies below -0.01 nats")


def test_json_is_all_of_standard_output(
    here: list[HereAndNow], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "ledger.json"
    assert main(["reproduce", LAB, "--seeds", "2", "--json", "--out", str(ledger), "--no-write"]) == 0
    out, err = capsys.readouterr()
    assert out == ledger.read_text()
    assert [page["slug"] for page in json.loads(out)["pages"]] == ["lab"]
    assert "Lab, Tuned: done" in err


def test_evidence_goes_where_it_is_asked_for(
    here: list[HereAndNow], data_folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "some" / "where"
    assert main(["reproduce", LAB, "--seeds", "2", "--evidence", str(elsewhere), "--quiet"]) == 0
    assert {path.name for path in elsewhere.iterdir()} == {"lab.json", "lab.parquet"}
    assert read_evidence("lab") is None
    assert main(["reproduce", LAB, "--seeds", "2", "--no-write", "--quiet"]) == 0
    assert not (data_folder / "evidence").exists()
    assert len(here[1].trained) == 0, "the runs of the first time were there"
    assert main(["reproduce", LAB, "--seeds", "2", "--no-write", "--no-store", "--quiet"]) == 0
    assert len(here[2].trained) == 7


def test_one_preset_keeps_the_evidence_of_the_others(here: list[HereAndNow]) -> None:
    assert main(["reproduce", LAB, "--seeds", "3", "--quiet"]) == 0
    assert main(["reproduce", LAB, "--seeds", "4", "--presets", "plain", "--quiet"]) == 0
    evidence = read_evidence("lab")
    assert evidence is not None
    assert {slug: len(record.seeds) for slug, record in evidence.presets.items()} == {"plain": 4, "tuned": 3}
    assert len(evidence.claims) == 4


def test_a_page_that_fails_is_said_and_the_others_go_on(
    here: list[HereAndNow],
    own: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "SLUGS", ("tests.engine.toy", own, LAB))
    submit = HereAndNow.submit

    def failing(engine: HereAndNow, experiment: object, *args: object, **options: object) -> object:
        if getattr(experiment, "slug", "") == "own":
            raise RuntimeError("A run of own has failed: no reason")
        return submit(engine, experiment, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(HereAndNow, "submit", failing)
    monkeypatch.setattr(command, "write_recorded", lambda run, folder: folder / "recorded")
    ledger = tmp_path / "ledger.json"
    assert main(["reproduce", "--seeds", "2", "--out", str(ledger)]) == 1
    out, err = capsys.readouterr()
    record = json.loads(ledger.read_text())
    assert record["failed"] == {"own": "A run of own has failed: no reason"}
    assert [page["slug"] for page in record["pages"]] == ["toy", "lab"]
    assert "normviz: Own [experiment] could not be reproduced: A run of own has failed: no reason" in err
    assert "2 of 3 pages in" in out
    assert read_evidence("lab") is not None
    assert read_evidence("own") is None


def test_evidence_that_cannot_be_written_is_said(
    here: list[HereAndNow],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Refused,
) -> None:
    def full(*args: object, **options: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_evidence", full)
    assert main(["reproduce", LAB, "--seeds", "2", "--presets", "plain"]) == 1
    assert "lab.json could not be written: No space left on device." in capsys.readouterr().err
    monkeypatch.setattr(Path, "mkdir", full)
    assert "cannot be written: No space left on device." in refused("reproduce", LAB)


def test_progress_says_a_line_when_something_begins_or_ends(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    progress = _PageProgress(Console(stderr=True), EXPERIMENT)
    with progress:
        for share in (0.0, 0.1, 0.2, 0.9):
            progress.report([Stage("plain", "training", 1.0 - share / 2), Stage("tuned", "tuning", share)])
        progress.report([Stage("plain", "done", 1.0), Stage("tuned", "training", 0.0)])
        progress.report([Stage("plain", "done", 1.0), Stage("tuned", "done", 1.0)])
    assert capsys.readouterr().err.splitlines() == [
        "Lab: starting",
        "Lab, Plain: training 100%",
        "Lab, Tuned: tuning 10%",
        "Lab, Plain: done",
        "Lab, Tuned: done",
    ]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted_and_started_again_it_goes_on(data_folder: Path) -> None:
    """With real workers: Ctrl-C in the middle ends within moments; the second time only the rest is trained."""
    tally = data_folder / "tally"
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dataclasses import replace\n"
        "from normviz.cli import main\n"
        "from normviz.presets import Presets\n"
        "import tests.evidence.lab as lab\n"
        "p = list(lab.EXPERIMENT.presets.values())\n"
        f"p[1] = replace(p[1], knobs={{**p[1].knobs, 'tally': {str(tally)!r}}})\n"
        "object.__setattr__(lab.EXPERIMENT, 'presets', Presets(p))\n"
        "import normviz.evidence.reproduce as r\n"
        "r.sources_digest = lambda experiment, device: 'as they are'\n"
        "if sys.argv[1] == 'stop':\n"
        "    start = r._Trainer.start\n"
        "    def stopping(self, settings):\n"
        "        if self.judged: raise KeyboardInterrupt\n"
        "        return start(self, settings)\n"
        "    best = r._best_settings\n"
        "    r._Trainer.judged = False\n"
        "    def noted(*args):\n"
        "        r._Trainer.judged = True\n"
        "        return best(*args)\n"
        "    r._Trainer.start, r._best_settings = stopping, noted\n"
        f"sys.exit(main(['reproduce', {LAB!r}, '--workers', '2', '--seeds', '3']))\n"
    )

    def run(how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, how], cwd=ROOT, capture_output=True, text=True, check=False
        )

    stopped = run("stop")
    assert stopped.returncode == 130, stopped.stderr
    assert "Interrupted after 0 of 1 pages. Started again it goes on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    tuned = sorted(tally.read_text().splitlines())
    assert tuned == sorted(f"{rate} {seed}" for rate in (0.1, 0.2, 0.4) for seed in (1000, 1001))
    done = run("go on")
    assert done.returncode == 0, done.stderr
    assert "Lab: 2 reproduced, 1 no effect seen (so far); 1 of 1 identities hold." in done.stdout
    rest = sorted(tally.read_text().splitlines())
    assert rest == sorted([*tuned, *(f"{rate} {seed}" for rate in (0.1, 0.2, 0.4) for seed in range(3))])
    evidence = read_evidence("lab")
    assert evidence is not None
    assert all(math.isfinite(s) for tried in evidence.presets["tuned"].grid.values() for s in tried.values())

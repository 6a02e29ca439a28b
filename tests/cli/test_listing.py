"""``normviz list``, help texts, and what is not loaded before a run starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from normviz.catalog import PAGES, PAPERS
from normviz.cli import main
from normviz.experiments import SLUGS, get_experiment
from normviz.variables import VARIABLES

ROOT = Path(__file__).parents[2]
NAME = "tests.engine.toy"
REAL = "normalization-statistics"


def test_list_names_every_page_and_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(slug in out for slug in PAGES)
    assert all(paper.arxiv in out for paper in PAPERS.values())
    assert re.search(rf"{REAL}\s*│ built ", out)
    assert out.count("planned") == len(PAGES) - len(SLUGS)


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    pages = json.loads(capsys.readouterr().out)
    assert [page["page"] for page in pages] == list(PAGES)
    assert {page["page"] for page in pages if page["status"] == "built"} == set(SLUGS)
    assert sorted(paper["arxiv"] for page in pages for paper in page["papers"]) == sorted(
        paper.arxiv for paper in PAPERS.values()
    )


@pytest.mark.skipif(os.name != "posix", reason="a shell's pipe")
@pytest.mark.parametrize("command", ["list --json", "completion bash"])
def test_a_reader_that_closes_the_pipe_is_no_error(command: str) -> None:
    if command.startswith("completion"):
        pytest.importorskip("shtab")
    line = f"{shlex.quote(sys.executable)} -m normviz.cli {command} | head -c 1"
    ended = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert len(ended.stdout) == 1
    assert ended.stderr == ""


def test_help_lists_every_variable_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in VARIABLES:
        assert text.count(f"  {name} ") == 1
    used = {
        name
        for path in (ROOT / "normviz").rglob("*.py")
        for name in re.findall(r"NORMVIZ_[A-Z]+", path.read_text("utf-8"))
    }
    assert used == set(VARIABLES)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "reproduce" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("normviz 0.")
    assert main(["run", "--help"]) == 0
    assert REAL in capsys.readouterr().out
    assert main(["run", REAL, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for control in get_experiment(REAL).knobs.controls().values():
        assert f"--{control.name.replace('_', '-')}" in text
        assert control.help[:30] in text
        if control.kind in ("int", "float", "choice", "choices"):
            assert f"Takes {control.allowed}." in text
    assert "130 interrupted" in text


def test_no_torch_before_a_run_starts() -> None:
    commands = [
        ["list"],
        ["run", REAL, "--help"],
        ["run", REAL, "--steps", "1"],
        ["run", REAL, "--out", "/nowhere/x.csv"],
        ["sweep", REAL, "--grid", "steps=1"],
        ["run", NAME, "--no-store", "--quiet"],
        ["app", "--port", "0"],
    ]
    code = (
        "import sys; from normviz.cli import main\n"
        f"codes = [main(c) for c in {commands!r}]\n"
        "heavy = {'torch', 'streamlit', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert codes == [0, 0, 2, 2, 2, 0, 2], codes"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_shows_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    pages = {page["page"]: page for page in json.loads(capsys.readouterr().out)}
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    for slug in SLUGS:
        presets = get_experiment(slug).presets
        assert [preset["slug"] for preset in pages[slug]["presets"]] == list(presets)
        assert all(preset in table for preset in presets)
        assert get_experiment(slug).knobs.parse(pages[slug]["presets"][-1]["knobs"])
    assert all(not pages[slug]["presets"] for slug in pages if slug not in SLUGS)


def test_help_of_an_experiment_tells_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", REAL, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for preset in get_experiment(REAL).presets.values():
        assert f"{preset.slug}: {preset.sentence}" in text

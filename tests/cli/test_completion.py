"""``normviz completion``: bash completes with the script; every command and every flag is in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normviz.cli import main
from normviz.cli.arguments import HELP, parsers
from normviz.cli.completion import completion_script, completion_tree
from normviz.experiments import SLUGS, get_experiment

Refused = Callable[..., str]
REAL = "normalization-statistics"


def test_without_shtab_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert refused("completion", "bash") == "Completion needs shtab: pip install 'normviz[completion]'."


def test_the_tree_has_the_flags_that_are_parsed() -> None:
    tree = completion_tree().commands()
    assert list(tree) == list(HELP)
    for name in HELP:
        if name not in ("run", "sweep"):
            assert tree[name].flags() == parsers([name])[1][name].flags()
            continue
        pages = tree[name].commands()
        assert list(pages) == list(SLUGS)
        for slug in SLUGS:
            assert set(pages[slug].flags()) == set(parsers([name, slug])[1][name].flags())


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    path = tmp_path_factory.mktemp("completion") / "normviz.bash"
    path.write_text(completion_script("bash"))
    return path


def completed(script: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}\n'
        '_shtab_normviz normviz "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "-c", code, "bash", str(script), "normviz", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parent)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_pages_presets_flags_and_choices(bash_script: Path) -> None:
    assert set(completed(bash_script, "")) >= set(HELP)
    assert completed(bash_script, "run", "normal") == [REAL]
    assert completed(bash_script, "run", REAL, "--learn") == ["--learning-rate"]
    assert completed(bash_script, "sweep", "optimizer-spectra", "--knob-gr") == ["--knob-grid"]
    assert completed(bash_script, "run", REAL, "--preset", "") == list(get_experiment(REAL).presets)
    options = get_experiment(REAL).knobs.controls()["task"].options
    assert completed(bash_script, "run", REAL, "--task", "") == list(options)
    assert completed(bash_script, "completion", "") == ["bash", "zsh"]
    (bash_script.parent / "run.csv").write_text("")
    assert "run.csv" in completed(bash_script, "run", REAL, "--out", "ru")


def test_scripts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#compdef normviz\n")
    assert all(slug in out for slug in SLUGS)
    assert main(["completion", "bash"]) == 0
    assert "complete -o " in capsys.readouterr().out

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from normviz import uploads, variables
from normviz.engine import WorkerEngine, default_store_path
from normviz.variables import VariableError


@pytest.fixture(autouse=True)
def _none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "WORKERS", "THREADS", "GRACE", "EXPERIMENTS", "EVIDENCE"):
        monkeypatch.delenv(f"NORMVIZ_{name}", raising=False)


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for empty in (False, True):
        if empty:
            for name in ("DATA", "WORKERS", "THREADS", "GRACE", "EXPERIMENTS", "EVIDENCE"):
                monkeypatch.setenv(f"NORMVIZ_{name}", "")
        variables.check_variables()
        assert variables.data_folder().name == "normviz"
        assert variables.worker_count() is None
        assert variables.thread_count() is None
        assert variables.grace_seconds(7.0) == 7.0
        assert variables.experiment_packages() == ()


def test_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    monkeypatch.setenv("NORMVIZ_WORKERS", "256")
    monkeypatch.setenv("NORMVIZ_THREADS", "1")
    monkeypatch.setenv("NORMVIZ_GRACE", "0.5")
    monkeypatch.setenv("NORMVIZ_EXPERIMENTS", " lab.own, lab.other,")
    variables.check_variables()
    assert variables.data_folder() == default_store_path() == uploads.data_folder() == tmp_path
    assert variables.worker_count() == 256
    assert variables.thread_count() == 1
    assert variables.grace_seconds(7.0) == 0.5
    assert variables.experiment_packages() == ("lab.own", "lab.other")
    monkeypatch.setenv("NORMVIZ_DATA", "~/runs")
    assert variables.data_folder() == Path.home() / "runs"


ROOT = Path(__file__).parents[1]
WORKERS = "NORMVIZ_WORKERS must be an integer from 1 to 256, got "
GRACE = "NORMVIZ_GRACE must be a number of seconds >= 0, got "


@pytest.mark.parametrize(
    ("name", "value", "read", "sentence"),
    [
        *(
            ("WORKERS", v, variables.worker_count, WORKERS)
            for v in ("many", "0", "257", "-1", "1.5", "٣", "1_0")
        ),
        (
            "THREADS",
            "0",
            variables.thread_count,
            "NORMVIZ_THREADS must be an integer from 1 to 4096, got '0'.",
        ),
        *(
            ("GRACE", v, lambda: variables.grace_seconds(1.0), GRACE)
            for v in ("soon", "-1", "nan", "inf", "1e999")
        ),
        ("DATA", "~nobody-of-this-name/x", variables.data_folder, "NORMVIZ_DATA must be a folder, got"),
        (
            "EVIDENCE",
            "~nobody-of-this-name",
            variables.evidence_folder,
            "NORMVIZ_EVIDENCE must be a folder, got",
        ),
        (
            "EXPERIMENTS",
            "lab own",
            variables.experiment_packages,
            "NORMVIZ_EXPERIMENTS must be dotted names of packages, got 'lab own'",
        ),
    ],
)
def test_refusals_are_sentences(
    name: str, value: str, read: Callable[[], object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"NORMVIZ_{name}", value)
    for call in (read, variables.check_variables):
        with pytest.raises(VariableError) as refused:
            call()
        assert str(refused.value).startswith(sentence)
        assert repr(value.strip()) in str(refused.value)


def test_engine_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_WORKERS", "0")
    with pytest.raises(VariableError, match="NORMVIZ_WORKERS must be an integer from 1 to 256, got '0'"):
        WorkerEngine()


def test_app_says_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_GRACE", "soon")
    ended = subprocess.run([sys.executable, "app.py"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"normviz: {GRACE}'soon'.\n"

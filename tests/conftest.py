"""What all tests share: a private data folder, one torch thread, and markers' gates."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NORMVIZ_EXPERIMENTS", "tests.engine.toy,tests.evidence.lab,lab.own")
os.environ.setdefault("NORMVIZ_DATA", tempfile.mkdtemp(prefix="normviz-tests-"))


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder for one test."""
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    return tmp_path

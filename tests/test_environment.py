from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

from normviz import __version__
from normviz.environment import _static, environment


def test_what_a_run_was_measured_with() -> None:
    found = environment("cuda:1")
    assert found["device"] == "cuda:1"
    assert environment()["device"] == "auto"
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__
    assert found["torch"] == version("torch")
    assert found["normviz"] == __version__
    assert platform.machine() in found["machine"]


def test_packages_that_are_missing_and_a_git_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr("normviz.environment._PACKAGES", ("no-such-package",))
    monkeypatch.setattr(subprocess, "run", fail)
    _static.cache_clear()
    try:
        found = environment()
        assert found["no-such-package"] == "not installed"
        assert found.get("revision") in (None, "unknown"), "None: no checkout"
    finally:
        _static.cache_clear()


def test_versions_are_read_without_torch() -> None:
    code = "import sys; from normviz.environment import environment; environment(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

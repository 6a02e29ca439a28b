"""The documentation builds without a warning, has a page for every paper, and names every variable."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from normviz.catalog import PAPERS
from normviz.variables import VARIABLES

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = {paper: (tmp_path / "methods" / paper / "index.html").read_text("utf-8") for paper in PAPERS}
    for slug, page in pages.items():
        assert PAPERS[slug].arxiv in page
        names = [method.rpartition(".")[2] for method in PAPERS[slug].methods]
        assert all(name in page for name in names), slug
        assert not re.search(r":(class|func|meth|mod|attr|data):", page), slug


def test_every_variable_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guide" / "install.md").read_text("utf-8")
    assert set(VARIABLES) <= set(re.findall(r"NORMVIZ_[A-Z]+", guide))

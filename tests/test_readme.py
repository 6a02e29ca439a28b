"""The README says what is there."""

from __future__ import annotations

import re
from pathlib import Path

from normviz.catalog import papers_table
from normviz.experiments import SLUGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_of_papers_is_that_of_the_catalog() -> None:
    table = README.split("<!-- papers")[1].split("-->", 1)[1].split("<!-- /papers -->")[0].strip()
    assert table == papers_table(SLUGS), "run `make readme`"


def test_files_it_names_exist() -> None:
    for name in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / name).is_file(), name
    for command in ("app", "test", "bench"):
        assert re.search(rf"^{command}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)

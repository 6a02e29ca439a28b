"""The README says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from normviz.catalog import papers_table
from normviz.evidence import verdicts_table
from normviz.experiments import SLUGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["papers", "verdicts"])
def test_tables_are_those_of_the_catalog_and_of_the_evidence(name: str) -> None:
    written = README.split(f"<!-- {name}")[1].split("-->", 1)[1].split(f"<!-- /{name} -->")[0].strip()
    table = papers_table(SLUGS) if name == "papers" else verdicts_table(folder=ROOT / "evidence")
    assert written == table, "run `make readme`"


def test_files_and_commands_it_names_exist() -> None:
    for name in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in {"app", "test", "bench", *re.findall(r"`make (\w+)`", README)}:
        assert re.search(rf"^{command}:", makefile, re.M), command
    for room in re.findall(r"`((?:normviz|models|pages|notebooks|evidence)/[\w/]*)`", README):
        assert (ROOT / room).exists() or room == "evidence/", room


def test_commands_it_shows_are_understood() -> None:
    from normviz.cli.arguments import parsers

    shown = re.findall(r"^normviz (\w+.*?)(?:\s+#.*)?$", README, re.M)
    assert {line.split()[0] for line in shown} == {"list", "run", "more", "sweep", "reproduce"}
    for line in shown:
        arguments = line.split()
        parser, _ = parsers(arguments)
        _, unknown = parser.parse_known_args(arguments)
        assert not unknown, line

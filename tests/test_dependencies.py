"""What the code imports is declared, and what is declared is pinned as it is installed."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "vl_convert": "vl-convert-python",
    "cv2": "opencv-python-headless",
}
"""Names that differ from the package's."""

UNDECLARED = {"torchvision": "it must be the build that goes with the installed torch; the loader says so"}


def packages(listed: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ]", entry, maxsplit=1)[0].lower() for entry in listed}


NEEDED, OPTIONAL = packages(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
APP = NEEDED | packages(OPTIONAL["app"])
ANY = APP.union(*(packages(listed) for listed in OPTIONAL.values()))


def imported(*places: str) -> Iterator[tuple[str, str]]:
    """File and top-level package of every import of what is neither ours nor Python's."""
    files = [
        f
        for place in places
        for f in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))
    ]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom) and node.level == 0
                else []
            )
            for name in {name.split(".")[0] for name in names}:
                if name not in {*sys.stdlib_module_names, "normviz", "tests", "benchmarks", ""}:
                    yield str(file.relative_to(ROOT)), DISTRIBUTIONS.get(name, name)


def test_imports_are_declared() -> None:
    found = set(imported("normviz", "models", "pages", "app.py"))
    assert "scipy" in {name for _, name in found}
    missing = {(file, name) for file, name in found if name not in ANY and name not in UNDECLARED}
    assert not missing, f"declare in pyproject.toml: {sorted(missing)}"


def test_what_is_declared_for_the_app_is_pinned_as_installed() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line and not line.startswith("#"))
    pins = {name.replace("_", "-"): pin for name, pin in pins.items()}
    assert pins.keys() >= APP
    for name in APP - {"torch"}:  # of which there are builds for several devices
        assert pins[name] == version(name), name


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_lower_bounds_admit_what_is_installed(name: str) -> None:
    entry = next(e for e in PROJECT["dependencies"] if e.lower().startswith(f"{name}>="))
    least = [int(part) for part in entry.split(">=")[1].split(".")]
    assert [int(part) for part in re.findall(r"\d+", version(name))][: len(least)] >= least

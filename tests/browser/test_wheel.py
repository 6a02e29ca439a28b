"""The package as somebody has it who installed it from a wheel and has no checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from normviz.evidence import read_evidence
from normviz.experiments import get_experiment
from tests.app_server import ROOT, running_app

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SLUG = "residual-depth"
SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "app.py",
    ".streamlit",
    "models",
    "normviz",
    "pages",
    "evidence",
)
"""What a wheel is built from."""


def ran(*command: str | Path, cwd: Path) -> str:
    ended = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel and what it depends on, and nothing of the checkout.

    What it depends on is taken from the environment of the tests by a path, so that nothing is fetched; the checkout,
    which is installed there by a hook, is not found by a path.
    """
    folder = tmp_path_factory.mktemp("installed")
    wheels = folder / "wheels"
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:  # copied, since a build leaves files beside its sources
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, sources / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, sources / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    ran(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, sources, cwd=folder)
    (wheel,) = wheels.glob("normviz-*.whl")
    home = folder / "environment"
    venv.create(home, with_pip=False)
    programs = home / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / "python"
    ran(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    packages = ran(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(packages) / "what_it_depends_on.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return programs


def test_everything_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import normviz, normviz.models, importlib.util as u;"
        "from normviz.variables import evidence_folder;"
        "print(normviz.__file__, normviz.models.__file__, evidence_folder(), u.find_spec('models'), sep='\\n')"
    )
    *files, top = ran(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert all(Path(file).is_relative_to(installed.parent) for file in files), files
    assert top == "None"


def test_recorded_verdicts_are_there(installed: Path, tmp_path: Path) -> None:
    code = f"from normviz.evidence import read_evidence; e = read_evidence({SLUG!r}); print(e.date, *sorted(e.presets))"
    here = read_evidence(SLUG)
    assert here is not None
    said = ran(installed / "python", "-c", code, cwd=tmp_path).split()
    assert said == [*here.date.split(), *sorted(here.presets)]


def test_a_page_opens_without_a_checkout(installed: Path, tmp_path: Path, page: Page) -> None:
    command = (str(installed / "normviz"), "app", "--port")
    with running_app(tmp_path, command=command, cwd=tmp_path) as server:
        page.goto(f"{server.url}/{SLUG}")
        expect(page.get_by_role("heading", name=get_experiment(SLUG).title, exact=True)).to_be_visible()
        expect(page.locator("[data-testid=stVegaLiteChart]").first).to_be_visible()
        assert page.locator("[data-testid=stException]").count() == 0
        sidebar = page.locator("[data-testid=stSidebar]")
        expect(sidebar).to_have_css("background-color", "rgb(243, 246, 249)")  # of the app's own theme
        page.close()  # before its server goes

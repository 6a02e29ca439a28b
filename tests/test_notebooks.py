"""The notebooks run from top to bottom, and what they store is light and tells nothing of the machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LIGHT = 300_000
"""Most bytes of a notebook with its outputs; half of them are still pictures, for readers without a script."""

EXECUTE = """
import sys
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

source, target, folder = sys.argv[1:]
book = nbformat.read(source, as_version=4)
kernel = AsyncKernelManager(kernel_name="python3")
kernel.kernel_spec.argv = [sys.executable, *kernel.kernel_spec.argv[1:]]
NotebookClient(book, km=kernel, timeout=240, resources={"metadata": {"path": folder}}).execute()
nbformat.write(book, target)
"""
"""Run in a process of its own, since the client leaves sockets to the garbage collector."""


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def texts(book: Any) -> list[str]:
    """Everything that the outputs say."""
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    return [
        text
        for output in outputs
        for text in (output.get("text", ""), *(str(value) for value in output.get("data", {}).values()))
    ]


def test_three_ways_in() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"command_line", "quickstart", "watch_your_model"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_form(path: Path) -> None:
    book = read(path)
    nbformat.validate(book)
    assert path.stat().st_size < LIGHT
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run once, in order"
    assert any(cell.outputs for cell in code)
    assert book.cells[0].cell_type == "markdown"
    assert sum(cell.cell_type == "markdown" for cell in book.cells) * 2 >= len(code), "explained"
    said = "\n".join(texts(book))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert not re.search(r"(/home/|/root/|/work/|/tmp/|/Users/|[A-Z]:\\)", said), "a path of some machine"
    assert "Warning" not in said
    linked = re.findall(r"\]\((\w+\.ipynb)\)", json.dumps(book))
    assert all((FOLDER / name).is_file() for name in linked)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, data_folder: Path, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    target = tmp_path / path.name
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(target), str(FOLDER)],
        env={**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    stored, book = read(path), read(target)
    for was, now in zip(stored.cells, book.cells, strict=True):
        assert {o.output_type for o in was.get("outputs", [])} == {
            o.output_type for o in now.get("outputs", [])
        }
    said = "\n".join(texts(book))
    assert "reproduced" in said or path.stem == "watch_your_model"
    assert "Traceback" not in said
    assert not list(FOLDER.glob("*.parquet"))

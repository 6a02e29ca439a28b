"""Files that a command writes: checked before anything runs, and written whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from normviz.cli.errors import UsageError

__all__ = ["check_target", "given_path", "write_whole"]


def given_path(name: str) -> Path:
    """The path that an argument names; "~" stands for a home.

    Raises:
        UsageError: there is no such home.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"There is no file or folder {name!r}: {name.partition('/')[0]} is no home."
        ) from error


def check_target(name: str | None, *suffixes: str) -> Path | None:
    """The file to write; None where none is wanted.

    Raises:
        UsageError: it has another ending, or could not be written.
    """
    if name is None:
        return None
    path = given_path(name)
    if path.suffix not in suffixes:
        raise UsageError(f"{name} must end in {' or '.join(suffixes)}.")
    if path.is_dir():
        raise UsageError(f"{name} is a folder.")
    if not path.parent.is_dir():
        raise UsageError(f"{name} cannot be written: there is no folder {str(path.parent)!r}.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise UsageError(f"{name} cannot be written: {error.strerror or error}.") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; text as UTF-8, its line ends as they are.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

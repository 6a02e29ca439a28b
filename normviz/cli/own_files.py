"""Knobs that hold the key of a reader's own file: a command takes the file itself, checks and keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normviz.cli.errors import UsageError
from normviz.cli.targets import given_path
from normviz.knobs import Control
from normviz.own_images import keep_images_file, read_images
from normviz.own_tables import keep_table_file, read_table
from normviz.uploads import BUILT_IN, MAX_BYTES, TextUploadError, keep_text, read_bounded, read_text

__all__ = ["OWN_FILES", "keys_of_files", "takes"]


@dataclass(frozen=True)
class OwnFile:
    """One kind of file.

    Attributes:
        words: what the knob takes, for help and refusals.
        prefix: how its keys begin.
        keep: checks and keeps a file, and returns its key.
        read: finds a key; raises :class:`normviz.uploads.UploadError` if it is not here.
        folder: whether a folder is taken too.
        built_in: the value that is no key and needs no file.
    """

    words: str
    prefix: str
    keep: Callable[[Path], str]
    read: Callable[[str], object]
    folder: bool = False
    built_in: str = ""


def _keep_text(path: Path) -> str:
    return keep_text(read_bounded(path, MAX_BYTES, TextUploadError), path.name)


OWN_FILES: dict[str, OwnFile] = {
    "corpus": OwnFile(
        f"{BUILT_IN}, the key of a kept text, or a text file",
        "text-",
        _keep_text,
        read_text,
        built_in=BUILT_IN,
    ),
    "own_table": OwnFile("the key of a kept table, or a CSV file", "table-", keep_table_file, read_table),
    "own_images": OwnFile(
        "the key of kept images, or a zip or folder with one folder of images per class",
        "images-",
        keep_images_file,
        read_images,
        folder=True,
    ),
}
"""By the knob's name."""


def takes(control: Control) -> str:
    """What a knob takes on the command line, in words."""
    return OWN_FILES[control.name].words if control.name in OWN_FILES else control.allowed


def keys_of_files(values: Mapping[str, Any], controls: Mapping[str, Control]) -> dict[str, Any]:
    """The values with every file that was given checked and kept, and its key in its place.

    Raises:
        UsageError: there is no such file, it cannot be read, or the data set that was chosen has no use for it.
        UploadError: the file is refused, or a key is not here.
    """
    found = dict(values)
    for name, kind in OWN_FILES.items():
        if name in values and name in controls:
            given = str(values[name])
            if given and name.startswith("own_") and values.get("data", "own") != "own":
                raise UsageError(f"{name} needs data = own, got {values['data']}.")
            found[name] = _key(name, given, kind)
    return found


def _key(name: str, given: str, kind: OwnFile) -> str:
    if given == kind.built_in:
        return given
    path = given_path(given)
    if not (path.is_file() or (kind.folder and path.is_dir())):
        if given.startswith(kind.prefix):
            kind.read(given)
            return given
        raise UsageError(f"{name} takes {kind.words}: there is no file {given!r}.")
    try:
        return kind.keep(path)
    except OSError as error:
        raise UsageError(f"{given} cannot be read: {error.strerror or error}.") from error

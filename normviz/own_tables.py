"""A reader's own table: a CSV file that is checked, kept under a key made of its content, and read for a target.

No PyTorch: the server checks and keeps a file, :func:`normviz.data.load_own_table` makes tensors of it. pyarrow reads
the CSV. What a column is follows from its cells:

- *numbers*: more than half of the cells that are there are numbers. Then all must be: another cell is an error. A
  missing cell takes the mean of the training rows.
- *texts*: at most :data:`MOST_TEXTS` different ones, each an input of its own (one-hot), a missing cell too. A column
  with more of them (names, notes) is left out, and said.
- left out as well: a column without a name, one that counts the rows (1, 2, 3, …: it would tell the order of the
  file), and one that is the same in every row.

The target's classes are its different cells.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normviz.uploads import (
    TextUploadError,
    UploadError,
    decode_utf8,
    kept_key,
    kept_path,
    read_bounded,
    write_kept,
)
from normviz.validation import nearest

__all__ = [
    "LEAST_ROWS",
    "MAX_BYTES",
    "MAX_COLUMNS",
    "MAX_INPUTS",
    "MAX_ROWS",
    "MOST_CLASSES",
    "MOST_TEXTS",
    "OwnTable",
    "TableTask",
    "TableUploadError",
    "check_table",
    "keep_table",
    "keep_table_file",
    "missing_table",
    "read_table",
    "table_size",
]

MAX_BYTES, MAX_ROWS, MAX_COLUMNS = 2_000_000, 20_000, 200
"""Bounds of a table that is accepted."""

MOST_TEXTS = 20
"""Different texts of a column that are told apart."""

MAX_INPUTS = 500
"""Most inputs that all columns together give."""

MOST_CLASSES, LEAST_ROWS = 20, 8
"""A target has 2 to so many classes, each with at least so many rows: enough for training, testing and three folds."""

LONGEST_NAME = 60
"""Characters of a column's name and of a class."""

GREATEST = 1e30
"""Largest number that is read: its square still fits a float64."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells that count as missing, in lower case."""

NO_TEXT = "(missing)"
"""What a missing cell of a text column is called."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DELIMITERS = ",;\t"
_KEY = re.compile(r"table-[0-9a-f]{12}")


class TableUploadError(UploadError):
    """The file is no table that can be trained on, or not on this machine; the message says why."""


@dataclass(frozen=True)
class _Column:
    """Inputs made of one column: (rows, inputs) float64, NaN where a cell is missing; or why there are none."""

    inputs: NDArray[np.float64] | None
    names: tuple[str, ...] = ()
    note: str = ""
    error: str = ""


@dataclass(frozen=True, eq=False)
class TableTask:
    """A table with its target chosen.

    Attributes:
        target: the column that is classified.
        inputs: (rows, inputs) float64 in the file's units, NaN where a number is missing.
        input_names: one per input.
        labels: class number of every row, (rows,) int64.
        class_names: one per class; in order of size where all are numbers, else of the alphabet.
        notes: what a reader should know: what was left out, and what was missing.
    """

    target: str
    inputs: NDArray[np.float64]
    input_names: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each class."""
        return dict(zip(self.class_names, np.bincount(self.labels).tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class OwnTable:
    """A checked table: texts in columns.

    Attributes:
        name: of the file, or its key.
        text: the whole file as it is kept.
        names: of the columns, "" where the file has none.
        cells: one array of texts for each column, without white space at the ends.
    """

    name: str
    text: str
    names: tuple[str, ...]
    cells: tuple[Any, ...]

    @property
    def rows(self) -> int:
        """Rows below the header."""
        return len(self.cells[0])

    @cached_property
    def _columns(self) -> tuple[_Column, ...]:
        return tuple(map(_column, self.names, self.cells))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Columns that can be the target, in the file's order."""
        return tuple(name for name in self.names if name and not self._trouble(name))

    def task(self, target: str) -> TableTask:
        """The table with that column as its target.

        Raises:
            TableUploadError: no such column, too few or too many classes, a class with too few rows, a cell without a
                class, a column that is neither of numbers nor of texts, or no input that is left.
        """
        return _task(self, target)

    def _made(self, target: str) -> TableTask:
        if trouble := self._trouble(target):
            raise TableUploadError(f"{self.name}: {trouble}")
        labels, class_names, _ = _classes(target, self.cells[self.names.index(target)])
        used = list(self._inputs(target))
        return TableTask(
            target=target,
            inputs=np.concatenate([c.inputs for c in used if c.inputs is not None], axis=1),
            input_names=tuple(name for c in used for name in c.names),
            labels=labels,
            class_names=class_names,
            notes=tuple(c.note for c in used if c.note),
        )

    def _inputs(self, target: str) -> Iterator[_Column]:
        return (c for name, c in zip(self.names, self._columns, strict=True) if name != target)

    def _trouble(self, target: str) -> str:
        """Why that column cannot be the target, or another one no input."""
        named = [name for name in self.names if name]
        if target not in named:
            near = nearest(target, named) or named[:5]
            return f"there is no column {target!r}. Nearest: {', '.join(near)}."
        if refused := _classes(target, self.cells[self.names.index(target)])[2]:
            return refused
        if error := next((c.error for c in self._inputs(target) if c.error), ""):
            return error
        if all(c.inputs is None for c in self._inputs(target)):
            return "no column is left beside the target that an input could be made of."
        if (inputs := sum(len(c.names) for c in self._inputs(target))) > MAX_INPUTS:
            return f"its columns make {inputs:,} inputs, one for each text; at most {MAX_INPUTS} are allowed."
        return ""


def check_table(data: bytes, name: str) -> OwnTable:
    """Read a CSV file and check that a classifier can be trained on it.

    Args:
        data: the file's bytes: UTF-8, the names of the columns in the first row, commas, semicolons or tabs between
            cells.
        name: the file's name, for messages.

    Raises:
        TableUploadError: not UTF-8, too large, no header, rows of different length, or no column that can be the
            target; the message names file, row and column, and what is allowed.
    """
    table = _parsed(_decoded(data, name), name)
    if not table.targets:
        named = [column for column in table.names if column]
        sizes = [
            _classes(column, cells)[2]
            for column, cells in zip(table.names, table.cells, strict=True)
            if column
        ]
        chosen = next((c for c, refused in zip(named, sizes, strict=True) if not refused), "")
        if chosen:
            raise TableUploadError(f"{name}: {table._trouble(chosen)}")
        raise TableUploadError(
            f"{name} has no column that can be the target: 2 to {MOST_CLASSES} different texts or numbers, "
            f"each in at least {LEAST_ROWS} rows, none missing."
        )
    return table


def keep_table(data: bytes, name: str, folder: Path | None = None) -> str:
    """Check a table and keep it; the same table always has the same key.

    Returns:
        The key, ``"table-"`` and 12 hexadecimal digits.

    Raises:
        TableUploadError: see :func:`check_table`; nothing is kept then. Also when it cannot be written.
    """
    text = check_table(data, name).text
    key = kept_key("table", text.encode())
    write_kept(f"{key}.csv", text.encode(), name, TableUploadError, folder)
    return key


def keep_table_file(path: str | Path, folder: Path | None = None) -> str:
    """:func:`keep_table` for a file.

    Example::

        from normviz.experiments import self_normalizing as snn
        from normviz.own_tables import keep_table_file

        run = snn.run(snn.Knobs(data="own", own_table=keep_table_file("plants.csv"), target="species"))

    Raises:
        TableUploadError: as :func:`keep_table`.
        OSError: the file cannot be read.
    """
    path = Path(path)
    return keep_table(read_bounded(path, MAX_BYTES, TableUploadError), path.name, folder)


def read_table(key: str, folder: Path | None = None) -> OwnTable:
    """The kept table with that key.

    Raises:
        TableUploadError: the key is malformed, or the table is not (or no longer) here.
    """
    if not _KEY.fullmatch(key):
        raise TableUploadError(f"own_table must be the key of an uploaded table, got {key[:40]!r}.")
    path = kept_path(f"{key}.csv", folder)
    try:
        return _read(path, path.stat().st_mtime_ns, key)
    except OSError:
        raise TableUploadError(f"The table {key} is not on this machine: upload it again.") from None


def missing_table(key: str, target: str) -> str:
    """Why no run can train on that table and target, in a sentence; empty if one can."""
    if not key:
        return "Bring a CSV table to train on, and choose its target."
    try:
        table = read_table(key)
        if not target:
            several = ", ".join(table.targets[:5])
            return f"Choose the target, the column of {key} that is classified: {several}."
        table.task(target)
    except TableUploadError as error:
        return str(error)
    return ""


def table_size(key: str, otherwise: tuple[int, int] = (1_000, 20)) -> tuple[int, int]:
    """Rows and columns of a kept table, for estimates of work; ``otherwise`` if it is not here."""
    try:
        table = read_table(key)
    except TableUploadError:
        return otherwise
    return table.rows, len(table.names)


@lru_cache(maxsize=4)
def _task(table: OwnTable, target: str) -> TableTask:
    return table._made(target)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, key: str) -> OwnTable:  # noqa: ARG001
    return _parsed(_decoded(path.read_bytes(), key), key)


def _decoded(data: bytes, name: str) -> str:
    try:
        return decode_utf8(data, name, max_bytes=MAX_BYTES)
    except TextUploadError as error:
        raise TableUploadError(str(error)) from error


def _parsed(text: str, name: str) -> OwnTable:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    text = text.strip("\n") + "\n"
    header, _, below = text.partition("\n")
    if not below.strip():
        raise TableUploadError(f"{name} has no rows below the names of its columns.")
    delimiter = max(_DELIMITERS, key=header.count)
    if header.count(delimiter) > 10 * MAX_COLUMNS:
        raise TableUploadError(f"{name} has more than {MAX_COLUMNS} columns.")
    # pyarrow takes types by name only, and names the columns f0, f1, … where the file's first row is read as data.
    texts = {f"f{i}": pa.string() for i in range(MAX_COLUMNS + 1)}
    refused: list[Any] = []

    def note(row: Any) -> str:
        refused.append(row)
        return "skip"

    content = text.encode()
    try:
        whole = csv.read_csv(
            io.BytesIO(content),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=len(content) + 1, autogenerate_column_names=True
            ),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=csv.ConvertOptions(column_types=texts, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        raise TableUploadError(f"{name} cannot be read as a table: {error}.") from error
    if refused:
        row = refused[0]
        raise TableUploadError(
            f"{name}: row {row.number} has {row.actual_columns} cells and the row of names has {row.expected_columns}."
        )
    if not 2 <= whole.num_columns <= MAX_COLUMNS:
        raise TableUploadError(
            f"{name} has {whole.num_columns} column{'s' if whole.num_columns > 1 else ''}; "
            f"2 to {MAX_COLUMNS} are allowed."
        )
    if whole.num_rows - 1 > MAX_ROWS:
        raise TableUploadError(
            f"{name} has {whole.num_rows - 1:,} rows below its header; at most {MAX_ROWS:,} are allowed."
        )
    trimmed = [pc.utf8_trim_whitespace(column.combine_chunks()) for column in whole.columns]
    if (
        '"' in text
        and text.count('"') % 2
        and any(pc.any(pc.match_substring(c, "\n")).as_py() for c in trimmed)
    ):
        raise TableUploadError(f"{name} has a quotation mark that is not closed.")
    names = tuple(column[0].as_py() for column in trimmed)
    _check_names(name, names)
    return OwnTable(name, text, names, tuple(column.slice(1) for column in trimmed))


def _check_names(file: str, names: tuple[str, ...]) -> None:
    if all(re.fullmatch(_NUMBER, name) for name in names if name):
        raise TableUploadError(f"{file} has no header: its first row must hold the names of the columns.")
    for position, name in enumerate(names, 1):
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise TableUploadError(
                f"{file}: the name of column {position} must have at most {LONGEST_NAME} characters that can be "
                f"printed, got {name[:20]!r}…"
            )
        if name and name in names[: position - 1]:
            raise TableUploadError(f"{file} has two columns of the name {name!r}.")


def _missing(cells: Any) -> Any:
    """Which cells are missing, an array of booleans."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(pc.utf8_lower(cells), value_set=pa.array(sorted(MISSING), pa.string()))


def _numbers(cells: Any) -> NDArray[np.float64]:
    """The cells as numbers, NaN where a cell is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = pc.if_else(pc.match_substring_regex(cells, _NUMBER), cells, pa.scalar(None, pa.string()))
    values: NDArray[np.float64] = pc.cast(plain, pa.float64()).to_numpy(zero_copy_only=False)
    return values


def _column(name: str, cells: Any) -> _Column:
    """What inputs a column gives."""
    if not name:
        return _Column(None, note="A column without a name is left out.")
    missing = np.asarray(_missing(cells))
    there = int((~missing).sum())
    if not there:
        return _Column(None, note=f"{name} is left out: it is empty.")
    numbers = _numbers(cells)
    wrong = np.isnan(numbers) & ~missing
    if 2 * int(wrong.sum()) < there:
        return _numeric(name, cells, numbers, missing, wrong)
    texts = cells.to_pylist()
    levels = sorted({text for text, gone in zip(texts, missing, strict=True) if not gone})
    if missing.any():
        levels.append(NO_TEXT)
    if len(levels) == 1:
        return _Column(None, note=f"{name} is left out: it is the same in every row.")
    if len(levels) > MOST_TEXTS:
        return _Column(
            None,
            note=f"{name} is left out: it has {len(levels):,} different texts; at most {MOST_TEXTS} are told apart.",
        )
    number = {level: i for i, level in enumerate(levels)}
    which = [number[NO_TEXT if gone else text] for text, gone in zip(texts, missing, strict=True)]
    names = tuple(f"{name} = {level[:LONGEST_NAME]}" for level in levels)
    return _Column(np.eye(len(levels))[which], names)


def _numeric(
    name: str, cells: Any, numbers: NDArray[np.float64], missing: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> _Column:
    large = np.abs(numbers) > GREATEST
    for bad, what in ((wrong, "that are no numbers"), (large, f"beyond ±{GREATEST:g}")):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            count = int(bad.sum())
            cells_ = f"{count:,} cells" if count > 1 else "a cell"
            what = what if count > 1 else what.replace("that are no numbers", "that is no number")
            return _Column(
                None, error=f'column {name} has {cells_} {what} (row {at + 2}: "{cells[at].as_py()[:40]}").'
            )
    present = numbers[~missing]
    if np.all(present == present[0]) and not missing.any():
        return _Column(None, note=f"{name} is left out: it is the same in every row.")
    if not missing.any() and np.array_equal(numbers, numbers[0] + np.arange(len(numbers))):
        return _Column(None, note=f"{name} is left out: it counts the rows.")
    gone = int(missing.sum())
    note = f"{name}: {gone:,} missing cell{'s take' if gone > 1 else ' takes'} the mean." if gone else ""
    return _Column(numbers[:, None], (name,), note)


def _classes(name: str, cells: Any) -> tuple[NDArray[np.int64], tuple[str, ...], str]:
    """Class numbers and names of a target; or, with neither, why it cannot be one."""
    import pyarrow.compute as pc

    def refused(why: str) -> tuple[NDArray[np.int64], tuple[str, ...], str]:
        return np.zeros(0, dtype=np.int64), (), why

    missing = np.asarray(_missing(cells))
    if missing.any():
        row = int(np.flatnonzero(missing)[0]) + 2
        return refused(
            f"the target {name} has {int(missing.sum()):,} missing cells (row {row}); none is allowed."
        )
    encoded = pc.dictionary_encode(cells)
    found = encoded.dictionary.to_pylist()
    if not 2 <= len(found) <= MOST_CLASSES:
        return refused(
            f"the target {name} has {len(found):,} different cell{'s' if len(found) > 1 else ''}; "
            f"2 to {MOST_CLASSES} classes are allowed."
        )
    numeric = all(re.fullmatch(_NUMBER, text) for text in found)
    names = sorted(found, key=lambda text: (float(text) if numeric else 0.0, text))
    for text in names:
        if len(text) > LONGEST_NAME or not text.isprintable():
            return refused(
                f"a class of the target {name} must have at most {LONGEST_NAME} characters that can be printed, "
                f"got {text[:20]!r}…"
            )
    place = np.array([names.index(text) for text in found])
    labels = place[np.asarray(encoded.indices)].astype(np.int64)
    counts = np.bincount(labels)
    if counts.min() < LEAST_ROWS:
        rare = int(counts.argmin())
        rows = f"{counts[rare]} row{'s' if counts[rare] > 1 else ''}"
        return refused(
            f"the class {names[rare]!r} of the target {name} has {rows}; at least {LEAST_ROWS} are needed."
        )
    return labels, tuple(names), ""

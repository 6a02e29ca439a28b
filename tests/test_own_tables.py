"""A reader's own tables: what is read, what is refused and in which words, what is kept."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from normviz.own_tables import (
    MAX_BYTES,
    MAX_COLUMNS,
    MAX_ROWS,
    TableUploadError,
    check_table,
    keep_table,
    keep_table_file,
    missing_table,
    read_table,
)
from normviz.uploads import UploadError

Row = Sequence[object]


def written(rows: Iterable[Row], **options: str) -> bytes:
    """The file as Python's own writer makes it."""
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def plants(rows: int = 40) -> list[list[object]]:
    """Heights, a colour, a name of its own for each, and a kind."""
    drawn = np.random.default_rng(0)
    body = [
        [round(drawn.normal(3.0), 4), "red" if i % 3 else "blue", f"plant {i}", "fern" if i % 2 else "moss"]
        for i in range(rows)
    ]
    return [["height", "colour", "name", "kind"], *body]


def changed(row: int, column: int, value: object) -> list[list[object]]:
    rows = [list(r) for r in plants()]
    rows[row][column] = value
    return rows


def test_a_table_and_its_target() -> None:
    rows = plants()
    table = check_table(written(rows), "plants.csv")
    assert (table.rows, table.names) == (40, ("height", "colour", "name", "kind"))
    assert table.targets == ("colour", "kind"), "heights and names have too many classes"
    task = table.task("kind")
    assert task.input_names == ("height", "colour = blue", "colour = red")
    expected = [[r[0], float(r[1] == "blue"), float(r[1] == "red")] for r in rows[1:]]
    np.testing.assert_array_equal(task.inputs, np.array(expected, dtype=np.float64))
    assert task.class_names == ("fern", "moss")
    assert task.counts == {"fern": 20, "moss": 20}
    assert [task.class_names[k] for k in task.labels] == [r[3] for r in rows[1:]]
    assert task.notes == ("name is left out: it has 40 different texts; at most 20 are told apart.",)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_quotes_and_a_byte_order_mark(delimiter: str) -> None:
    mark = delimiter.strip() or ","
    rows = [["size", "kind"], *([i * 0.5 - 3, f'a{mark} "{i % 2}"'] for i in range(20))]
    table = check_table(b"\xef\xbb\xbf" + written(rows, delimiter=delimiter), "a.csv")
    assert table.names == ("size", "kind")
    task = table.task("kind")
    assert task.class_names == (f'a{mark} "0"', f'a{mark} "1"')
    np.testing.assert_array_equal(task.inputs[:, 0], [row[0] for row in rows[1:]])


def test_numbers_are_read_as_python_reads_them() -> None:
    texts = [
        "5.",
        ".5",
        "+3",
        "-1e-7",
        "1E5",
        " 0.1 ",
        "007",
        "123456789.123456789",
        "2.2250738585072014e-20",
    ]
    data = written([["n", "kind"], *([text, "ab"[i % 2]] for i, text in enumerate(texts * 4))])
    task = check_table(data, "a.csv").task("kind")
    np.testing.assert_array_equal(task.inputs[:, 0], [float(text) for text in texts * 4])


def test_classes_that_are_numbers_are_in_order_of_size() -> None:
    data = written([["n", "kind"], *([i * i, (10, 9, 2)[i % 3]] for i in range(30))])
    assert check_table(data, "a.csv").task("kind").class_names == ("2", "9", "10")


def test_missing_cells_are_said() -> None:
    rows = changed(3, 0, "NA")
    rows[4][0], rows[5][1] = "", "?"
    task = check_table(written(rows), "plants.csv").task("kind")
    assert "height: 2 missing cells take the mean." in task.notes
    assert np.flatnonzero(np.isnan(task.inputs[:, 0])).tolist() == [2, 3]
    assert task.input_names[-1] == "colour = (missing)"
    assert np.flatnonzero(task.inputs[:, -1]).tolist() == [4]
    with pytest.raises(TableUploadError, match=r"the target colour has 1 missing cells \(row 6\)"):
        check_table(written(rows), "plants.csv").task("colour")


def test_what_tells_the_order_of_the_rows_is_left_out() -> None:
    rows = [["", "id", "same", "x", "kind"], *([i, i + 1, 7, i % 5, i % 2] for i in range(30))]
    task = check_table(written(rows), "a.csv").task("kind")
    assert task.input_names == ("x",)
    assert task.notes == (
        "A column without a name is left out.",
        "id is left out: it counts the rows.",
        "same is left out: it is the same in every row.",
    )


WIDE = [[f"c{i}" for i in range(MAX_COLUMNS + 1)], *([i % 2] * (MAX_COLUMNS + 1) for i in range(20))]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "a.csv is empty."),
        (b"a,b\n" + b"1,\xe9\n" * 20, "a.csv is not UTF-8: byte 0xe9 at position 6"),
        ("a,b\n1,2\n".encode("utf-16"), "a.csv is not UTF-8: byte 0xff at position 0 starts a UTF-16 text."),
        (b"PK\x03\x04\0\0", "a.csv is not a text file: it has a NUL byte at position 4."),
        (b"x" * (MAX_BYTES + 1), "a.csv has 2,000,001 bytes; at most 2,000,000 are allowed."),
        (b"a,b\n", "a.csv has no rows below the names of its columns."),
        (b"a\n1\n2\n", "a.csv has 1 column; 2 to 200 are allowed."),
        (written(WIDE), "a.csv has 201 columns; 2 to 200 are allowed."),
        (b"," * 5000 + b"\n1\n", "a.csv has more than 200 columns."),
        (b"a,b\n" + b"1,x\n" * (MAX_ROWS + 1), "a.csv has 20,001 rows below its header; at most 20,000 are"),
        (b"1,2\n3,4\n", "a.csv has no header: its first row must hold the names of the columns."),
        (b"a,a\n1,2\n", "a.csv has two columns of the name 'a'."),
        (b"a,b\n1,2\n1,2,3\n", "a.csv: row 3 has 3 cells and the row of names has 2."),
        (b"a,b\n1\n", "a.csv: row 2 has 1 cells and the row of names has 2."),
        (written([["n" * 61, "b"], [1, 2]]), "the name of column 1 must have at most 60 characters"),
        (b"a,b\x07\n1,2\n", "the name of column 2 must have at most 60 characters that can be printed"),
        (b'a,b\n1,"x\n2,y\n' + b"3,x\n" * 20, "a.csv has a quotation mark that is not closed."),
        (b"a,b\n" + b"1,x\n" * 30, "a.csv has no column that can be the target: 2 to 20 different"),
        (b"a,b\n" + b"1,x\n" * 30 + b"2,y\n" * 7, "each in at least 8 rows, none missing."),
        (
            written(changed(5, 0, "abc")),
            'a.csv: column height has a cell that is no number (row 6: "abc").',
        ),
        (
            written(
                [[*row[:3], (row[0] if i % 9 else "tall") if i else "size"] for i, row in enumerate(plants())]
            ),
            'a.csv: column size has 4 cells that are no numbers (row 10: "tall").',
        ),
        (written(changed(5, 0, "inf")), 'column height has a cell that is no number (row 6: "inf").'),
        (written(changed(5, 0, "1e31")), 'column height has a cell beyond ±1e+30 (row 6: "1e31").'),
        (written(changed(5, 0, "1_0")), 'column height has a cell that is no number (row 6: "1_0").'),
    ],
)
def test_refused_tables(data: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(TableUploadError, match=re.escape(sentence)) as caught:
        keep_table(data, "a.csv", tmp_path)
    assert isinstance(caught.value, UploadError)
    assert len(str(caught.value)) < 300
    assert list(tmp_path.iterdir()) == [], "nothing is kept"


def test_refused_targets() -> None:
    table = check_table(written(plants()), "plants.csv")
    for target, sentence in {
        "kinds": "plants.csv: there is no column 'kinds'. Nearest: kind",
        "": "plants.csv: there is no column ''. Nearest: height, colour, name, kind.",
        "name": "the target name has 40 different cells; 2 to 20 classes are allowed.",
    }.items():
        with pytest.raises(TableUploadError, match=re.escape(sentence)):
            table.task(target)
    rows = [["x", "y", "z"], *([i % 2, "one", i % 3] for i in range(30))]
    with pytest.raises(TableUploadError, match="the target y has 1 different cell; 2 to 20"):
        check_table(written(rows), "a.csv").task("y")
    with pytest.raises(TableUploadError, match="no column is left beside the target"):
        check_table(written([row[:2] for row in rows]), "a.csv")
    rows = [["x", "y"], *([i % 2, "b" if i < 7 else "a"] for i in range(30))]
    with pytest.raises(
        TableUploadError, match="the class 'b' of the target y has 7 rows; at least 8 are needed"
    ):
        check_table(written(rows), "a.csv").task("y")
    rows = [["x", "y"], *([i % 2, "b" * (61 * (i % 2)) or "a"] for i in range(30))]
    with pytest.raises(TableUploadError, match="a class of the target y must have at most 60 characters"):
        check_table(written(rows), "a.csv").task("y")


def test_bounds_are_inclusive() -> None:
    assert len(check_table(written([row[:-1] for row in WIDE]), "a.csv").names) == MAX_COLUMNS
    assert check_table(b"a,b\n" + b"1,x\n2,y\n" * (MAX_ROWS // 2), "a.csv").rows == MAX_ROWS
    rows = [["x", "y"], *([i % 7, i % 20] for i in range(160))]
    task = check_table(written(rows), "a.csv").task("y")
    assert set(task.counts.values()) == {8}
    assert len(task.class_names) == 20


def test_a_table_is_found_again_by_its_key(tmp_path: Path) -> None:
    data = written(plants())
    key = keep_table(data, "../../etc/plants.csv", tmp_path)
    assert re.fullmatch(r"table-[0-9a-f]{12}", key)
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")] == [f"uploads/{key}.csv"]
    assert keep_table(data.replace(b"\r\n", b"\n"), "other.csv", tmp_path) == key, "the name does not matter"
    again = read_table(key, tmp_path).task("kind")
    np.testing.assert_array_equal(again.inputs, check_table(data, "plants.csv").task("kind").inputs)
    assert keep_table(written(changed(1, 0, 9)), "plants.csv", tmp_path) != key
    source = tmp_path / "plants.csv"
    source.write_bytes(data)
    assert keep_table_file(source, tmp_path) == key
    source.write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(TableUploadError, match=r"plants\.csv has 2,000,001 bytes"):
        keep_table_file(source, tmp_path)


def test_a_table_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    for key in ("../../etc/passwd", "text-0123456789ab", "table-0123456789AB"):
        with pytest.raises(TableUploadError, match="own_table must be the key of an uploaded table"):
            read_table(key)
    gone = "table-0123456789ab"
    assert missing_table(gone, "kind") == f"The table {gone} is not on this machine: upload it again."
    assert missing_table("", "") == "Bring a CSV table to train on, and choose its target."
    key = keep_table(written(plants()), "plants.csv")
    assert (
        missing_table(key, "") == f"Choose the target, the column of {key} that is classified: colour, kind."
    )
    assert "there is no column 'kid'" in missing_table(key, "kid")
    assert missing_table(key, "kind") == ""
    (tmp_path / "uploads" / f"{key}.csv").unlink()
    assert "is not on this machine" in missing_table(key, "kind"), "a table that was read before too"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file where the folder should be")
    with pytest.raises(TableUploadError, match=r"plants\.csv could not be kept"):
        keep_table(written(plants()), "plants.csv", tmp_path)

"""The widget for data of the reader's own: a table with its target, or images, beside the built-in data sets.

It draws the choice of the data set and, where that is "own", what the file needs. The key of the file and the target
are hidden knobs of the page; they stand in the page's link. A file that was brought on one page is there on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from normviz import own_images, own_tables
from normviz.knobs import Control
from normviz.ui.plain import plain
from normviz.ui.widgets import knob_widget
from normviz.uploads import UploadError

__all__ = ["own_images_widget", "own_table_widget"]

MEGABYTE = 1_000_000

LIKELY = ("target", "class", "label", "species", "y", "outcome", "diagnosis")
"""Names of a column that is mostly the target, in lower case; without one it is the last column that can be."""

SHOWN = 6
"""Most classes that are listed."""


def own_table_widget(control: Control, key: str) -> None:
    """Choose the data set; for one's own, bring a CSV table and choose its target."""
    knob_widget(control, key)
    if st.session_state[key] != "own":
        return
    table_key, target_key = (_sibling(control, key, name) for name in ("own_table", "target"))
    new = _upload(
        table_key,
        label="Your own table",
        types=["csv", "tsv", "txt"],
        bytes_=own_tables.MAX_BYTES,
        help=f"CSV in UTF-8 with the names of the columns in its first row: at most {own_tables.MAX_ROWS:,} rows, "
        f"{own_tables.MAX_COLUMNS} columns and {own_tables.MAX_BYTES // MEGABYTE} MB. Columns of numbers are "
        f"standardised, those of at most {own_tables.MOST_TEXTS} texts become one input for each text. It stays on "
        "this machine.",
        keep=own_tables.keep_table,
    )
    try:
        table = own_tables.read_table(st.session_state[table_key])
    except UploadError:
        return  # the page says what is missing
    if new or not st.session_state[target_key]:
        st.session_state[target_key] = _likely(table.targets)
    chosen = f"{target_key}/choice"
    target = st.session_state[target_key]
    st.session_state[chosen] = target if target in table.targets else None

    def choose() -> None:
        st.session_state[target_key] = st.session_state[chosen] or ""

    st.selectbox(
        "Target",
        table.targets,
        index=0 if target in table.targets else None,
        key=chosen,
        on_change=choose,
        help=f"The column that is classified. It has 2 to {own_tables.MOST_CLASSES} classes, each in at least "
        f"{own_tables.LEAST_ROWS} rows; other columns are not listed.",
    )
    if target in table.targets:
        task = table.task(target)
        inputs = f"{len(task.input_names)} input{'s' if len(task.input_names) > 1 else ''}"
        _say(table_key, f"{table.rows:,} rows, {inputs}", task.counts)
        for note in task.notes[:SHOWN]:
            st.caption(plain(note))


def own_images_widget(control: Control, key: str) -> None:
    """Choose the data set; for one's own, bring a zip of images."""
    knob_widget(control, key)
    if st.session_state[key] != "own":
        return
    images_key = _sibling(control, key, "own_images")
    _upload(
        images_key,
        label="Your own images",
        types=["zip"],
        bytes_=own_images.MAX_ARCHIVE,
        help="A zip with one folder of PNG, JPEG or GIF files per class: at most "
        f"{own_images.MAX_IMAGES:,} images of {own_images.MAX_SIDE} x {own_images.MAX_SIDE} pixels and "
        f"{own_images.MAX_ARCHIVE // MEGABYTE} MB. They are turned to grey and made small, and stay on this machine.",
        keep=own_images.keep_images,
    )
    try:
        images = own_images.read_images(st.session_state[images_key])
    except UploadError:
        return  # the page says what is missing
    _say(images_key, f"{len(images.labels):,} images", images.counts)


def _sibling(control: Control, key: str, name: str) -> str:
    """Key of another knob of the page."""
    return key.removesuffix(control.name) + name


def _known(kind: str) -> dict[str, str]:
    """Names of the files that were brought in this visit, by their keys; the newest is the last."""
    names: dict[str, str] = st.session_state.setdefault(f"files of one's own/{kind}", {})
    return names


def _upload(
    key: str, *, label: str, types: list[str], bytes_: int, help: str, keep: Callable[[bytes, str], str]
) -> bool:
    """Take a file into the knob of that key; whether a new one came. A refused file says why and changes nothing."""
    known = _known(key.rpartition("/")[2])
    if not st.session_state[key] and known:
        st.session_state[key] = next(reversed(known))
    brought = st.file_uploader(
        label, type=types, help=help, max_upload_size=bytes_ // MEGABYTE, key=f"{key}/file"
    )
    new = False
    if brought is not None and brought.file_id != st.session_state.get(f"{key}/seen"):
        st.session_state[f"{key}/seen"] = brought.file_id
        st.session_state.pop(f"{key}/refused", None)
        try:
            with st.spinner("Reading the file"):
                kept = keep(brought.getvalue(), brought.name)
        except UploadError as error:
            st.session_state[f"{key}/refused"] = str(error)
        else:
            known.pop(kept, None)
            known[kept] = brought.name
            st.session_state[key] = kept
            new = True
    if refused := st.session_state.get(f"{key}/refused"):
        st.error(plain(refused), icon=":material/description:")
    return new


def _say(key: str, size: str, counts: Mapping[str, int]) -> None:
    """What was read: the file's name, its size and its classes."""
    kept = st.session_state[key]
    name = _known(key.rpartition("/")[2]).get(kept, kept)
    listed = ", ".join(f"{label} {count:,}" for label, count in list(counts.items())[:SHOWN])
    more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    st.caption(plain(f"{name[-60:]}: {size}, {len(counts)} classes: {listed}{more}."))


def _likely(targets: tuple[str, ...]) -> str:
    """The column that is most likely the target."""
    return next((t for t in targets if t.lower() in LIKELY), targets[-1])

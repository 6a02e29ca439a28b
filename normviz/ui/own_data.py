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

__all__ = ["own_images_widget", "own_rows_widget", "own_table_widget"]

MEGABYTE = 1_000_000

TABLE, IMAGES = "own_table", "own_images"
"""Names of the hidden knobs."""

TABLE_HELP = (
    f"CSV in UTF-8 with the names of the columns in its first row: at most {own_tables.MAX_ROWS:,} rows, "
    f"{own_tables.MAX_COLUMNS} columns and {own_tables.MAX_BYTES // MEGABYTE} MB. Columns of numbers are standardised, "
    f"those of at most {own_tables.MOST_TEXTS} texts become one input for each text."
)
IMAGES_HELP = (
    f"A zip with one folder of PNG, JPEG or GIF files per class: at most {own_images.MAX_IMAGES:,} images of "
    f"{own_images.MAX_SIDE} x {own_images.MAX_SIDE} pixels and {own_images.MAX_ARCHIVE // MEGABYTE} MB. They are "
    "turned to grey and made small."
)
STAYS = "It stays on this machine."

LIKELY = ("target", "class", "label", "species", "y", "outcome", "diagnosis")
"""Names of a column that is mostly the target, in lower case; without one it is the last column that can be."""

SHOWN = 6
"""Most classes, and most notes, that are listed."""

Keep = Callable[[bytes, str], str]


def own_table_widget(control: Control, key: str) -> None:
    """Choose the data set; for one's own, bring a CSV table and choose its target."""
    _widget(control, key, {TABLE: own_tables.keep_table})


def own_images_widget(control: Control, key: str) -> None:
    """Choose the data set; for one's own, bring a zip of images."""
    _widget(control, key, {IMAGES: own_images.keep_images})


def own_rows_widget(control: Control, key: str) -> None:
    """Choose the data set; for one's own, bring a CSV table and choose its target, or a zip of images."""
    _widget(control, key, {TABLE: own_tables.keep_table, IMAGES: own_images.keep_images})


def _widget(control: Control, key: str, kinds: Mapping[str, Keep]) -> None:
    knob_widget(control, key)
    if st.session_state[key] != "own":
        return
    page = key.removesuffix(control.name)
    new = _upload(page, kinds)
    if IMAGES in kinds and st.session_state[page + IMAGES]:
        _images(page)
    elif TABLE in kinds:
        _table(page, new)


def _table(page: str, new: bool) -> None:
    """The target of the table that was brought, and what was read."""
    try:
        table = own_tables.read_table(st.session_state[page + TABLE])
    except UploadError:
        return  # the page says what is missing
    chosen = f"{page}target/choice"
    if new or not st.session_state[page + "target"]:
        st.session_state[page + "target"] = _likely(table.targets)
    target = st.session_state[page + "target"]
    st.session_state[chosen] = target if target in table.targets else None

    def choose() -> None:
        st.session_state[page + "target"] = st.session_state[chosen] or ""

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
        _say(page + TABLE, f"{table.rows:,} rows, {inputs}", task.counts)
        for note in task.notes[:SHOWN]:
            st.caption(plain(note))


def _images(page: str) -> None:
    """What was read of the images that were brought."""
    try:
        images = own_images.read_images(st.session_state[page + IMAGES])
    except UploadError:
        return  # the page says what is missing
    _say(page + IMAGES, f"{len(images.labels):,} images", images.counts)


def _known() -> dict[str, str]:
    """Names of the files that were brought in this visit, by their keys; the newest is the last."""
    names: dict[str, str] = st.session_state.setdefault("files of one's own", {})
    return names


def _kind(kept: str) -> str:
    """The knob that holds such a key."""
    return IMAGES if kept.startswith("images-") else TABLE


def _choose(page: str, kinds: Mapping[str, Keep], kept: str) -> None:
    """Put the key into its knob, and nothing into the other."""
    for name in kinds:
        st.session_state[page + name] = kept if name == _kind(kept) else ""


def _upload(page: str, kinds: Mapping[str, Keep]) -> bool:
    """Take a file into its knob; whether a new one came. A refused file says why and changes nothing."""
    usable = [kept for kept in _known() if _kind(kept) in kinds]
    if usable and not any(st.session_state[page + name] for name in kinds):
        _choose(page, kinds, usable[-1])
    several = len(kinds) > 1
    asked = {TABLE: ("Your own table", ["csv", "tsv", "txt"], TABLE_HELP, own_tables.MAX_BYTES)}
    asked[IMAGES] = ("Your own images", ["zip"], IMAGES_HELP, own_images.MAX_ARCHIVE)
    label, types, help, bytes_ = asked[next(iter(kinds))]
    if several:
        label, types = "Your own table or images", [*types, *asked[IMAGES][1]]
        help, bytes_ = f"{TABLE_HELP}  \nOr: {IMAGES_HELP}", own_images.MAX_ARCHIVE
    brought = st.file_uploader(
        label,
        type=types,
        help=f"{help} {STAYS}",
        max_upload_size=bytes_ // MEGABYTE,
        key=f"{page}own/file",
    )
    new, state = False, f"{page}own"
    if brought is not None and brought.file_id != st.session_state.get(f"{state}/seen"):
        st.session_state[f"{state}/seen"] = brought.file_id
        st.session_state.pop(f"{state}/refused", None)
        content = brought.getvalue()
        zipped = brought.name.lower().endswith(".zip")
        keep = kinds[IMAGES if IMAGES in kinds and (zipped or not several) else TABLE]
        try:
            with st.spinner("Reading the file"):
                kept = keep(content, brought.name)
        except UploadError as error:
            st.session_state[f"{state}/refused"] = str(error)
        else:
            _known().pop(kept, None)
            _known()[kept] = brought.name
            _choose(page, kinds, kept)
            new = True
    if refused := st.session_state.get(f"{state}/refused"):
        st.error(plain(refused), icon=":material/description:")
    return new


def _say(key: str, size: str, counts: Mapping[str, int]) -> None:
    """What was read: the file's name, its size and its classes."""
    kept = st.session_state[key]
    listed = ", ".join(f"{label} {count:,}" for label, count in list(counts.items())[:SHOWN])
    more = f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    name = _known().get(kept, kept)[-60:]
    st.caption(plain(f"{name}: {size}, {len(counts)} classes: {listed}{more}."))


def _likely(targets: tuple[str, ...]) -> str:
    """The column that is most likely the target."""
    return next((t for t in targets if t.lower() in LIKELY), targets[-1])

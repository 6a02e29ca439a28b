"""The page of stored runs: list, open, overlay two to five of one page on one chart, rename, delete, export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import pandas as pd
import streamlit as st

from normviz.engine import RunStore, StoredRun, StoreError
from normviz.experiments import SLUGS, Run
from normviz.figures import line_figure
from normviz.frame import Frame, FrameLog
from normviz.ui.charts import draw_figure
from normviz.ui.files import page_file
from normviz.ui.plain import plain
from normviz.ui.server import store, store_trouble, viewer

__all__ = ["first_arms", "overlay", "runs_page"]

OVERLAY = (2, 5)
"""Fewest and most runs on one chart."""

_TITLES = "runs/titles"
"""Session key: what the runs were called when they were last drawn."""


def runs_page() -> None:
    """Draw the page."""
    st.title("Runs")
    st.markdown(
        "Every run that was started here, with its knobs. Below the table choose one to open, rename, export or "
        "delete it, or two to five of one page to overlay them."
    )
    kept = store()
    if trouble := store_trouble():
        st.warning(trouble, icon=":material/save:")
    if kept is None:
        return
    try:
        runs = kept.list()
    except StoreError as error:
        st.error(str(error), icon=":material/save:")
        return
    if not runs:
        st.info("No runs yet: open a page, the first starts by itself.", icon=":material/info:")
        return
    chosen = _choose(_wanted(runs))
    if len(chosen) == 1:
        _one(kept, chosen[0])
    elif len(chosen) > 1:
        _several(kept, chosen)


def _wanted(runs: list[StoredRun]) -> list[StoredRun]:
    """The visitor's own runs, or all; asked where there are others' too."""
    own = [run for run in runs if viewer().owns(run)]
    if not own or len(own) == len(runs):
        return runs
    whose = st.segmented_control(
        "Whose runs", ("Mine", "Everyone's"), default="Mine", required=True, key="runs/whose"
    )
    return own if whose == "Mine" else runs


def _choose(runs: list[StoredRun]) -> list[StoredRun]:
    table = pd.DataFrame(
        {
            "when": [datetime.fromtimestamp(r.created) for r in runs],
            "page": [r.slug for r in runs],
            "name": [r.name for r in runs],
            "status": [r.status for r in runs],
            "steps": [r.last_step for r in runs],
            "seconds": [round(r.finished - r.started, 1) if r.finished and r.started else None for r in runs],
            "knobs": [_changed(r) for r in runs],
            "id": [r.id for r in runs],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        alt=f"Table of {len(runs)} stored runs: when, page, name, status, steps, seconds, knobs.",
        column_config={"when": st.column_config.DatetimeColumn(format="D MMM, HH:mm:ss")},
        height=min(38 + 35 * len(runs), 420),
    )
    by_id = {run.id: run for run in runs}
    titles = {run.id: _title(run) for run in runs}
    # The browser names what is chosen by its title: once titles are others, the choice is sent to it again.
    if st.session_state.get(_TITLES, titles) != titles:
        before = st.session_state.get("runs/chosen", ())
        st.session_state["runs/chosen"] = [run_id for run_id in before if run_id in titles]
    st.session_state[_TITLES] = titles
    chosen = st.multiselect(
        "Runs to open, or two to five to overlay",
        list(by_id),
        format_func=titles.__getitem__,
        key="runs/chosen",
        placeholder="Choose runs",
    )
    return [by_id[i] for i in chosen]


def _title(run: StoredRun) -> str:
    when = datetime.fromtimestamp(run.created).strftime("%d %b %H:%M:%S")
    return f"{run.name or _changed(run)} · {run.slug} · {when}"


def _changed(run: StoredRun) -> str:
    """The knobs that differ from their defaults, in words; of any form, since a stored run may be damaged."""
    from normviz.experiments import get_experiment

    defaults = get_experiment(run.slug).knobs().model_dump(mode="json") if run.slug in SLUGS else {}
    changed = {k: v for k, v in run.knobs.items() if k not in defaults or v != defaults[k]}
    words = (f"{k} = {', '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in changed.items())
    return ", ".join(words) or "defaults"


def _one(kept: RunStore, run: StoredRun) -> None:
    with st.container(border=True):
        st.markdown(f"**{plain(run.name or run.slug)}** :gray[{plain(_changed(run))}]")
        if run.error:
            st.caption(plain(run.error))
        own = viewer().owns(run)
        if not own:
            st.caption("Another visitor started this run: you can open and export it.")
        name = st.text_input("Name", run.name, max_chars=80, key=f"runs/name/{run.id}", disabled=not own)
        with st.container(horizontal=True):
            st.button(
                "Open",
                icon=":material/open_in_new:",
                type="primary",
                on_click=_open,
                args=(run,),
                key="runs/open",
            )
            if st.button(
                "Rename", icon=":material/edit:", disabled=not own or name == run.name, key="runs/rename"
            ):
                _act(lambda: kept.rename(run.id, name))
            kinds: dict[str, Literal["parquet", "csv"]] = {"Parquet": "parquet", "CSV": "csv"}
            for label, kind in kinds.items():
                st.download_button(
                    label,
                    partial(_export, kept, run.id, kind),
                    f"{run.slug}-{run.id}.{kind}",
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"runs/export/{kind}",
                )
            with st.popover("Delete", icon=":material/delete:", disabled=not own):
                st.markdown("The frames of this run cannot be brought back.")
                if st.button("Delete for good", type="primary", key="runs/delete"):
                    _act(lambda: kept.delete(run.id))
    if st.session_state.pop("runs/opening", None) == run.id:
        st.switch_page(page_file(run.slug), query_params={"run": run.id})


def _open(run: StoredRun) -> None:
    st.session_state["runs/opening"] = run.id


def _act(action: Callable[[], None]) -> None:
    try:
        action()
    except (StoreError, ValueError) as error:
        st.error(str(error), icon=":material/error:")
    else:
        st.rerun()


def _export(kept: RunStore, run_id: str, kind: Literal["parquet", "csv"]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"run.{kind}"
        kept.export(run_id, target, kind)
        return target.read_bytes()


def _several(kept: RunStore, chosen: list[StoredRun]) -> None:
    if len({run.slug for run in chosen}) > 1:
        st.info(
            "Only runs of one page can be overlaid: choose rows with the same page.", icon=":material/info:"
        )
        return
    if len(chosen) > OVERLAY[1]:
        st.info(
            f"At most {OVERLAY[1]} runs fit on one chart; {len(chosen)} are chosen.", icon=":material/info:"
        )
        return
    try:
        runs = [kept.load(run.id) for run in chosen]
    except StoreError as error:
        st.error(str(error), icon=":material/error:")
        return
    shared = [n for n in runs[0].log.scalar_names if all(n in run.log.scalar_names for run in runs)]
    if not shared:
        st.info("These runs have no quantity in common.", icon=":material/info:")
        return
    labels = _labels(runs)
    st.markdown("**Overlay**")
    left, right = st.columns([1, 2])
    name = left.selectbox(
        "Quantity", shared, index=shared.index("loss") if "loss" in shared else 0, key="runs/what"
    )
    arms = list(dict.fromkeys(arm for run in runs for arm in run.log.arms))
    wanted = right.pills(
        "Arms", arms, selection_mode="multi", default=first_arms(runs), key=f"runs/arms/{'/'.join(arms)}"
    )
    log = overlay(runs, labels, name, set(wanted or arms))
    figure = line_figure(
        log,
        name,
        title=f"{name} of {len(runs)} runs",
        y=name,
        look_for="One line per run and arm; the band is the range over seeds.",
        wide=True,
    )
    draw_figure("overlay", figure, key="runs")
    for run, label in zip(runs, labels, strict=True):
        st.caption(
            f"**{plain(label)}**: {plain(run.title)}, {run.status}, {datetime.fromtimestamp(run.created):%d %b %H:%M}"
        )


def first_arms(runs: list[Run]) -> list[str]:
    """The first arm that all runs have, else the first of each."""
    shared = [arm for arm in runs[0].log.arms if all(arm in run.log.arms for run in runs)]
    return shared[:1] or list(dict.fromkeys(run.log.arms[0] for run in runs))


def _labels(runs: list[Run]) -> list[str]:
    """The reader's names where they differ, else letters."""
    names = [run.name for run in runs]
    if all(names) and len(set(names)) == len(names):
        return names
    return [f"run {chr(ord('A') + i)}" for i in range(len(runs))]


def overlay(runs: list[Run], labels: list[str], name: str, arms: set[str]) -> FrameLog:
    """One log with a scalar of several runs, arms renamed to ``"label: arm"``."""
    log = FrameLog()
    for run, label in zip(runs, labels, strict=True):
        table = run.log.scalars(name)
        rows = table.loc[table["arm"].isin(arms), ["step", "arm", "seed", "value"]].to_numpy()
        log.extend(Frame(step, f"{label}: {arm}", seed, {name: value}) for step, arm, seed, value in rows)
    return log

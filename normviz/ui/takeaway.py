"""Take-away: link, Python snippet, notebook, data, figures."""

from __future__ import annotations

import html
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import streamlit as st

from normviz.experiments import Run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["draw_takeaway", "notebook_of", "permalink", "snippet_of"]


def permalink(run: Run, base: str) -> str:
    """A link that opens the page with this run's knobs."""
    query = urlencode(run.knobs.to_query())
    return f"{base}?{query}" if query else base


def snippet_of(run: Run) -> str:
    """Python that repeats the run in a notebook or script."""
    changed = {k: v for k, v in run.knobs.model_dump().items() if v != run.knobs.controls()[k].default}
    arguments = ", ".join(f"{k}={v!r}" for k, v in changed.items())
    module = run.experiment.package.rpartition(".")[2]
    return (
        f"from normviz.experiments import {module}\n\n"
        f"run = {module}.run({module}.Knobs({arguments}))\n"
        f'run.figures()["{next(iter(run.figures()))}"]'
    )


def frame_of(run: Run, base: str) -> str:
    """HTML that shows the stage inside another page."""
    link = permalink(run, base)
    source = html.escape(f"{link}{'&' if '?' in link else '?'}embed=true")
    return f'<iframe src="{source}" title="{html.escape(run.experiment.title)}" width="1100" height="760"></iframe>'


def notebook_of(run: Run) -> str:
    """The snippet as a Jupyter notebook with one cell per figure."""
    lead, _, _ = snippet_of(run).rpartition("\n")
    question = f"# {run.experiment.title}\n\n{run.experiment.question}"
    codes = [
        lead,
        *(f'run.figures()["{name}"]' for name in run.figures()),
        "run.verdicts()",
        "run.to_dataframe()",
    ]
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "id": "question", "metadata": {}, "source": question}
    ]
    for i, source in enumerate(codes):
        blank: dict[str, Any] = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
        cells.append({**blank, "id": f"c{i}", "source": source})
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def _csv(run: Run) -> bytes:
    return run.to_dataframe().to_csv(index=False).encode()


def _parquet(run: Run) -> bytes:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run.parquet"
        run.to_parquet(target)
        return target.read_bytes()


def _figures(run: Run, step: int | None) -> bytes:
    """A zip with every figure as HTML, and as SVG where it is a Vega-Lite chart, and the run's record."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, figure in run.figures(step).items():
            archive.writestr(f"{name}.html", figure.to_html())
            if figure.plotly is None:
                archive.writestr(f"{name}.svg", figure.to_svg())
        record = {"knobs": run.knobs.model_dump(mode="json"), "environment": run.environment}
        archive.writestr("run.json", json.dumps(record, indent=2))
    return buffer.getvalue()


def draw_takeaway(run: Run, *, base: str, step: int | None) -> None:
    """The section with everything a reader can take along; files are made when they are asked for."""
    left, right = st.columns(2)
    with left:
        st.markdown("**Link** to this page with these knobs")
        st.code(permalink(run, base), language=None, wrap_lines=True)
        st.markdown("**Frame** for another site: the stage alone, with these knobs")
        st.code(frame_of(run, base), language="html", wrap_lines=True)
        st.markdown("**Python** that repeats the run")
        st.code(snippet_of(run), language="python")
    with right:
        st.markdown("**Files**")
        name = f"{run.experiment.slug}-{run.id}"
        files: list[tuple[str, str, str, Callable[[], str | bytes]]] = [
            ("Notebook", f"{name}.ipynb", "application/x-ipynb+json", lambda: notebook_of(run)),
            ("Scalars as CSV", f"{name}.csv", "text/csv", lambda: _csv(run)),
            (
                "All frames as Parquet",
                f"{name}.parquet",
                "application/vnd.apache.parquet",
                lambda: _parquet(run),
            ),
            (
                "Figures as HTML and SVG",
                f"{name}-figures.zip",
                "application/zip",
                lambda: _figures(run, step),
            ),
        ]
        with st.container(horizontal=True):
            for label, file_name, mime, make in files:
                st.download_button(
                    label,
                    make,
                    file_name,
                    mime,
                    icon=":material/download:",
                    on_click="ignore",
                    key=f"take/{label}",
                )
        shown = {k: v for k, v in run.environment.items() if v}
        st.caption("Measured with " + ", ".join(f"{k} {v}" for k, v in shown.items()) + f". Run {run.id}.")

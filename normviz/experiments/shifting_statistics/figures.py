"""What is drawn on the page *Shifting statistics*."""

from __future__ import annotations

from normviz.experiments.shifting_statistics.grid_charts import grid_sheet
from normviz.experiments.shifting_statistics.knobs import Knobs
from normviz.experiments.shifting_statistics.stream_charts import stream_sheet
from normviz.experiments.shifting_statistics.task_charts import tasks_sheet
from normviz.figures import Sheet

__all__ = ["sheet"]


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return {"stream": stream_sheet, "grid": grid_sheet, "tasks": tasks_sheet}[knobs.task](knobs)

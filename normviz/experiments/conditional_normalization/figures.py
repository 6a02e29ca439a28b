"""What is drawn on the page *Conditional normalization*."""

from __future__ import annotations

from normviz.experiments.conditional_normalization.fire_charts import fire_sheet
from normviz.experiments.conditional_normalization.knobs import Knobs
from normviz.experiments.conditional_normalization.paint_charts import paint_sheet
from normviz.figures import Sheet

__all__ = ["sheet"]


def sheet(knobs: Knobs) -> Sheet:
    """The charts of a setting."""
    return {"fire": fire_sheet, "paint": paint_sheet}[knobs.task](knobs)

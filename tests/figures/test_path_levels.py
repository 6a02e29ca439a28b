"""The closed-form charts of paths and levels, evaluated by Vega."""

from __future__ import annotations

import math

from normviz.experiments.residual_depth.path_levels import level_growth_figure, level_weights_figure


def test_closed_form_figures_draw() -> None:
    for figure in (level_weights_figure(), level_growth_figure()):
        assert "<svg" in figure.to_svg()
        assert figure.data is not None
        assert figure.data.isna().sum().sum() == 0


def test_level_weights_figure_computes_counts_and_weights() -> None:
    """The report that the chart writes, evaluated by Vega, against Python's integers."""
    svg = level_weights_figure().to_svg()
    assert "2^32 = 4,294,967,296" in svg
    assert f"exactly 3 modules: {math.comb(32, 3)}" in svg
    total = (1 + 32**-0.5) ** 32
    assert f"sum {total:.3f}" in svg
    mean, spread = 32 * 32**-0.5 / (1 + 32**-0.5), math.sqrt(32 * 32**-0.5) / (1 + 32**-0.5)
    assert f"{mean:.1f} ± {spread:.1f}" in svg

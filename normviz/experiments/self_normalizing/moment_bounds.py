"""The theorems of self-normalizing networks as pictures (Klambauer et al., arXiv 1706.02515).

Computed on grids by :mod:`normviz.norms.selu_moments` for the standard SELU: a grid is evidence, the paper has proofs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.figures.figure import Figure
from normviz.figures.legends import colour_bar, height_below, legend_above
from normviz.figures.vega import specification
from normviz.norms.selu_moments import moment_map, moment_map_jacobian

__all__ = ["BOX", "CONTRACTS", "EXPANDS", "contraction_figure", "variance_bounds_figure"]

CONTRACTS, EXPANDS, GROWS = "#069e73", "#d55e00", "#0a85d1"
BOX = (-0.1, 0.1, 0.8, 1.5)
"""Means and variances of theorem 1."""
BOUNDS = {
    "theorem 3: grows": (0.02, 0.16, GROWS),
    "theorem 1: attracts": (*BOX[2:], CONTRACTS),
    "theorem 2: shrinks": (3.0, 16.0, EXPANDS),
}
"""Ranges of the variance that the paper's three theorems speak of."""
WEIGHTS = ((-0.1, 0.1), (0.8, 1.25))
"""Sums of weights and of their squares in theorems 2 and 3."""
MEANS = {"mean within ±1": (-1.0, 1.0), "mean within ±0.1": (-0.1, 0.1)}


def variance_bounds_figure() -> Figure:
    """By how much one layer may grow or shrink the variance, over the means and weights of theorems 2 and 3.

    Computed by :func:`normviz.norms.moment_map` on a grid of 9 x 9 x 9 means and weights for each variance.
    """
    return Figure(
        "Small variances grow, large ones shrink",
        "Each theorem's range: throughout the blue one the bands lie above 1, throughout the orange one below.",
        "Band chart of the variance after one SELU layer divided by the variance before, against the variance before: "
        "above one for small variances, below one for large ones, whatever the mean and weights of the theorems.",
        spec=_bounds_spec(),
        data=_bounds(),
    )


@lru_cache(maxsize=1)
def _bounds() -> pd.DataFrame:
    nu = np.geomspace(0.02, 16.0, 61)
    sums, squares = (np.linspace(*span, 9) for span in WEIGHTS)
    parts = []
    for name, span in MEANS.items():
        mean, before, omega, tau = np.meshgrid(
            np.linspace(*span, 9), nu, sums, squares, indexing="ij", sparse=True
        )
        growth = moment_map(mean, before, omega, tau)[1] / before  # (means, nu, omegas, taus)
        low, high = growth.min(axis=(0, 2, 3)), growth.max(axis=(0, 2, 3))
        parts.append(pd.DataFrame({"part": name, "nu": nu, "low": low, "high": high}))
    ranges = [
        {"part": name, "nu": a, "nu2": b, "low": 1.0, "high": 1.0} for name, (a, b, _) in BOUNDS.items()
    ]
    return pd.concat([*parts, pd.DataFrame(ranges)], ignore_index=True)


@lru_cache(maxsize=1)
def _bounds_spec() -> dict[str, Any]:
    x_scale = alt.Scale(type="log", domain=[0.02, 16.0], nice=False)
    x = alt.X(
        "nu:Q",
        title="variance ν before the layer (log scale)",
        scale=x_scale,
        axis=alt.Axis(format="~g", values=[0.02, 0.1, 0.5, 1, 2, 5, 16], grid=False),
    )
    y = alt.Y(
        "low:Q",
        title="variance after / before (log scale)",
        scale=alt.Scale(type="log", domain=[0.4, 2.6], nice=False),
        axis=alt.Axis(format="~g", values=[0.5, 1, 2]),
    )
    legend = legend_above([*MEANS, *BOUNDS], lines=False)
    names = [*MEANS, *BOUNDS]
    scale = alt.Scale(domain=names, range=["#8a8a8a", "#c3659c", *(colour for *_, colour in BOUNDS.values())])
    colour = alt.Color("part:N", title=None, scale=scale, legend=legend)
    ranges = (
        alt.Chart()
        .transform_filter("isValid(datum.nu2)")
        .mark_rect(opacity=0.18)
        .encode(x=x, x2="nu2:Q", color=colour)
    )
    band = (
        alt.Chart()
        .transform_filter("!isValid(datum.nu2)")
        .mark_area(opacity=0.35)
        .encode(
            x=x,
            y=y,
            y2="high:Q",
            color=colour,
            tooltip=[
                alt.Tooltip("nu:Q", title="variance before", format=".3g"),
                alt.Tooltip("low:Q", title="least growth", format=".3g"),
                alt.Tooltip("high:Q", title="greatest growth", format=".3g"),
            ],
        )
    )
    one = alt.Chart().mark_rule(color="#888888", strokeDash=[2, 2]).encode(y=alt.datum(1))
    return specification(alt.layer(ranges, band, one).properties(height=height_below(names)))


def contraction_figure() -> Figure:
    """Where theorem 1's box goes: 9 x 9 moments, each mapped by 3 x 3 weights, coloured by the norm of the Jacobian.

    Computed by :func:`normviz.norms.moment_map` and :func:`normviz.norms.moment_map_jacobian`.
    """
    data = _image_of_box()
    points = data[data["part"] == "image"]
    return Figure(
        "Theorem 1: the box is mapped into itself",
        "Every dot is the image of a point of the dashed box. All lie inside, and no norm reaches 1: a contraction.",
        f"Scatter chart of mean and variance after one layer for {len(points)} starts and weights of theorem 1: means "
        f"{points['mu'].min():.3f} to {points['mu'].max():.3f}, variances {points['nu'].min():.3f} to "
        f"{points['nu'].max():.3f}, all inside the box; largest norm of the Jacobian {points['norm'].max():.3f}.",
        spec=_box_spec(),
        data=data,
    )


@lru_cache(maxsize=1)
def _image_of_box() -> pd.DataFrame:
    mu, nu, omega, tau = np.meshgrid(
        np.linspace(*BOX[:2], 9), np.linspace(*BOX[2:], 9), (-0.1, 0.0, 0.1), (0.95, 1.0, 1.1), indexing="ij"
    )
    mean, var = moment_map(mu, nu, omega, tau)
    norm = np.linalg.norm(moment_map_jacobian(mu, nu, omega, tau), 2, axis=(-2, -1))  # (9, 9, 3, 3)
    table = {"part": "image", "mu": mean.ravel(), "nu": var.ravel(), "norm": norm.ravel()}
    box = {"part": ["box"], "mu": [BOX[0]], "nu": [BOX[2]], "mu2": [BOX[1]], "nu2": [BOX[3]]}
    return pd.concat([pd.DataFrame(table), pd.DataFrame(box)], ignore_index=True)


@lru_cache(maxsize=1)
def _box_spec() -> dict[str, Any]:
    x = alt.X(
        "mu:Q",
        title="mean μ after the layer",
        scale=alt.Scale(domain=[-0.12, 0.12]),
        axis=alt.Axis(tickCount=7),
    )
    y = alt.Y("nu:Q", title="variance ν after the layer", scale=alt.Scale(domain=[0.7, 1.6]))
    colour = alt.Color(
        "norm:Q",
        title="norm of J",
        scale=alt.Scale(domain=[0.5, 1.0], range=["#4fc3a1", "#0a66b8"]),
        legend=colour_bar(length=120),
    )
    dots = (
        alt.Chart()
        .transform_filter("datum.part == 'image'")
        .mark_circle(size=26, opacity=0.75)
        .encode(
            x=x,
            y=y,
            color=colour,
            tooltip=[alt.Tooltip(f"{c}:Q", format=".3f") for c in ("mu", "nu", "norm")],
        )
    )
    box = (
        alt.Chart()
        .transform_filter("datum.part == 'box'")
        .mark_rect(fillOpacity=0, stroke=CONTRACTS, strokeWidth=1.5, strokeDash=[4, 3])
        .encode(x=x, x2="mu2:Q", y=y, y2="nu2:Q")
    )
    return specification(alt.layer(dots, box).properties(height=280))

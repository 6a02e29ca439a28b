"""Sweeps, scatters, graph drawings and the EvoNorm responses in the browser, from hand-made data."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import torch

from normviz.arms import Arms
from normviz.experiments.evolving_layers.node_graphs import node_graph_figure
from normviz.experiments.evolving_layers.norm_responses import RESPONSES, norm_response_figure
from normviz.experiments.evolving_layers.scatters import Dot, scatter_figure
from normviz.experiments.evolving_layers.sweeps import sweep_figure
from normviz.figures import colours
from normviz.frame import Frame, FrameLog
from normviz.norms import make_evonorm

vl_convert = pytest.importorskip("vl_convert")


def test_sweep_takes_the_newest_value_of_every_seed() -> None:
    log = FrameLog(
        Frame(step, arm, seed, {"v": value + seed + step})
        for step in (0, 10)
        for arm, value in (("A, 2", 1.0), ("A, 8", 3.0), ("B, 2", 5.0))
        for seed in (0, 1)
    )
    points = {"A, 2": ("A", 2), "A, 8": ("A", 8), "B, 2": ("B", 2), "B, 8": ("B", 8)}
    arms = Arms.product({"A": 3, "B": 1}, {", 2": "2", ", 8": "8"})
    figure = sweep_figure(log, "v", points, title="T", x="size", y="v", look_for="L", arms=arms)
    rows = {(r.arm, r.x): (r.mean, r.low, r.high) for r in figure.data.itertuples()}
    assert rows == {("A", 2): (11.5, 11, 12), ("A", 8): (13.5, 13, 14), ("B", 2): (15.5, 15, 16)}
    assert (figure.title, figure.moment) == ("T", "step 10")
    assert figure.spec is not None
    assert figure.spec["layer"][0]["encoding"]["color"]["scale"]["range"] == colours(
        Arms.of({"A": 3, "B": 1})
    )
    early = sweep_figure(log, "v", points, title="T", x="size", y="v", look_for="L", arms=arms, step=5)
    assert early.data["mean"].tolist() == [1.5, 3.5, 5.5]
    assert figure.to_svg().startswith("<svg")


def test_scatter_keeps_bold_and_known_apart() -> None:
    dots = [Dot("A", 1, 2, "one", True), Dot("B", 3, 4, "two")]
    known = {"K": (5.0, 6.0), "L": (7.0, 8.0)}
    figure = scatter_figure(dots, groups=Arms.of("AB"), known=known, title="T", x="x", y="y", look_for="L")
    assert figure.data["part"].tolist() == ["front", "rest", "known above", "known below"]
    assert "A 1 dots, B 1 dots" in figure.alt
    assert figure.to_svg().startswith("<svg")
    assert (
        "nothing is measured"
        in scatter_figure([], groups=Arms.of("A"), title="T", x="x", y="y", look_for="L").alt
    )


def test_graph_columns_follow_the_longest_way() -> None:
    nodes = {i: (str(i), "k") for i in range(4)}
    figure = node_graph_figure(
        nodes, [(0, 1), (1, 2), (0, 2), (2, 3)], kinds=Arms.of("k"), title="T", look_for="L", alt_text="A"
    )
    drawn = figure.data[figure.data["part"] == "node"].set_index("label")
    assert drawn["x"].to_dict() == pytest.approx({"0": 0, "1": 1 / 3, "2": 2 / 3, "3": 1})
    edges = figure.data[figure.data["part"] == "edge"]
    assert (edges["x"] < edges["x2"]).all()
    assert figure.to_svg().startswith("<svg")


@pytest.mark.parametrize(("v", "batch", "image"), [(1.0, 1.0, 1.0), (-0.7, 0.8, 1.6)])
def test_responses_in_vega_are_the_layers_(v: float, batch: float, image: float) -> None:
    spec = json.loads(json.dumps(norm_response_figure().spec))
    values = {"v": v, "batch": batch, "image": image}
    rows = [{"layer": name, "x": x} for name in RESPONSES for x in (-2.5, -0.4, 0.3, 3.0)]
    text = {
        "data": {"values": [{"i": i, **row} for i, row in enumerate(rows)]},
        "params": [{"name": n, "value": value} for n, value in values.items()],
        "transform": [*spec["transform"], {"calculate": "datum.i + ' ' + datum.y", "as": "text"}],
        "mark": "text",
        "encoding": {"text": {"field": "text", "type": "nominal"}},
    }
    svg = vl_convert.vegalite_to_svg(text)
    drawn = [html.unescape(t).split() for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    found = [float(value) for _, value in sorted((int(i), value) for i, value in drawn)]
    expected = [response(row["layer"], row["x"], v, batch, image) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def response(arm: str, value: float, v: float, batch: float, image: float) -> float:
    """The library's layer at one pixel among many whose image has that deviation, in eval mode with that batch's."""
    side = 100
    rest = torch.linspace(-1, 1, side * side - 1, dtype=torch.float64)
    rest = image * rest / rest.std(correction=0)
    x = torch.cat([rest, torch.tensor([value])]).view(1, 1, side, side)
    if arm == "BN-ReLU":
        return max(0.0, value / batch)
    if arm == "GN-SiLU":
        return value / image / (1 + np.exp(-value / image))
    options = {"groups": 1, "eps": 0.0} if arm.startswith("S") else {"eps": 0.0}
    layer = make_evonorm(arm, 1, **options).double().eval()
    with torch.no_grad():
        if layer.v is not None:
            layer.v.fill_(v)
        if arm.startswith("B"):
            layer.running_var.fill_(batch**2)
        return float(layer(x).flatten()[-1])

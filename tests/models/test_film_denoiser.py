from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from normviz.models import FiLMDenoiser


def small(**options: object) -> FiLMDenoiser:
    torch.manual_seed(0)
    return FiLMDenoiser(2, [7, 6], **{"token_features": 5, "time_features": 4, **options}).double()


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("normed", [False, True])
def test_equals_numpy(normed: bool) -> None:
    net = small(norm=nn.LayerNorm if normed else None)
    with torch.no_grad():
        for p in net.parameters():
            p.normal_()
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0, 3, 39])
    state = {name: p.numpy() for name, p in net.state_dict().items()}
    for row, time, out in zip(x.numpy(), t.tolist(), net(x, t).detach().numpy(), strict=True):
        frequencies = [1.0, 10000**-0.5]
        h = np.array(
            [*row, *(math.sin(time * f) for f in frequencies), *(math.cos(time * f) for f in frequencies)]
        )
        for i, width in enumerate((7, 6)):
            name = f"blocks.{i}"
            h = state[f"{name}.linear.weight"] @ h + state[f"{name}.linear.bias"]
            if normed:
                h = (h - h.mean()) / np.sqrt(h.var() + 1e-5)
                h = h * state[f"{name}.norm.weight"] + state[f"{name}.norm.bias"]
            film = state[f"{name}.film.weight"] @ state["token"] + state[f"{name}.film.bias"]
            h = silu(h * (1 + film[:width]) + film[width:])
        np.testing.assert_allclose(out, state["head.weight"] @ h + state["head.bias"], rtol=1e-10)


def test_a_token_of_its_own_for_all_or_for_every_row() -> None:
    net, x, t = small(), torch.randn(3, 2).double(), torch.arange(3)
    assert torch.equal(net(x, t, net.token), net(x, t))
    tokens = torch.randn(3, 5).double()
    rows = torch.stack([net(x[i], t[i], tokens[i]) for i in range(3)])
    torch.testing.assert_close(net(x, t, tokens), rows)
    torch.testing.assert_close(net(x, torch.tensor(2)), net(x, torch.full((3,), 2)))
    assert float((net(x, t, tokens) - net(x, t)).detach().abs().max()) > 1e-3


def test_times_stay_apart_in_half_precision() -> None:
    net = FiLMDenoiser()
    times = torch.arange(300).bfloat16()  # whole numbers above 256 are rounded to even ones
    embedded = net.embed_time(torch.arange(300))
    assert embedded.dtype == torch.float32
    assert net.embed_time(times, torch.bfloat16).dtype == torch.float32
    torch.testing.assert_close(net.embed_time(times, torch.bfloat16)[:257], embedded[:257])
    assert torch.pdist(embedded).min() > 0.1
    assert net.bfloat16()(torch.zeros(300, 2).bfloat16(), times).dtype == torch.bfloat16


def test_start() -> None:
    torch.manual_seed(0)
    net = FiLMDenoiser()
    assert [b["film"].weight.shape for b in net.blocks] == [(256, 256)] * 3
    assert net.token.shape == (256,)
    assert float(net.token.detach().norm()) == pytest.approx(1, abs=0.2)
    modulation = torch.stack([b["film"](net.token) for b in net.blocks])
    assert float(modulation.detach().std()) == pytest.approx(1 / math.sqrt(3 * 256), rel=0.2)


def test_stacked_concepts_equal_a_loop() -> None:
    """Concepts that share everything but the token and one layer train as one batch."""
    net, x, t = small(), torch.randn(4, 3, 2).double(), torch.arange(3)
    own = {"token": torch.randn(4, 5).double(), "blocks.1.film.weight": torch.randn(4, 12, 5).double()}
    stacked = vmap(lambda p, points: functional_call(net, p, (points, t)))(own, x)
    for i in range(4):
        alone = functional_call(net, {name: p[i] for name, p in own.items()}, (x[i], t))
        torch.testing.assert_close(stacked[i], alone)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"in_features": 0}, "in_features"),
        ({"hidden": []}, "hidden"),
        ({"hidden": [3, 0]}, r"hidden\[1\]"),
        ({"token_features": 0}, "token_features"),
        ({"time_features": 5}, "time_features must be even"),
        ({"time_features": 0}, "time_features"),
        ({"activation": "swish"}, "'silu'"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FiLMDenoiser(**arguments)

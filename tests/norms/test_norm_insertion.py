"""Norms put into a network that has none."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz import norms
from normviz.norms.nap import FeatureNorm, insert_normalization
from tests.norms.nap_networks import numpy_norm, randn


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.Tanh(), nn.Linear(6, 3)
    ).double()


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("affine", [True, False])
def test_insertion(norm: str, affine: bool) -> None:
    model = plain()
    before = copy.deepcopy(model.state_dict())
    new = insert_normalization(model, norm, affine)
    assert [type(m) for m in new] == [
        nn.Conv2d, FeatureNorm, nn.ReLU, nn.Flatten, nn.Linear, FeatureNorm, nn.Tanh, nn.Linear,
    ]  # fmt: skip
    assert all(m.kind == norm for m in new if isinstance(m, FeatureNorm))
    assert new[0].bias is None
    assert new[4].bias is None
    assert new[7].bias is not None
    torch.testing.assert_close(
        model.state_dict(), before
    )  # the input stays, and shares nothing with the copy
    assert all(
        p.data_ptr() != q.data_ptr() for p, q in itertools.product(model.parameters(), new.parameters())
    )
    x = randn(2, 1, 8, 8)
    eps = 1e-5 if norm == "layer" else 1e-6
    maps = nn.functional.conv2d(x, model[0].weight).detach().numpy()
    a = np.maximum(numpy_norm(maps, norm, eps, (1, 2, 3)), 0).reshape(2, -1)
    a = np.tanh(numpy_norm(a @ model[3].weight.detach().numpy().T, norm, eps))
    expected = a @ model[5].weight.detach().numpy().T + model[5].bias.detach().numpy()
    np.testing.assert_allclose(new(x).detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    for m in new:
        if isinstance(m, FeatureNorm):
            assert (m.weight is not None, m.bias is not None) == (affine, affine)
    if affine:
        assert new[1].weight.shape == new[1].bias.shape == (4,)
        assert new[1].weight.dtype == torch.float64


def test_insertion_keeps_biases_on_request_and_takes_eps() -> None:
    new = insert_normalization(plain(), remove_bias=False, eps=0.5)
    assert new[0].bias is not None
    assert new[4].bias is not None
    assert new[1].eps == new[5].eps == 0.5


def test_insertion_keeps_norms_that_are_there() -> None:
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    new = insert_normalization(model)
    assert [type(m) for m in new] == [
        nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, FeatureNorm, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert new[0].bias is None
    assert [type(m) for m in insert_normalization(new)] == [type(m) for m in new]
    wrapped = nn.Sequential(nn.Conv2d(1, 4, 3), norms.ChannelsLast(nn.LayerNorm(4)), nn.ReLU())
    assert [type(m) for m in insert_normalization(wrapped)] == [nn.Conv2d, norms.ChannelsLast, nn.ReLU]
    assert insert_normalization(wrapped)[0].bias is None


def test_insertion_in_nested_and_named_sequentials() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential()
            self.body.add_module("fc", nn.Linear(3, 4))
            self.body.add_module("act", nn.GELU())
            self.body.add_module("inner", nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x))
            return out

    new = insert_normalization(Net().eval())
    assert list(new.body._modules) == ["fc", "fc_norm", "act", "inner"]
    assert [type(m) for m in new.body.inner] == [nn.Linear, FeatureNorm, nn.ReLU]
    assert not new.body.fc_norm.training
    assert new(torch.zeros(2, 3)).shape == (2, 2)


def test_insertion_takes_the_place_of_an_identity() -> None:
    block = nn.Sequential()
    block.add_module("linear", nn.Linear(3, 4))
    block.add_module("norm", nn.Identity())
    block.add_module("activation", nn.ReLU())
    new = insert_normalization(block)
    assert list(new._modules) == ["linear", "norm", "activation"]
    assert isinstance(new.norm, FeatureNorm)
    assert new.linear.bias is None


def test_insertion_with_one_activation_module_for_all_layers() -> None:
    act = nn.ReLU()
    new = insert_normalization(nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2)))
    assert [type(m) for m in new] == [
        nn.Linear, FeatureNorm, nn.ReLU, nn.Linear, FeatureNorm, nn.ReLU, nn.Linear,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (
            nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.ReLU())),
            r"0\.2 must be preceded.*Dropout",
        ),
        (nn.Sequential(nn.ReLU(), nn.Linear(3, 4), nn.ReLU()), r"activation 0 must be preceded.*nothing"),
        (nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU()), r"activation 1 must be preceded.*Conv1d"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.ModuleDict({"act": nn.Tanh()})),
            r"activation 2\.act must",
        ),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), r"Sequential.*no nn.Sequential"),
        (nn.Linear(3, 4), r"Linear.*no nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)), r"no nn.Sequential"),
        (nn.Sequential(nn.Linear(3, 1), nn.ReLU()), r"0 has a single feature"),
    ],
)
def test_insertion_errors_name_the_module(model: nn.Module, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        insert_normalization(model)


def test_insertion_arguments() -> None:
    with pytest.raises(ValueError, match="norm must be one of 'layer', 'rms'"):
        insert_normalization(plain(), "batch")
    with pytest.raises(ValueError, match="eps must be"):
        insert_normalization(plain(), eps=-1.0)

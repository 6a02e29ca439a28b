"""Budget, layer densities, masks and the network that carries them."""

from __future__ import annotations

import copy
import doctest
import io
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.federated import (
    SparseModel,
    adjust_count,
    cosine_adjust_fraction,
    layer_densities,
    magnitude_mask,
    pruning,
)
from tests.federated.small import clients, convnet, images, mlp, randn

SHAPES = {
    "stem.weight": (16, 1, 3, 3),
    "stem.bias": (16,),
    "deep.weight": (32, 16, 3, 3),
    "wide.weight": (64, 32, 3, 3),
    "head.weight": (10, 64),
    "head.bias": (10,),
}
PRUNABLE = [name for name in SHAPES if name.endswith("weight")]


def erk(shapes, prunable, density, axes):
    """The rule by repeated scaling in exact fractions of Python integers, layer by layer."""
    size = {n: math.prod(s) for n, s in shapes.items()}
    budget = int(density * sum(size.values())) - sum(size[n] for n in shapes if n not in prunable)
    raw = {n: sum(shapes[n][:axes]) / math.prod(shapes[n][:axes]) for n in prunable}
    dense = []
    while True:
        free = [n for n in prunable if n not in dense]
        if not free:
            return dict.fromkeys(prunable, 1.0)
        eps = (budget - sum(size[n] for n in dense)) / sum(raw[n] * size[n] for n in free)
        worst = max(free, key=raw.get)
        if eps * raw[worst] <= 1:
            return {n: 1.0 if n in dense else eps * raw[n] for n in prunable}
        dense.append(worst)


def test_check_1_the_cosine():
    assert cosine_adjust_fraction(0, 100) == 0.2
    assert cosine_adjust_fraction(50, 100) == pytest.approx(0.1, abs=1e-15)
    assert cosine_adjust_fraction(100, 100) == pytest.approx(0, abs=1e-15)
    assert cosine_adjust_fraction(101, 100) == 0
    assert cosine_adjust_fraction(25, 100, 0.3) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert adjust_count(0, 100, 500, 0.2) == 100
    assert adjust_count(24, 24, 500) == 0
    assert adjust_count(0, 24, 4) == 0, "a layer of four weights is never adjusted at the default rate"


@pytest.mark.parametrize("rule", ["uniform", "ER", "ERK"])
@pytest.mark.parametrize("density", [0.05, 0.1, 0.3, 0.7, 1.0])
def test_check_2_layer_densities_meet_the_budget(rule, density):
    found = layer_densities(SHAPES, PRUNABLE, density, rule)
    sizes = {name: math.prod(shape) for name, shape in SHAPES.items()}
    kept = sum(found[name] * sizes[name] for name in PRUNABLE) + sizes["stem.bias"] + sizes["head.bias"]
    assert abs(kept - density * sum(sizes.values())) <= 1
    assert all(0 < d <= 1 for d in found.values())
    assert list(found) == PRUNABLE
    if rule == "uniform":
        assert len(set(found.values())) == 1
    else:
        expected = erk(SHAPES, PRUNABLE, density, 2 if rule == "ER" else 4)
        assert found == pytest.approx(expected, rel=1e-12)


def test_check_2_erk_keeps_small_layers_dense():
    found = layer_densities(SHAPES, PRUNABLE, 0.07, "ERK")
    assert found["stem.weight"] == 1
    assert found["stem.weight"] > found["head.weight"] > found["deep.weight"] > found["wide.weight"]


def test_the_dense_share_counts():
    found = layer_densities({"a.weight": (10, 10), "a.bias": (10,)}, ["a.weight"], 0.5, "uniform")
    assert found["a.weight"] == (55 - 10) / 100


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.1}, "density"),
        ({"density": 26 / sum(math.prod(s) for s in SHAPES.values())}, "density"),
        ({"rule": "erk"}, "rule"),
        ({"prunable": ["other"]}, "prunable"),
        ({"prunable": []}, "prunable"),
    ],
)
def test_densities_that_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"^{name}"):
        layer_densities(**{"shapes": SHAPES, "prunable": PRUNABLE, "density": 0.2, "rule": "ER", **arguments})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: cosine_adjust_fraction(-1, 10), "t"),
        (lambda: cosine_adjust_fraction(1, 0), "t_end"),
        (lambda: cosine_adjust_fraction(1, 10, 0.0), "alpha"),
        (lambda: adjust_count(1, 10, -1), "n_active"),
        (lambda: magnitude_mask(torch.ones(3), 0.0), "density"),
    ],
)
def test_numbers_that_are_refused(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


def test_a_magnitude_mask_takes_the_lower_index_of_equal_ones():
    w = torch.tensor([[1.0, -2.0, 2.0], [2.0, -1.0, 0.5]])
    assert magnitude_mask(w, 2 / 6).tolist() == [[False, True, True], [False, False, False]]
    assert magnitude_mask(w, 4 / 6).tolist() == [[True, True, True], [True, False, False]]
    assert magnitude_mask(w, 1.0).all()
    assert magnitude_mask(torch.ones(1000), 0.5).nonzero().flatten().tolist() == list(range(500))


def test_a_magnitude_mask_under_vmap():
    w = randn(4, 3, 5)
    together = torch.vmap(lambda one: magnitude_mask(one, 0.4))(w)
    assert torch.equal(together, torch.stack([magnitude_mask(one, 0.4) for one in w]))


def test_masks_are_by_magnitude_within_each_layer():
    net = convnet()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sparse = SparseModel(net, 0.3, "ERK")
    densities = layer_densities(
        {n: tuple(p.shape) for n, p in before.items()}, list(sparse.masks), 0.3, "ERK"
    )
    assert list(sparse.masks) == ["0.0.weight", "1.0.weight", "2.1.weight"]
    for name, mask in sparse.masks.items():
        keep = int(mask.numel() * densities[name])
        order = np.argsort(-before[name].abs().numpy().ravel(), kind="stable")[:keep]
        expected = np.zeros(mask.numel(), bool)
        expected[order] = True
        np.testing.assert_array_equal(mask.numpy().ravel(), expected)
        assert mask.dtype == torch.bool
        weight = net.get_parameter(name)
        assert torch.equal(weight, before[name] * mask)
        assert sparse.layer_density()[name] == keep / mask.numel()
    total = sum(p.numel() for p in net.parameters())
    kept = sum(int(torch.count_nonzero(net.get_parameter(n))) for n in sparse.masks)
    dense = total - sum(m.numel() for m in sparse.masks.values())
    assert sparse.density() == pytest.approx((kept + dense) / total)
    assert 0.3 - 3 / total <= sparse.density() <= 0.3


def test_weights_that_stay_dense():
    sparse = SparseModel(mlp(), 0.6, ignore=["3.weight"])
    assert list(sparse.masks) == ["0.weight"]
    assert torch.count_nonzero(sparse.model[3].weight) == 24
    assert int(sparse.masks["0.weight"].sum()) == int(0.6 * 83) - 19 - 24
    with pytest.raises(ValueError, match=r"ignore must name .*'1\.weight'"):
        SparseModel(mlp(), 0.6, ignore=["1.weight"])


def test_the_forward_is_the_masked_network_also_when_zeros_were_overwritten():
    sparse = SparseModel(convnet(), 0.3).eval()
    x = images()[0][0]
    expected = sparse.model(x)
    with torch.no_grad():
        for name, mask in sparse.masks.items():
            sparse.model.get_parameter(name).add_(100.0 * ~mask)
    torch.testing.assert_close(sparse(x), expected, rtol=0, atol=1e-12)
    sparse.apply_masks()
    torch.testing.assert_close(sparse.model(x), expected, rtol=0, atol=1e-12)


def test_gradients_of_inactive_weights_are_zero():
    sparse = SparseModel(convnet(), 0.3)
    x, y = images()[0]
    F.cross_entropy(sparse(x), y).backward()
    for name, mask in sparse.masks.items():
        grad = sparse.model.get_parameter(name).grad
        assert torch.count_nonzero(grad[~mask]) == 0
        assert torch.count_nonzero(grad[mask]) > 0
        grad.fill_(1.0)
    sparse.mask_gradients()
    for name, mask in sparse.masks.items():
        assert torch.equal(sparse.model.get_parameter(name).grad, mask.double())


def test_dense_gradients_against_finite_differences():
    sparse = SparseModel(mlp(), 0.6)
    x, y = clients()[0]
    found = sparse.dense_gradients(x, y)
    assert list(found) == list(sparse.masks)

    def loss(name, index, delta):
        net = copy.deepcopy(sparse.model).train()
        with torch.no_grad():
            net.get_parameter(name).view(-1)[index] += delta
        return F.cross_entropy(net(x), y).item()

    for name, grad in found.items():
        numeric = [(loss(name, i, 1e-6) - loss(name, i, -1e-6)) / 2e-6 for i in range(grad.numel())]
        np.testing.assert_allclose(grad.flatten().numpy(), numeric, atol=1e-8)
        assert torch.count_nonzero(grad[~sparse.masks[name]]) > 0, "also where the mask is 0"


def test_dense_gradients_move_nothing():
    sparse = SparseModel(convnet(), 0.3)
    sparse.model[1].eval()
    x, y = images()[0]
    F.cross_entropy(sparse(x), y).backward()
    state = {name: entry.clone() for name, entry in sparse.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in sparse.named_parameters()}
    modes = [m.training for m in sparse.modules()]
    with torch.no_grad():
        found = sparse.dense_gradients(x, y, ["1.0.weight"])
    assert list(found) == ["1.0.weight"]
    assert all(torch.equal(entry, sparse.state_dict()[name]) for name, entry in state.items())
    assert all(torch.equal(p.grad, grads[name]) for name, p in sparse.named_parameters())
    assert [m.training for m in sparse.modules()] == modes
    with pytest.raises(ValueError, match="names must be weights with a mask"):
        sparse.dense_gradients(x, y, ["1.1.weight"])


def test_set_masks_takes_what_is_named():
    sparse = SparseModel(mlp(), 0.8)
    other = sparse.masks["3.weight"].clone()
    new = torch.zeros(8, 5)
    new[:, 0] = 1
    sparse.set_masks({"0.weight": new})
    assert torch.equal(sparse.masks["0.weight"], new.bool())
    assert torch.count_nonzero(sparse.model[0].weight[:, 1:]) == 0
    assert torch.equal(sparse.masks["3.weight"], other)
    with pytest.raises(ValueError, match="masks must be of weights"):
        sparse.set_masks({"1.weight": torch.ones(8)})
    with pytest.raises(ValueError, match="masks must have the shapes"):
        sparse.set_masks({"0.weight": torch.ones(5, 8)})


def test_masks_are_saved():
    first, second = SparseModel(mlp(1), 0.6), SparseModel(mlp(2), 0.6)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(m, second.masks[name]) for name, m in first.masks.items())
    x = randn(4, 5)
    assert torch.equal(first(x), second(x))


def test_given_masks():
    masks = {"3.weight": torch.zeros(3, 8), "0.weight": torch.ones(8, 5, dtype=torch.bool)}
    masks["3.weight"][0] = 1
    sparse = SparseModel.with_masks(mlp(), masks)
    assert list(sparse.masks) == ["0.weight", "3.weight"]
    assert torch.count_nonzero(sparse.model[3].weight) == 8
    assert sparse.density() == (83 - 16) / 83
    with pytest.raises(ValueError, match="masks must be of weights"):
        SparseModel.with_masks(mlp(), {"x": torch.ones(1)})
    with pytest.raises(ValueError, match="masks must hold"):
        SparseModel.with_masks(mlp(), {})


def test_a_layer_without_a_weight_is_named():
    with pytest.raises(ValueError, match=r"leave every layer a weight: .* leaves 0\.weight, 3\.weight empty"):
        SparseModel(mlp(), 20.5 / 83)  # 1 of 64 weights: int(40 / 64) = int(24 / 64) = 0
    with pytest.raises(ValueError, match=r"leaves 3\.weight empty"):
        SparseModel(mlp(), 21.5 / 83)  # 2 of 64: int(80 / 64) = 1 and int(48 / 64) = 0


def test_networks_that_cannot_be_pruned():
    with pytest.raises(ValueError, match="model must have a convolution or linear layer"):
        SparseModel(nn.BatchNorm1d(3), 0.5)
    with pytest.raises(ValueError, match="density must leave weights beside the 19 dense"):
        SparseModel(mlp(), 19 / 83)
    with pytest.raises(ValueError, match="rule must be one of"):
        SparseModel(mlp(), 0.5, "er")


def test_a_shared_weight_is_counted_once():
    first = nn.Linear(6, 6, bias=False)
    second = nn.Linear(6, 6, bias=False)
    second.weight = first.weight
    sparse = SparseModel(nn.Sequential(first, nn.Tanh(), second), 0.5)
    assert list(sparse.masks) == ["0.weight"]
    x = torch.randn(3, 6)
    torch.testing.assert_close(sparse(x), sparse.model(x))


def test_examples():
    assert doctest.testmod(pruning).failed == 0
    assert doctest.testmod(sys.modules["normviz.federated.budget"]).failed == 0

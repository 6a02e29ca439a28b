"""SNIP, SynFlow, one-shot magnitude, PruneFL and FedDST against their definitions."""

from __future__ import annotations

import copy
import doctest
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.federated import (
    FedAvg,
    FedDST,
    OneShotMagnitude,
    PruneFL,
    SparseModel,
    baselines,
    prunefl_select,
    snip_masks,
    snip_scores,
    sparse_average,
    synflow_masks,
    synflow_scores,
)
from normviz.testing import assert_resumes
from tests.federated.small import clients, convnet, images, mlp, randn, same_state

NAMES = ["0.0.weight", "1.0.weight", "2.1.weight"]


def total(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def prunable_budget(model, density):
    """By counting."""
    everything = sum(p.numel() for p in model.parameters())
    prunable = sum(model.get_parameter(name).numel() for name in NAMES)
    return int(density * everything) - (everything - prunable)


def chain():
    """A bias-free chain of layers."""
    return nn.Sequential(
        nn.Linear(6, 9, bias=False),
        nn.ReLU(),
        nn.Linear(9, 7, bias=False),
        nn.ReLU(),
        nn.Linear(7, 4, bias=False),
    ).double()


# ------------------------------------------------------------------------------------------- SNIP and SynFlow


def test_snip_is_gradient_times_weight():
    net, (x, y) = convnet(), images()[1]
    other = copy.deepcopy(net)
    F.cross_entropy(other.train()(x), y).backward()
    products = {name: (other.get_parameter(name).grad * other.get_parameter(name)).abs() for name in NAMES}
    whole = sum(float(p.detach().sum()) for p in products.values())
    before = copy.deepcopy(net.state_dict())
    scores = snip_scores(net, x, y)
    assert sum(float(s.sum()) for s in scores.values()) == pytest.approx(1)
    for name in NAMES:
        np.testing.assert_allclose(scores[name], products[name].detach().numpy() / whole, atol=1e-14)
        assert net.get_parameter(name).grad is None
    assert all(torch.equal(entry, net.state_dict()[n]) for n, entry in before.items())


def test_snip_masks_are_the_global_best():
    net, (x, y) = convnet(), images()[1]
    scores, masks = snip_scores(net, x, y), snip_masks(net, x, y, 0.3)
    keep = prunable_budget(net, 0.3)
    assert total(masks) == keep
    assert list(masks) == NAMES
    inside = torch.cat([scores[n][masks[n]] for n in NAMES])
    outside = torch.cat([scores[n][~masks[n]] for n in NAMES])
    assert inside.min() >= outside.max()


def test_check_12_synflow_conserves_the_flow_between_layers():
    net = chain()
    scores = synflow_scores(net, (6,))
    flows = [float(s.sum()) for s in scores.values()]
    assert flows[0] == pytest.approx(flows[1], rel=1e-12)
    assert flows[0] == pytest.approx(flows[2], rel=1e-12)
    product = np.ones((1, 6))
    for i in (0, 2, 4):
        product = product @ np.abs(net[i].weight.detach().numpy().T)
    assert flows[0] == pytest.approx(product.sum(), rel=1e-12), "the flow is 1^T prod |w| 1"
    w0, w2, w4 = (np.abs(net[i].weight.detach().numpy()) for i in (0, 2, 4))
    expected = w2 * np.outer(w4.sum(0), w0.sum(1))  # into and out of the weight
    np.testing.assert_allclose(scores["2.weight"], expected, rtol=1e-12)


def test_synflow_uses_absolute_parameters_and_buffers_and_leaves_the_model():
    net = convnet()
    net(images()[0][0])
    with torch.no_grad():
        net[0][1].bias.sub_(1.0)
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    scores = synflow_scores(net, (1, 6, 6))
    assert all(torch.equal(entry, net.state_dict()[n]) for n, entry in before.items())
    assert [m.training for m in net.modules()] == modes
    other = copy.deepcopy(net).eval()
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data.abs_()
    other(torch.ones(1, 1, 6, 6, dtype=torch.float64)).sum().backward()
    for name in NAMES:
        w = other.get_parameter(name)
        np.testing.assert_allclose(scores[name], (w * w.grad).abs().detach(), rtol=1e-12)
        assert scores[name].dtype == torch.float64


@pytest.mark.parametrize("iterations", [1, 7, 100])
def test_synflow_masks_keep_exactly_the_budget(iterations):
    net = convnet()
    masks = synflow_masks(net, (1, 6, 6), 0.2, iterations)
    assert total(masks) == prunable_budget(net, 0.2)
    assert list(masks) == NAMES


def test_synflow_masks_step_by_step():
    net, steps = chain(), 5
    keep = int(0.3 * 145)
    current = {name: torch.ones_like(p, dtype=torch.bool) for name, p in net.named_parameters()}
    for i in range(1, steps + 1):
        masked = copy.deepcopy(net)
        with torch.no_grad():
            for name, p in masked.named_parameters():
                p.mul_(current[name])
        scores = synflow_scores(masked, (6,))
        count = keep if i == steps else int(145 * (keep / 145) ** (i / steps))
        flat = np.concatenate([s.numpy().ravel() for s in scores.values()])
        chosen = np.zeros(145, bool)
        chosen[np.argsort(-flat, kind="stable")[:count]] = True
        parts = np.split(chosen, [54, 117])
        current = {
            name: torch.from_numpy(part.reshape(p.shape))
            for part, (name, p) in zip(parts, net.named_parameters(), strict=True)
        }
    found = synflow_masks(net, (6,), 0.3, steps)
    assert all(torch.equal(found[name], current[name]) for name in current)


def test_synflow_empties_no_layer_where_one_shot_would():
    net = chain()
    with torch.no_grad():
        net[2].weight.mul_(1e-3)
    masks = synflow_masks(net, (6,), 0.1)
    assert all(int(mask.sum()) > 0 for mask in masks.values())


@pytest.mark.parametrize("density", [0.0, 0.03, 1.5])
def test_budgets_that_are_refused(density):
    x, y = images()[0]
    with pytest.raises(ValueError, match="density"):
        snip_masks(convnet(), x, y, density)
    with pytest.raises(ValueError, match="density"):
        synflow_masks(convnet(), (1, 6, 6), density)
    with pytest.raises(ValueError, match="iterations"):
        synflow_masks(convnet(), (1, 6, 6), 0.5, 0)


def test_masks_train_with_fedavg():
    masks = synflow_masks(convnet(), (1, 6, 6), 0.3, 5)
    fixed = FedAvg(lambda: SparseModel.with_masks(convnet(), masks), images(), epochs=1).run(2)
    assert all(torch.equal(fixed.model.masks[name], mask) for name, mask in masks.items())
    assert torch.count_nonzero(fixed.model.model[1][0].weight) == int(masks["1.0.weight"].sum())


def test_one_shot_magnitude_is_fedavg_of_the_sparse_start():
    ours = OneShotMagnitude(convnet, images(), 0.3, epochs=1, seed=2, rule="ERK").run(2)
    plain = FedAvg(lambda: SparseModel(convnet(), 0.3, "ERK"), images(), epochs=1, seed=2).run(2)
    assert same_state(ours.model, plain.model)
    with pytest.raises(ValueError, match="rule"):
        OneShotMagnitude(convnet, images(), 0.3, rule="x")


# ------------------------------------------------------------------------------------------- PruneFL


def best_ratio(g2, t, constant):
    """The largest sum g2 / (c + sum t) over all non-empty sets, by trying all of them."""
    best = 0.0
    for bits in range(1, 2 ** len(g2)):
        chosen = [i for i in range(len(g2)) if bits >> i & 1]
        best = max(best, sum(g2[i] for i in chosen) / (constant + sum(t[i] for i in chosen)))
    return best


def test_prunefl_maximises_gain_per_time():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        g2, t, constant = rng.random(9) ** 3, 0.1 + rng.random(9), float(rng.random() * 2)
        chosen = prunefl_select(g2, t, constant).tolist()
        ratio = g2[chosen].sum() / (constant + t[chosen].sum())
        assert ratio == pytest.approx(best_ratio(g2, t, constant), rel=1e-12)
        assert chosen == sorted(chosen, key=lambda i: -g2[i] / t[i])


def test_prunefl_by_hand():
    assert prunefl_select([1.0, 9.0, 4.0], [1.0, 1.0, 1.0]).tolist() == [1]
    assert prunefl_select([2.0, 2.0, 1.0], [1.0, 1.0, 1.0]).tolist() == [0, 1], "equal ones enter"
    assert prunefl_select([0.0, 0.0], [1.0, 1.0]).tolist() == [0, 1]
    for arguments, name in (
        (([1.0], [0.0]), "t"),
        (([1.0], [1.0, 2.0]), "t"),
        (([1.0], [1.0], -1.0), "constant"),
    ):
        with pytest.raises(ValueError, match=name):
            prunefl_select(*arguments)


def test_prunefl_stays_within_the_budget():
    trainer = PruneFL(convnet, images(), 0.3, epochs=1, interval=2, stop=6)
    budget = prunable_budget(convnet(), 0.3)
    masks = [total(trainer.model.masks)]
    changed = []
    for _ in range(8):
        before = copy.deepcopy(trainer.model.masks)
        trainer.run(1)
        masks.append(total(trainer.model.masks))
        same = all(torch.equal(before[n], m) for n, m in trainer.model.masks.items())
        changed.append(not same)
        for name, mask in trainer.model.masks.items():
            assert int(mask.sum()) >= 1
            assert torch.count_nonzero(trainer.model.model.get_parameter(name)[~mask]) == 0
    assert max(masks) <= budget
    assert changed == [False, True, False, True, False, True, False, False]


def test_prunefl_with_a_small_constant_shrinks_below_the_budget():
    trainer = PruneFL(convnet, images(), 0.3, epochs=1, interval=1, stop=1, constant=0.0).run(1)
    assert 3 <= total(trainer.model.masks) < prunable_budget(convnet(), 0.3)


def test_prunefl_takes_the_largest_squared_gradients():
    """One client, one batch: the mask is that of the squared dense gradient per time, cut to the budget."""
    data = images((20,))
    trainer = PruneFL(convnet, data, 0.3, epochs=1, batch_size=20, interval=1, stop=1)
    start = SparseModel(convnet(), 0.3)
    plain = FedAvg(lambda: start, data, epochs=1, batch_size=20).run(1).model
    squares = {n: g.square() for n, g in plain.dense_gradients(*data[0]).items()}
    positions = {"0.0.weight": 36, "1.0.weight": 9, "2.1.weight": 1}
    ratio = torch.cat([squares[n].flatten() / positions[n] for n in NAMES]).numpy()
    trainer.run(1)
    mask = torch.cat([trainer.model.masks[n].flatten() for n in NAMES]).numpy()
    assert mask.sum() == prunable_budget(convnet(), 0.3), "without a constant of its own the budget is used"
    firsts = np.cumsum([0, *[squares[n].numel() for n in NAMES]])[:3]
    forced = {int(f + squares[n].flatten().argmax()) for f, n in zip(firsts, NAMES, strict=True)}
    order = [i for i in np.argsort(-ratio, kind="stable") if i not in forced]
    chosen = set(np.flatnonzero(mask)) - forced
    assert forced <= set(np.flatnonzero(mask))
    assert chosen == set(order[: len(chosen)])


# ------------------------------------------------------------------------------------------- FedDST


def test_the_sparse_average_is_over_those_that_have_a_weight():
    rng = np.random.default_rng(0)
    sizes = [3, 5, 2]
    w = rng.normal(size=(3, 4, 5))
    m = rng.random((3, 4, 5)) < 0.5
    expected = np.zeros((4, 5))
    for i in np.ndindex(4, 5):
        have = [k for k in range(3) if m[(k, *i)]]
        if have:
            expected[i] = sum(sizes[k] * w[(k, *i)] for k in have) / sum(sizes[k] for k in have)
    found = sparse_average(
        [{"a": torch.from_numpy(x)} for x in w], [{"a": torch.from_numpy(x)} for x in m], sizes
    )
    np.testing.assert_allclose(found["a"], expected, atol=1e-14)
    with pytest.raises(ValueError, match="sizes"):
        sparse_average([], [], [])


def test_feddst_keeps_the_number_of_active_weights():
    trainer = FedDST(convnet, images(), 0.3, epochs=2, interval=2, stop=8, adjust_rate=0.6)
    counts = {name: int(mask.sum()) for name, mask in trainer.model.masks.items()}
    changed = []
    for _ in range(8):
        before = copy.deepcopy(trainer.model.masks)
        trainer.run(1)
        changed.append(any(not torch.equal(before[n], m) for n, m in trainer.model.masks.items()))
        for name, mask in trainer.model.masks.items():
            assert int(mask.sum()) == counts[name]
            assert torch.count_nonzero(trainer.model.model.get_parameter(name)[~mask]) == 0
    assert changed[0::2] == [False] * 4
    assert any(changed[1::2])


def test_one_client_of_feddst_step_by_step():
    """With one client the server keeps what the client has: trained, exchanged, trained on."""
    data = images((16,))
    trainer = FedDST(convnet, data, 0.3, lr=0.1, epochs=2, batch_size=16, interval=1, stop=3, adjust_rate=0.8)
    by_hand = SparseModel(convnet(), 0.3)
    x, y = data[0]

    def epoch():
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
        by_hand.train()
        F.cross_entropy(by_hand(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    epoch()
    grads = by_hand.dense_gradients(x, y)
    for name, mask in by_hand.masks.items():
        w = by_hand.model.get_parameter(name).detach().numpy().ravel()
        active = mask.numpy().ravel()
        count = int(0.4 * (1 + np.cos(np.pi / 3)) * active.sum())
        g = grads[name].numpy().ravel()
        out = sorted(np.flatnonzero(active), key=lambda i: (abs(w[i]), i))[:count]
        into = sorted(np.flatnonzero(~active), key=lambda i: (-abs(g[i]), i))[:count]
        new = active.copy()
        new[out] = False
        new[into] = True
        by_hand.set_masks({name: torch.from_numpy(new.reshape(mask.shape))})
    epoch()
    trainer.run(1)
    for name, mask in by_hand.masks.items():
        assert torch.equal(trainer.model.masks[name], mask)
        torch.testing.assert_close(
            trainer.model.model.get_parameter(name), by_hand.model.get_parameter(name), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("kind", [OneShotMagnitude, PruneFL, FedDST])
def test_rivals_resume_and_depend_on_the_seed_alone(kind):
    options = {} if kind is OneShotMagnitude else {"interval": 1, "stop": 10}

    def make():
        return kind(mlp, clients(), 0.6, epochs=1, seed=3, batch_size=8, **options)

    def step(trainer, i):
        return dict(trainer.run(1).model.state_dict())

    assert_resumes(make, step)
    torch.manual_seed(1)
    first = make().run(2)
    torch.manual_seed(2)
    assert same_state(first.model, make().run(2).model)


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        (OneShotMagnitude, {"density": 0.0}, "density"),
        (PruneFL, {"density": 0.01}, "density"),
        (PruneFL, {"interval": 0}, "interval"),
        (PruneFL, {"constant": -1.0}, "constant"),
        (FedDST, {"adjust_rate": 0.0}, "adjust_rate"),
        (FedDST, {"epochs": 0}, "epochs"),
    ],
)
def test_bad_arguments(kind, arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        kind(**{"model_fn": mlp, "clients": clients(), "density": 0.6, **arguments})


def test_everything_is_in_one_place_and_examples_run():
    assert baselines.FedDST is FedDST
    assert randn(1).dtype == torch.float64
    for name in ("prunefl", "feddst", "saliency"):
        assert doctest.testmod(sys.modules[f"normviz.federated.{name}"]).failed == 0

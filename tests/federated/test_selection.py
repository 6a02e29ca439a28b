"""The candidates, the clients' statistics, their average, and the choice."""

from __future__ import annotations

import copy
import doctest
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.federated import (
    AdaptiveBNSelection,
    CandidatePool,
    SparseModel,
    aggregate_bn_stats,
    client_bn_stats,
    layer_densities,
    load_bn_stats,
    noisy_layer_densities,
    select_candidate,
    selection,
)
from tests.federated.small import clients, convnet, images, mlp, randn, same_state

SHAPES = {name: tuple(p.shape) for name, p in mlp().named_parameters()}
PRUNABLE = ["0.weight", "3.weight"]


# ------------------------------------------------------------------------------------------- candidates


def test_noisy_densities_by_hand():
    base = (41 - 19) / 64
    found = noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {"0.weight": 0.2, "3.weight": -0.1})
    d0, d3 = base + 0.2, base - 0.1
    scale = 22 / (40 * d0 + 24 * d3)
    assert found == pytest.approx({"0.weight": d0 * scale, "3.weight": d3 * scale})
    low = noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {"0.weight": -0.3, "3.weight": -5.0})
    assert low == pytest.approx({"0.weight": base - 0.3, "3.weight": 1 / 24}), "below the budget: no scaling"
    high = noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {"3.weight": 9.0})
    assert sum(high[n] * math.prod(SHAPES[n]) for n in PRUNABLE) == pytest.approx(22)
    assert noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {}, "ERK") == layer_densities(
        SHAPES, PRUNABLE, 0.5, "ERK"
    )
    with pytest.raises(ValueError, match="noise must be for prunable weights"):
        noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {"1.weight": 0.1})
    with pytest.raises(ValueError, match="noise"):
        noisy_layer_densities(SHAPES, PRUNABLE, 0.5, {"0.weight": math.nan})


def test_a_noisy_pool():
    net = mlp()
    before = copy.deepcopy(net)
    pool = CandidatePool(net, 0.5, 6, noise=0.4, seed=3)
    assert len(pool) == 6
    plain = SparseModel(mlp(), 0.5)
    assert all(torch.equal(m, plain.masks[n]) for n, m in pool[0].masks.items())
    base = 22 / 64
    seen = set()
    for c in range(6):
        candidate = pool[c]
        assert same_state(candidate, pool[c]), "the same each time"
        assert candidate.density() <= 0.5 + 1e-12
        densities = pool.layer_densities(c)
        assert all(d <= 1.4 * base + 1e-12 for d in densities.values())
        for name, mask in candidate.masks.items():
            keep = int(mask.sum())
            assert keep == max(1, int(mask.numel() * densities[name]))
            weight = net.get_parameter(name).detach()
            chosen = np.argsort(-weight.abs().numpy().ravel(), kind="stable")[:keep]
            assert set(np.flatnonzero(mask.numpy().ravel())) == set(chosen)
            assert torch.equal(candidate.model.get_parameter(name), weight * mask)
        seen.add(tuple(int(m.sum()) for m in candidate.masks.values()))
    assert len(seen) > 2
    assert same_state(net, before)
    with torch.no_grad():
        net[0].weight.zero_()
    assert torch.count_nonzero(pool[1].model[0].weight) > 0, "the pool has its own copy"
    with pytest.raises(IndexError, match="candidate"):
        pool[6]


def test_a_pool_of_seeds():
    pool = CandidatePool(mlp(), 0.6, 3, pool="seed", seed=7)
    for c in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(7 + c)
            expected = [
                nn.init.kaiming_normal_(torch.empty(s, dtype=torch.float64)) for s in ((8, 5), (3, 8))
            ]
        candidate = pool[c]
        for name, w in zip(PRUNABLE, expected, strict=True):
            mask = candidate.masks[name]
            assert torch.equal(candidate.model.get_parameter(name), w * mask)
            assert int(mask.sum()) == int(mask.numel() * (int(0.6 * 83) - 19) / 64)
    assert not same_state(pool[0], pool[1])


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"size": 0}, "size"),
        ({"pool": "random"}, "pool"),
        ({"noise": -0.1}, "noise"),
        ({"rule": "erk"}, "rule"),
        ({"density": 0.1}, "density"),
        ({"seed": -1}, "seed"),
    ],
)
def test_pools_that_are_refused(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        CandidatePool(**{"model": mlp(), "density": 0.5, "size": 3, **arguments})


# ------------------------------------------------------------------------------------------- statistics


def test_client_statistics_are_the_plain_mean_over_batches():
    """Two norms in a row, in NumPy: the second one sees what the first makes of each batch's own statistics."""
    net = nn.Sequential(nn.BatchNorm1d(4, momentum=0.3), nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    with torch.no_grad():
        net[0].weight.copy_(randn(4, seed=1))
        net[0].bias.copy_(randn(4, seed=2))
    batches = [(randn(n, 4, seed=n) * 2 + 1, torch.zeros(n)) for n in (6, 3, 5)]
    found = client_bn_stats(net, batches)
    means, variances = ([[], []] for _ in range(2))
    w, b = net[1].weight.detach().numpy(), net[1].bias.detach().numpy()
    for x, _ in batches:
        z = x.numpy()
        means[0].append(z.mean(0))
        variances[0].append(z.var(0, ddof=1))
        hat = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
        h = (hat * net[0].weight.detach().numpy() + net[0].bias.detach().numpy()) @ w.T + b
        means[1].append(h.mean(0))
        variances[1].append(h.var(0, ddof=1))
    for i, name in enumerate(("0", "2")):
        np.testing.assert_allclose(found[name][0], np.mean(means[i], 0), atol=1e-12)
        np.testing.assert_allclose(found[name][1], np.mean(variances[i], 0), atol=1e-12)


def test_client_statistics_leave_the_model_as_it_was():
    sparse = SparseModel(convnet(), 0.4)
    x, y = images()[0]
    sparse(x)
    sparse.model[0].eval()
    sparse.model[0][1].momentum = 0.37
    state = {name: entry.clone() for name, entry in sparse.state_dict().items()}
    modes = [m.training for m in sparse.modules()]
    found = client_bn_stats(sparse, [(x[:5], y[:5]), (x[5:], y[5:])])
    assert list(found) == ["0.1", "1.1"], "names of the plain network"
    assert all(torch.equal(entry, sparse.state_dict()[name]) for name, entry in state.items())
    assert [m.training for m in sparse.modules()] == modes
    assert sparse.model[0][1].momentum == 0.37
    inner = client_bn_stats(sparse.model, [(x[:5], y[:5]), (x[5:], y[5:])])
    assert torch.equal(found["1.1"][1], inner["1.1"][1])


def test_nothing_is_left_of_the_servers_statistics():
    net = convnet()
    x, y = images()[0]
    first = client_bn_stats(net, [(x, y)])
    for norm in (net[0][1], net[1][1]):
        norm.running_mean.fill_(1e3)
        norm.running_var.fill_(1e6)
    second = client_bn_stats(net, [(x, y)])
    assert all(torch.equal(a, b) for n in first for a, b in zip(first[n], second[n], strict=True))


def test_a_model_without_batch_norm_has_no_statistics():
    x, y = clients()[0]
    assert client_bn_stats(nn.Linear(5, 3).double(), [(x, y)]) == {}
    untracked = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    assert client_bn_stats(untracked, [(x, y)]) == {}


def test_a_batch_of_one_value_is_skipped():
    x, y = clients()[0]
    whole = client_bn_stats(mlp(), [(x[:4], y[:4])])
    with_one = client_bn_stats(mlp(), [(x[:4], y[:4]), (x[4:5], y[4:5])])
    assert torch.equal(whole["1"][0], with_one["1"][0])
    net = mlp()
    assert client_bn_stats(net, [(x[:1], y[:1])]) == {}
    assert same_state(net, mlp())


def test_check_7_pooled_statistics_are_those_of_all_data():
    sizes = [5, 9, 30]
    data = [randn(n, 4, seed=n) * (1 + n / 10) + n for n in sizes]
    stats = [{"bn": (z.mean(0), z.var(0, correction=0))} for z in data]
    everything = torch.cat(data).numpy()
    mean, variance = aggregate_bn_stats(stats, sizes, "pooled")["bn"]
    np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, everything.var(0), rtol=1e-12)
    _, weighted = aggregate_bn_stats(stats, sizes)["bn"]
    assert bool((weighted < variance).all())
    np.testing.assert_allclose(
        weighted, sum(n * z.numpy().var(0) for n, z in zip(sizes, data, strict=True)) / 44, rtol=1e-12
    )


def test_check_7_equal_means_make_both_modes_equal():
    mean = randn(4)
    stats = [{"bn": (mean, randn(4, seed=s) ** 2)} for s in range(3)]
    for a, b in zip(
        aggregate_bn_stats(stats, [1, 2, 3])["bn"],
        aggregate_bn_stats(stats, [1, 2, 3], "pooled")["bn"],
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_statistics_that_do_not_fit():
    stats = {"a": (torch.zeros(2), torch.ones(2))}
    with pytest.raises(ValueError, match="mode must be one of"):
        aggregate_bn_stats([stats], [1], "mean")
    with pytest.raises(ValueError, match="stats must hold the same layers"):
        aggregate_bn_stats([stats, {}], [1, 1])
    with pytest.raises(ValueError, match="stats must hold"):
        aggregate_bn_stats([], [])
    with pytest.raises(ValueError, match="sizes"):
        aggregate_bn_stats([stats], [1, 1])
    with pytest.raises(ValueError, match="stats must be of batch norms"):
        load_bn_stats(mlp(), stats)


def test_statistics_are_loaded_in_place():
    sparse = SparseModel(mlp(), 0.5)
    buffer = sparse.model[1].running_var
    load_bn_stats(sparse, {"1": (torch.arange(8.0), torch.arange(8.0) + 1)})
    assert torch.equal(sparse.model[1].running_mean, torch.arange(8.0, dtype=torch.float64))
    assert sparse.model[1].running_var is buffer
    assert torch.equal(buffer, torch.arange(8.0, dtype=torch.float64) + 1)


# ------------------------------------------------------------------------------------------- choice


def test_check_8_the_lowest_mean_loss_is_chosen():
    losses = [[3, 1, 2], [1, 2.5, 2]]
    index, means = select_candidate(losses)
    assert index == 1
    assert means.tolist() == [2, 1.75, 2]
    assert select_candidate(losses, [1, 9])[0] == 0
    assert select_candidate(torch.tensor([[2.0, 1.0, 1.0]]))[0] == 1, "the first of equal ones"


def test_a_nan_loss_excludes_its_candidate():
    index, means = select_candidate([[math.nan, 5.0, 4.0], [0.0, 1.0, math.inf]])
    assert index == 1
    assert math.isnan(means[0])
    with pytest.raises(RuntimeError, match="NaN"):
        select_candidate([[math.nan, math.nan]])
    for losses in ([], [1.0, 2.0]):
        with pytest.raises(ValueError, match="losses must be"):
            select_candidate(losses)
    with pytest.raises(ValueError, match="sizes"):
        select_candidate([[1.0]], [1, 2])


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("mode", ["weighted", "pooled"])
def test_the_selection_step_by_step(adapt, mode):
    """The whole of it by hand from the parts: statistics per client, average, losses of everybody under the average."""
    pool, data = CandidatePool(convnet(), 0.4, 4, seed=1), images()
    chosen = AdaptiveBNSelection(pool, data, 0.5, adapt, mode, batch_size=4, seed=2)
    result = chosen.run()
    assert [len(x) for x, _ in chosen.development] == [6, 10, 3]
    expected = np.empty((3, 4))
    for c in range(4):
        model = pool[c]
        if adapt:
            batches = [[(x[i : i + 4], None) for i in range(0, len(x), 4)] for x, _ in chosen.development]
            stats = [client_bn_stats(model, loader) for loader in batches]
            load_bn_stats(model, aggregate_bn_stats(stats, [6, 10, 3], mode))
        model.eval()
        for k, (x, y) in enumerate(chosen.development):
            with torch.no_grad():
                expected[k, c] = F.cross_entropy(model(x), y)
        if c == chosen.index:
            assert same_state(model, result)
    np.testing.assert_allclose(chosen.losses, expected, atol=1e-12)
    np.testing.assert_allclose(chosen.mean_losses, expected.mean(0), atol=1e-12)
    assert chosen.index == int(expected.mean(0).argmin())


def test_losses_can_count_by_samples():
    pool = CandidatePool(convnet(), 0.4, 3)
    chosen = AdaptiveBNSelection(pool, images(), 1.0, sample_weighted=True)
    chosen.run()
    np.testing.assert_allclose(
        chosen.mean_losses, np.array([12, 20, 7]) / 39 @ chosen.losses.numpy(), atol=1e-12
    )


def test_development_data():
    data = images((40, 12, 1))
    chosen = AdaptiveBNSelection(CandidatePool(convnet(), 0.4, 2), data)
    assert [len(x) for x, _ in chosen.development] == [4, 2, 1]
    again = AdaptiveBNSelection(CandidatePool(convnet(), 0.4, 2), data)
    other = AdaptiveBNSelection(CandidatePool(convnet(), 0.4, 2), data, seed=1)
    assert torch.equal(chosen.development[0][0], again.development[0][0])
    assert not torch.equal(chosen.development[0][0], other.development[0][0])
    own = {tuple(x.flatten().tolist()) for x in data[0][0]}
    drawn = {tuple(x.flatten().tolist()) for x in chosen.development[0][0]}
    assert len(drawn) == 4
    assert drawn <= own


def test_the_given_candidates_are_not_changed():
    candidates = [SparseModel(convnet(s), 0.4) for s in range(2)]
    before = copy.deepcopy(candidates)
    AdaptiveBNSelection(candidates, images()).run()
    assert all(same_state(a, b) for a, b in zip(candidates, before, strict=True))


def test_a_broken_candidate_is_not_chosen():
    candidates = [SparseModel(convnet(s), 0.4) for s in range(3)]
    with torch.no_grad():
        candidates[0].model[2][1].bias.fill_(math.nan)
    chosen = AdaptiveBNSelection(candidates, images())
    chosen.run()
    assert chosen.index != 0
    assert math.isnan(chosen.mean_losses[0])


def test_without_batch_norm_the_selection_is_vanilla():
    pool = CandidatePool(nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)).double(), 0.6, 3)
    adapted = AdaptiveBNSelection(pool, clients())
    with pytest.warns(UserWarning, match="no batch norm"):
        adapted.run()
    vanilla = AdaptiveBNSelection(pool, clients(), adapt=False)
    vanilla.run()
    assert torch.equal(adapted.losses, vanilla.losses)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"dev_fraction": 0.0}, "dev_fraction"),
        ({"dev_fraction": 1.5}, "dev_fraction"),
        ({"mode": "sum"}, "mode"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"pool": []}, "pool"),
        ({"clients": []}, "clients"),
    ],
)
def test_selections_that_are_refused(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        AdaptiveBNSelection(**{"pool": CandidatePool(mlp(), 0.5, 2), "clients": clients(), **arguments})


def test_examples():
    assert doctest.testmod(selection).failed == 0

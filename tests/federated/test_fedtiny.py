"""FedTiny whole: against NumPy over 24 rounds, its invariants, its settings, its resumption."""

from __future__ import annotations

import copy
import doctest
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from normviz.federated import FedAvg, FedTiny, SparseModel, adjust_count
from normviz.testing import assert_resumes
from tests.federated import numpy_fedtiny
from tests.federated.small import clients, convnet, images, mlp, same_state

SETTING = {"rounds": 24, "interval": 2, "stop": 20, "lr": 0.3, "epochs": 2, "momentum": 0.5}


def as_numpy(model):
    state = {name: entry.numpy().copy() for name, entry in model.model.state_dict().items()}
    p = {n: state[n] for n in ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias")}
    masks = {name: mask.numpy().copy() for name, mask in model.masks.items()}
    return p, (state["1.running_mean"], state["1.running_var"]), masks


def trainer(**options):
    given = {"pool_size": 1, "interval": 2, "stop": 12, "lr": 0.1, "epochs": 1, "batch_size": 8, **options}
    return FedTiny(convnet, images(), 0.4, **given)


def test_selection_and_24_rounds_against_numpy():
    data = [(x.numpy(), y.numpy()) for x, y in clients()]
    ours = FedTiny(
        mlp,
        clients(),
        0.6,
        4,
        SETTING["interval"],
        SETTING["stop"],
        0.6,
        "entire",
        dev_fraction=1.0,
        lr=SETTING["lr"],
        epochs=SETTING["epochs"],
        momentum=SETTING["momentum"],
        batch_size=64,
        seed=4,
    )
    candidates = [as_numpy(ours._pool[c])[0] for c in range(4)]
    best, losses, stats = numpy_fedtiny.select(candidates, data)
    ours.run(0)
    np.testing.assert_allclose(ours.selection.losses, losses, atol=1e-12)
    assert ours.selection.index == best
    p, found, masks = as_numpy(ours.model)
    np.testing.assert_allclose(found, stats, atol=1e-12)
    worst, exchanged = 0.0, 0
    reference = numpy_fedtiny.run(p, stats, masks, data, rate=0.6, **SETTING)
    for p, stats, masks, grown, pruned in reference:
        ours.run(1)
        q, own_stats, own_masks = as_numpy(ours.model)
        worst = max(worst, *(abs(q[n] - p[n]).max() for n in p), abs(np.array(own_stats) - stats).max())
        assert all(np.array_equal(own_masks[n], masks[n]) for n in masks)
        assert {n: i.tolist() for n, i in ours.last["grown"].items()} == grown
        assert {n: i.tolist() for n, i in ours.last["pruned"].items()} == pruned
        exchanged += sum(map(len, grown.values()))
    assert worst < 1e-11
    assert exchanged > 10, "the masks did move"


@pytest.mark.parametrize("granularity", ["block", "layer", "entire"])
@pytest.mark.parametrize("upload", ["topk", "dense"])
def test_check_10_zeros_stay_and_masks_move_when_and_where_they_should(granularity, upload):
    tiny = trainer(granularity=granularity, upload=upload, adjust_rate=0.5, momentum=0.9)
    tiny.run(0)
    counts = {name: int(mask.sum()) for name, mask in tiny.model.masks.items()}
    moved = 0
    for r in range(1, 15):
        before = {name: mask.clone() for name, mask in tiny.model.masks.items()}
        tiny.run(1)
        names = tiny.schedule.names(r)
        assert bool(names) == (r % 2 == 0 and r <= 12)
        for name, mask in tiny.model.masks.items():
            weight = tiny.model.model.get_parameter(name)
            assert torch.count_nonzero(weight[~mask]) == 0
            assert int(mask.sum()) == counts[name]
            if name not in names:
                assert torch.equal(mask, before[name])
                assert name not in tiny.last["grown"]
                continue
            count = adjust_count(r, 12, counts[name], 0.5)
            grown, pruned = tiny.last["grown"][name], tiny.last["pruned"][name]
            assert len(grown) == len(pruned) == min(count, counts[name], mask.numel() - counts[name])
            flat = mask.flatten()
            assert bool(flat[grown].all())
            assert not bool(flat[pruned].any())
            assert torch.count_nonzero(weight.flatten()[grown]) == 0
            moved += len(grown)
        assert tiny.last["round"] == r
        assert tiny.last["block"] == tiny.schedule.block(r)
    assert moved > 10


def test_blocks_are_the_children_of_the_network():
    assert trainer().schedule.blocks == [["0.0.weight"], ["1.0.weight"], ["2.1.weight"]]
    own = trainer(blocks=[["1.0.weight", "0.0.weight"], ["2.1.weight"]], order="forward")
    assert own.schedule.names(2) == ["1.0.weight", "0.0.weight"]
    with pytest.raises(ValueError, match="blocks must name prunable weights"):
        trainer(blocks=[["0.1.weight"]])


def test_before_the_first_run():
    tiny = trainer(pool_size=3, seed=1)
    assert tiny.selection is None
    assert tiny.round == 0
    assert isinstance(tiny.model, SparseModel)
    assert tiny.last == {"round": 0, "block": None, "names": [], "grown": {}, "pruned": {}}
    tiny.run(0)
    assert tiny.selection.index in (0, 1, 2)
    assert tiny.round == 0
    assert tiny.selection.losses.shape == (3, 3)


def test_the_selected_candidate_is_the_start():
    tiny = trainer(pool_size=4, seed=2, noise=0.9).run(0)
    chosen = tiny.selection.pool[tiny.selection.index]
    assert all(torch.equal(m, chosen.masks[n]) for n, m in tiny.model.masks.items())
    assert torch.equal(tiny.model.model[1][0].weight, chosen.model[1][0].weight)
    assert not torch.equal(tiny.model.model[1][1].running_mean, chosen.model[1][1].running_mean)
    vanilla = trainer(pool_size=4, seed=2, noise=0.9, adapt=False).run(0)
    assert torch.equal(vanilla.model.model[1][1].running_mean, torch.zeros(8, dtype=torch.float64))


def test_the_size_of_the_pool():
    assert FedTiny(convnet, images(), 0.4).pool_size == 1
    assert FedTiny(convnet, images(), 0.06).pool_size == 2
    plain = trainer(adapt=False).run(0)
    assert plain.selection is None
    assert same_state(plain.model, SparseModel(convnet(), 0.4))
    adapted = trainer(adapt=True).run(0)
    assert len(adapted.selection.pool) == 1
    assert all(torch.equal(m, plain.model.masks[n]) for n, m in adapted.model.masks.items())
    assert not torch.equal(adapted.model.model[0][1].running_mean, plain.model.model[0][1].running_mean), (
        "a pool of one still gets its statistics"
    )


def test_a_pool_of_seeds():
    tiny = trainer(pool_size=3, pool="seed", seed=1).run(1)
    assert tiny.selection.pool.pool == "seed"


def test_without_adjustments_it_is_fedavg_of_the_masked_network():
    with pytest.warns(UserWarning, match="stop"):
        tiny = trainer(adapt=False, interval=5, stop=4, seed=3)
    plain = FedAvg(lambda: SparseModel(convnet(), 0.4), images(), lr=0.1, epochs=1, batch_size=8, seed=3)
    assert same_state(tiny.run(3).model, plain.run(3).model)
    assert tiny.last["block"] is None


@pytest.mark.parametrize("grad_mode", ["batch", "single", "entire", "random"])
def test_data_of_the_gradient(grad_mode):
    tiny = trainer(grad_mode=grad_mode, adjust_rate=0.9, granularity="entire", interval=1, stop=2)
    generator = torch.Generator().manual_seed(0)
    x, y = tiny._gradient_data(1, generator)
    assert len(x) == len(y) == {"batch": 8, "single": 2, "entire": 20, "random": 8}[grad_mode]
    if grad_mode == "single":
        assert torch.equal(x[0], x[1])
    tiny.run(1)
    assert sum(map(len, tiny.last["grown"].values())) > 0


def test_random_growth_differs_from_that_by_gradients():
    options = {"adjust_rate": 0.9, "granularity": "entire", "interval": 1, "stop": 2}
    masks = [trainer(grad_mode=mode, **options).run(1).model.masks for mode in ("entire", "random")]
    assert any(not torch.equal(masks[0][name], masks[1][name]) for name in masks[0])


def test_dense_uploads_of_one_client_equal_its_top_k():
    data = images((20,))
    one, other = (
        FedTiny(convnet, data, 0.4, 1, 1, 4, epochs=1, upload=upload, adjust_rate=0.5).run(3)
        for upload in ("topk", "dense")
    )
    assert same_state(one.model, other.model)


def test_growing_from_all_inactive_weights_keeps_the_counts():
    tiny = trainer(grow_from="all_inactive", upload="dense", granularity="entire", adjust_rate=0.9)
    counts = {name: int(mask.sum()) for name, mask in tiny.model.masks.items()}
    tiny.run(4)
    assert {name: int(mask.sum()) for name, mask in tiny.model.masks.items()} == counts


def test_run_goes_on_and_selects_once():
    once, twice = trainer(pool_size=3), trainer(pool_size=3)
    seen = []
    once.run(4, lambda t: seen.append((t.round, t.last["round"])))
    assert seen == [(1, 1), (2, 2), (3, 3), (4, 4)]
    first = twice.run(2).selection
    assert twice.run(2).selection is first
    assert same_state(once.model, twice.model)


def test_it_resumes_in_a_fresh_object():
    def step(tiny, i):
        tiny.run(1)
        return [dict(tiny.model.state_dict()), tiny.round, tiny.last["grown"]]

    assert_resumes(lambda: trainer(pool_size=3, interval=1, adjust_rate=0.6), step)
    done, fresh = trainer(pool_size=3).run(3), trainer(pool_size=3)
    fresh.load_state_dict(done.state_dict())
    assert fresh.run(1).selection is None, "no selection again"
    assert same_state(fresh.model, done.run(1).model)


def test_resuming_before_the_first_run_selects():
    fresh = trainer(pool_size=3)
    fresh.load_state_dict(trainer(pool_size=3).state_dict())
    assert fresh.run(0).selection is not None


def test_random_choices_depend_on_the_seed_alone():
    torch.manual_seed(1)
    first = trainer(pool_size=3, clients_per_round=2, seed=5).run(3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = trainer(pool_size=3, clients_per_round=2, seed=5).run(3)
    assert torch.equal(before, torch.get_rng_state())
    assert same_state(first.model, second.model)
    assert not same_state(first.model, trainer(pool_size=3, clients_per_round=2, seed=6).run(3).model)


def test_a_client_of_one_sample_uploads_nothing():
    data = clients((1, 12))
    tiny = FedTiny(mlp, data, 0.6, 1, 1, 4, 0.9, epochs=1)
    tiny.run(1)
    assert tiny._uploads[0] == {}
    assert sum(map(len, tiny.last["grown"].values())) > 0
    alone = FedTiny(mlp, [data[0]], 0.6, 1, 1, 4, 0.9, epochs=1, adapt=False).run(2)
    assert all(len(i) == 0 for i in alone.last["grown"].values())


def test_a_model_without_batch_norm():
    def net():
        return nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3)).double()

    with pytest.warns(UserWarning, match="no batch norm"):
        FedTiny(net, clients(), 0.6, pool_size=2, interval=1, stop=2, epochs=1).run(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FedTiny(net, clients(), 0.6, pool_size=2, interval=1, stop=2, epochs=1, adapt=False).run(1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 0.05}, "density"),
        ({"pool_size": 0}, "pool_size"),
        ({"interval": 0}, "interval"),
        ({"adjust_rate": 0.0}, "adjust_rate"),
        ({"grad_mode": "all"}, "grad_mode"),
        ({"rule": "erk"}, "rule"),
        ({"pool": "x"}, "pool"),
        ({"noise": -1.0}, "noise"),
        ({"dev_fraction": 0.0}, "dev_fraction"),
        ({"order": "x"}, "order"),
        ({"granularity": "x"}, "granularity"),
        ({"grow_from": "x"}, "grow_from"),
        ({"upload": "x"}, "upload"),
        ({"clients": []}, "clients"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        FedTiny(**{"model_fn": mlp, "clients": clients(), "density": 0.5, **arguments})


def test_copies_go_on_alike():
    tiny = trainer(pool_size=2).run(2)
    other = copy.deepcopy(tiny)
    assert same_state(tiny.run(2).model, other.run(2).model)


def test_examples():
    assert doctest.testmod(sys.modules["normviz.federated.fedtiny"]).failed == 0

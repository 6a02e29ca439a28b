"""The experiment's own mathematics: clients, costs, masks as pictures, rank correlations, curves in the browser."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from normviz.data import load_digits
from normviz.experiments.federated_pruning import EXPERIMENT, Knobs, run
from normviz.experiments.federated_pruning.candidates import candidate_losses, pool_of
from normviz.experiments.federated_pruning.clients import build_federation
from normviz.experiments.federated_pruning.costs import Adjustment, round_cost
from normviz.experiments.federated_pruning.exchange_curves import (
    ACTIVE,
    EXCHANGED,
    exchange_figure,
    format_figure,
)
from normviz.experiments.federated_pruning.frames import cells, exchanged
from normviz.experiments.federated_pruning.knobs import METHODS, arm_name, candidate_name
from normviz.experiments.federated_pruning.layers import DENSE, LAYERS, PARAMETERS, PRUNABLE
from normviz.experiments.federated_pruning.learners import adjustment_of, build_candidate, build_learner
from normviz.experiments.federated_pruning.mask_picture import places
from normviz.experiments.federated_pruning.ranking import ranking_gain
from normviz.experiments.federated_pruning.recorded import ENTERED, GROWN, KEPT, PRUNED
from normviz.experiments.rank_correlation import spearman
from normviz.federated import (
    AdaptiveBNSelection,
    FedTiny,
    SparseModel,
    adjust_count,
    device_memory,
    layer_densities,
    model_macs,
    sparse_bytes,
)
from normviz.frame import Frame, FrameLog

CPU = torch.device("cpu")
SMALL = {"clients": 3, "pool_size": 2, "interval": 1, "rounds": 3, "seeds": 1}


@cache
def federation(seed=3, **values):
    return build_federation(Knobs(**{**SMALL, **values}), seed, CPU)


@cache
def small_run():
    return run(Knobs(**SMALL, arms=("fedtiny", "one_shot", "dense"), adjust_rate=1.0), device="cpu")


# ------------------------------------------------------------------------------------------- network and data


def test_the_layers_are_those_of_the_network():
    net = federation().network()
    weights = {name: p for name, p in net.named_parameters() if p.ndim > 1}
    assert list(weights) == [layer.weight for layer in LAYERS]
    for layer, w in zip(LAYERS, weights.values(), strict=True):
        side = () if layer.side == 1 else (layer.side, layer.side)
        assert tuple(w.shape) == (layer.outputs, layer.inputs, *side)
        assert layer.size == w.numel()
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS == 14458
    assert (PRUNABLE, DENSE) == (14288, 170)
    macs = model_macs(net, (1, 8, 8))
    assert [macs[layer.weight] for layer in LAYERS] == [layer.size * layer.macs for layer in LAYERS]


def test_the_data_belong_to_server_clients_or_test():
    given, data = federation(), load_digits(seed=3)
    public, clients = given.public[0], [x for x, _ in given.clients]
    everything = torch.cat([public, *clients])
    assert len(public) == 100
    assert sorted(map(tuple, everything.flatten(1).tolist())) == sorted(
        map(tuple, data.x_train.flatten(1).tolist())
    )
    assert torch.equal(given.test[0], data.x_test)
    for (_, y), counts in zip(given.clients, given.counts, strict=True):
        assert np.bincount(y, minlength=10).tolist() == counts.tolist()


def test_alpha_makes_clients_alike():
    alike, unlike = (federation(alpha=alpha, clients=8).counts for alpha in (10.0, 0.05))
    share = [(c.max(1) / c.sum(1)).mean() for c in (alike, unlike)]
    assert share[0] < 0.35 < share[1]


def test_the_servers_network_is_the_same_each_time_and_of_the_seed():
    first, again = (federation().network().state_dict() for _ in range(2))
    assert all(torch.equal(entry, again[name]) for name, entry in first.items())
    other = federation(seed=4).network().state_dict()
    assert not torch.equal(first["head.weight"], other["head.weight"])


# ------------------------------------------------------------------------------------------- learners


@pytest.mark.parametrize("kind", METHODS)
def test_every_arm_runs_and_keeps_its_budget(kind):
    knobs = Knobs(**SMALL, learning_rate=0.3)
    learner = build_learner(kind, knobs, federation())
    learner.run(1)
    if kind == "dense":
        assert not isinstance(learner.model, SparseModel)
        assert adjustment_of(learner, 400.0) is None
        return
    assert isinstance(learner.model, SparseModel)
    assert 0.5 * knobs.density < learner.model.density() <= knobs.density
    expected = (
        None if kind in ("one_shot", "fixed", "snip", "synflow") else [layer.weight for layer in LAYERS]
    )
    adjustment = adjustment_of(learner, 400.0)
    assert (adjustment is None) == (expected is None)
    if adjustment is not None:
        assert set(adjustment.names) <= set(expected)
        assert adjustment.dense == (kind in ("prunefl", "clean"))
        assert adjustment.samples == (400.0 if kind == "prunefl" else 32.0)
        first = {"fedtiny": "head.weight", "vanilla": "head.weight", "forward": "blocks.0.conv.weight"}
        if kind in first:
            assert list(adjustment.names) == [first[kind]]


def test_one_candidate_is_trained_as_if_it_had_been_selected():
    knobs = Knobs(**SMALL)
    chosen = _selection(knobs, True)
    start = chosen.run().state_dict()
    learner = build_candidate(chosen.index, knobs, federation())
    tiny = build_learner("fedtiny", knobs, federation())
    assert isinstance(tiny, FedTiny)
    assert tiny.selection.index == chosen.index
    for other in (learner, tiny):
        assert all(torch.equal(entry, other.model.state_dict()[name]) for name, entry in start.items())
    assert learner.run(1).selection is None
    state = tiny.run(1).model.state_dict()
    assert all(torch.equal(entry, learner.model.state_dict()[name]) for name, entry in state.items())


def _selection(knobs, adapt):
    given = federation()
    return AdaptiveBNSelection(
        pool_of(knobs, given), given.clients, knobs.dev_fraction, adapt, batch_size=32, seed=given.seed
    )


def test_the_table_of_candidates_fills():
    knobs = Knobs(**{**SMALL, "pool_size": 3})
    tables = list(candidate_losses(knobs, federation()))
    assert [int(np.isfinite(table).all(1).sum()) for table in tables] == [1, 2, 3]
    for column, adapt in enumerate((False, True)):
        selection = _selection(knobs, adapt)
        selection.run()
        np.testing.assert_allclose(tables[-1][:, column], selection.mean_losses, rtol=1e-6)


# ------------------------------------------------------------------------------------------- costs


def test_costs_by_hand():
    dense = federation().network()
    macs = 144 * 64 + 4608 * 16 + 9216 * 4 + 320
    cost = round_cost(dense, (1, 8, 8), 100, 2)
    assert cost.flops == 6 * macs * 100 * 2
    assert cost.memory == 2 * 4 * 14458
    assert cost.sent == 2 * 4 * (14458 + 160)
    sparse = SparseModel(dense, 0.042)
    counts = [int(mask.sum()) for mask in sparse.masks.values()]
    assert counts == [4, 139, 279, 9] or sum(counts) <= 437
    own = sum(n * layer.macs for n, layer in zip(counts, LAYERS, strict=True))
    names = ["blocks.2.conv.weight"]
    adjustment = Adjustment(names, samples=32, pairs=50)
    cost = round_cost(sparse, (1, 8, 8), 100, 2, adjustment=adjustment, masks_changed=True, pool_size=4)
    assert cost.flops == 6 * own * 200 + 2 * (9216 - counts[2]) * 4 * 32
    assert cost.memory == device_memory(sparse, topk=50)
    bitmaps = sum(-(-layer.size // 8) for layer in LAYERS)
    values = 2 * 4 * (sum(counts) + 170 + 160)
    assert cost.sent == values + 8 * 50 + bitmaps + 2 * 4 * 2 * 80 * 4 + 4 * 4
    heavy = Adjustment(names, samples=32, dense=True)
    assert round_cost(sparse, (1, 8, 8), 100, 2, adjustment=heavy).sent == values + 4 * (9216 - counts[2])
    own_masks = Adjustment(names, samples=32, pairs=50, uploads_pairs=False, masks_up=True)
    assert round_cost(sparse, (1, 8, 8), 100, 2, adjustment=own_masks).sent == values + 9216 // 8


def test_dense_training_costs_what_it_costs():
    log = small_run().log
    for name in ("flops", "memory", "sent"):
        table = log.scalars(name)
        dense = table[table["arm"] == "Dense FedAvg"]["value"]
        assert len(dense) == 3
        np.testing.assert_allclose(dense, 1.0, rtol=1e-12)
        tiny = table[table["arm"] == "FedTiny"]["value"]
        assert float(tiny.max()) < 0.2


# ------------------------------------------------------------------------------------------- masks


def masks(seed):
    rng = np.random.default_rng(seed)
    shapes = {la.weight: (la.outputs, la.inputs, *([la.side] * 2 if la.side > 1 else [])) for la in LAYERS}
    return {name: torch.from_numpy(rng.random(shape) < 0.3) for name, shape in shapes.items()}


def test_cells_say_what_became_of_each_weight():
    start, before, after = masks(0), masks(1), masks(2)
    rows = cells(start, before, after)
    assert len(set(map(tuple, rows[:, :2].tolist()))) == len(rows), "no weight twice"
    for place, layer in enumerate(LAYERS):
        s, b, a = (m[layer.weight].flatten().numpy() for m in (start, before, after))
        own = {int(index): int(kind) for at, index, kind in rows if at == place}
        for i in range(layer.size):
            if a[i] and not b[i]:
                expected = GROWN
            elif b[i] and not a[i]:
                expected = PRUNED
            elif a[i]:
                expected = KEPT if s[i] else ENTERED
            else:
                expected = None
            assert own.get(i) == expected
    assert len(cells({}, {}, {})) == 0, "a dense network has none"


def test_exchanged_weights_are_counted_for_layers_that_were_asked():
    before, after = masks(1), masks(2)
    name = LAYERS[1].weight
    found = exchanged(before, after, [name])
    assert np.isnan(found[[0, 2, 3]]).all()
    assert found[1] == int((after[name] & ~before[name]).sum())


@pytest.mark.parametrize("place", range(4))
def test_places_are_those_of_a_table_of_kernels(place):
    layer = LAYERS[place]
    weights = np.arange(layer.size).reshape(layer.outputs, layer.inputs, layer.side, layer.side)
    table = weights.transpose(1, 2, 0, 3).reshape(layer.inputs * layer.side, layer.outputs * layer.side)
    column, row, columns, rows = places(place, np.arange(layer.size))
    assert table.shape == (rows, columns)
    np.testing.assert_array_equal(table[row, column], np.arange(layer.size))


def test_the_picture_shows_the_arm_in_focus_else_the_reference():
    figure = small_run().figures(names=["mask"])["mask"]
    drawn = figure.data[figure.data["what"] == "cell"]
    assert set(drawn["arm"]) == {"FedTiny", "One-shot magnitude"}
    left = drawn[drawn["kind"] != "just pruned"].groupby("arm").size()
    assert int(left["One-shot magnitude"]) == 434
    assert "weights are left" in figure.alt
    assert (drawn["x"] >= 0).all()
    assert (drawn["x2"] <= 252.001).all()


# ------------------------------------------------------------------------------------------- ranking


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(0)
    for n in (3, 8, 20):
        a, b = rng.integers(0, 5, n).astype(float), rng.normal(size=n)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_the_gain_in_rank_correlation():
    knobs = Knobs(task="candidates", pool_size=3, rounds=3, seeds=2)
    names = [candidate_name(c) for c in range(3)]
    table = np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]])
    frames = [Frame(0, names[0], seed, {"candidates": table}) for seed in (0, 1)]
    frames += [
        Frame(3, name, 0, {"accuracy": value}) for name, value in zip(names, (0.1, 0.2, 0.3), strict=True)
    ]
    frames += [Frame(2, name, 1, {"accuracy": 0.5}) for name in names]
    assert ranking_gain(FrameLog(frames), knobs) == {0: pytest.approx(2.0)}, "seed 1 has not ended"


# ------------------------------------------------------------------------------------------- curves


def evaluated(expression, **names):
    return eval(expression, {"floor": math.floor, "cos": math.cos, "PI": math.pi, **names})


@pytest.mark.parametrize("density", [0.025, 0.042, 0.1, 0.3])
def test_the_browser_counts_as_the_library_does(density):
    shapes = {layer.weight: (layer.outputs, layer.inputs, layer.side, layer.side) for layer in LAYERS}
    densities = layer_densities({**shapes, "dense": (DENSE,)}, list(shapes), density, "uniform")
    condition, rest = EXCHANGED.split(" ? ")
    count, otherwise = rest.split(" : ")
    for layer in LAYERS:
        active = int(layer.size * densities[layer.weight])
        for t in (0, 3, 12, 24, 25):
            datum = SimpleNamespace(size=layer.size, round=t)
            given = {"datum": datum, "density": density, "share": 0.4, "stop": 24}
            assert evaluated(ACTIVE, **given) == active
            found = evaluated(count if evaluated(condition, **given) else otherwise, **given)
            assert found == adjust_count(t, 24, active, 0.4)


def test_formats_are_the_librarys():
    data = format_figure().data
    n = 8_000_000
    least = data.groupby("share")["bytes"].min()
    for share, value in least.items():
        assert sparse_bytes(n, round(share * n)) / n == pytest.approx(value, rel=1e-4)
    assert len(exchange_figure().data) == 4 * 61


# ------------------------------------------------------------------------------------------- run


def test_what_a_run_holds():
    log = small_run().log
    assert log.arms == ["FedTiny", "One-shot magnitude", "Dense FedAvg"]
    assert log.arrays("labels")[0].value.shape == (3, 10)
    assert [int(np.isfinite(e.value).all(1).sum()) for e in log.array_history("candidates")] == [1, 2]
    assert set(log.scalars("accuracy")["step"]) == {0, 1, 2, 3}
    recall = next(e for e in log.arrays("recall") if e.arm == "Dense FedAvg")
    y = federation(seed=0).test[1].numpy()
    table = log.final("accuracy")
    accuracy = float(table[table["arm"] == "Dense FedAvg"]["value"].iloc[0])
    assert accuracy == pytest.approx(float(recall.value @ np.bincount(y) / len(y)), abs=1e-5)
    blocks = [np.isfinite(e.value).nonzero()[0].tolist() for e in log.array_history("exchanged")]
    assert blocks == [[3], [2], [1]]


def test_costs_are_decided_and_the_rest_waits_for_seeds():
    verdicts = small_run().verdicts()
    assert verdicts["fewer-operations"].outcome == "reproduced"
    assert verdicts["less-memory"].outcome in ("reproduced", "opposite")
    assert verdicts["better-than-one-shot"].outcome == "undecided"
    assert not verdicts["better-than-rivals"].measured


def test_arms_and_candidates():
    assert Knobs().shown_arms().names == tuple(arm_name(a) for a in ("fedtiny", "one_shot", "dense"))
    knobs = Knobs(task="candidates", pool_size=4)
    assert knobs.shown_arms().names == tuple(candidate_name(c) for c in range(4))
    assert knobs.kinds() == []
    assert "ranking" in EXPERIMENT.sheet(knobs).stage
    assert next(iter(EXPERIMENT.sheet(Knobs()).stage)) == "mask"
    assert "candidates" not in EXPERIMENT.sheet(Knobs(arms=("one_shot",))).drawers
    assert next(iter(EXPERIMENT.sheet(Knobs(arms=("dense",))).stage)) == "labels"

"""Averaging of states, sampling, and one client against plain training."""

from __future__ import annotations

import copy
import doctest

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from normviz.federated import FedAvg, SparseModel, fedavg, train_client
from normviz.federated import fedavg as fedavg_function
from tests.federated.small import F64, clients, mlp, randn, same_state


def states(seeds=(1, 2, 3)):
    made = []
    for seed in seeds:
        model = mlp(seed)
        model(randn(6, 5, seed=seed))
        model[1].num_batches_tracked.fill_(seed)
        made.append(model.state_dict())
    return made


def test_the_average_is_the_weighted_sum():
    given, sizes = states(), [5, 1, 14]
    result = fedavg(given, sizes)
    for name, entry in result.items():
        if name.endswith("num_batches_tracked"):
            assert entry.dtype == torch.long
            assert int(entry) == 3
        else:
            expected = sum(n / 20 * s[name].numpy() for n, s in zip(sizes, given, strict=True))
            np.testing.assert_allclose(entry.numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_check_9_identical_states_stay_as_they_are(dtype):
    state = {"w": randn(50).to(dtype), "n": torch.tensor(7), "m": torch.tensor([True, False])}
    result = fedavg([copy.deepcopy(state) for _ in range(7)], [3, 1, 4, 1, 5, 9, 2])
    assert all(torch.equal(result[name], entry) for name, entry in state.items())
    assert result["w"].dtype == dtype
    assert result["w"].data_ptr() != state["w"].data_ptr()


def test_masks_are_those_of_the_first():
    first, second = torch.tensor([True, False]), torch.tensor([False, True])
    assert torch.equal(fedavg([{"m": first}, {"m": second}], [1, 9])["m"], first)


def test_what_the_average_refuses():
    state = {"w": torch.ones(2)}
    with pytest.raises(ValueError, match="states must hold"):
        fedavg([], [])
    with pytest.raises(ValueError, match="sizes must have one entry"):
        fedavg([state], [1, 2])
    with pytest.raises(ValueError, match="states must have the same names"):
        fedavg([state, {"v": torch.ones(2)}], [1, 2])
    for sizes in ([0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="sizes"):
            fedavg([state, state], sizes)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_check_9_one_client_is_plain_training(momentum):
    x, y = clients((12,))[0]
    trainer = FedAvg(mlp, [(x, y)], lr=0.2, epochs=3, batch_size=12, momentum=momentum)
    plain = mlp()
    for _ in range(4):
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.2, momentum=momentum)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            optimizer.step()
    trainer.run(4)
    for name, entry in plain.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], entry, rtol=0, atol=1e-12, msg=name)


def test_every_epoch_shuffles_and_the_last_batch_is_smaller():
    seen = []
    model = nn.Linear(1, 2)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten().tolist()))
    x = torch.arange(7.0)[:, None]
    train_client(model, x, torch.zeros(7, dtype=torch.long), lr=0.0, epochs=2, batch_size=3, seed=1)
    assert [len(batch) for batch in seen] == [3, 3, 1, 3, 3, 1]
    epochs = [[value for batch in part for value in batch] for part in (seen[:3], seen[3:])]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_run_goes_on():
    once, twice = (
        FedAvg(mlp, clients(), epochs=2, batch_size=4),
        FedAvg(mlp, clients(), epochs=2, batch_size=4),
    )
    seen = []
    once.run(4, lambda trainer: seen.append(trainer.round))
    assert seen == [1, 2, 3, 4]
    assert twice.run(2).run(2).round == 4
    assert same_state(once.model, twice.model)


def test_random_choices_depend_on_seed_round_and_client_alone():
    torch.manual_seed(0)
    first = FedAvg(mlp, clients(), epochs=1, batch_size=4, clients_per_round=2, seed=5).run(3)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    second = FedAvg(mlp, clients(), epochs=1, batch_size=4, clients_per_round=2, seed=5).run(3)
    assert torch.equal(torch.get_rng_state(), before)
    other = FedAvg(mlp, clients(), epochs=1, batch_size=4, clients_per_round=2, seed=6).run(3)
    assert same_state(first.model, second.model)
    assert not same_state(first.model, other.model)


def test_dropout_is_reproducible_too():
    def net():
        return nn.Sequential(mlp(), nn.Dropout(0.5))

    torch.manual_seed(1)
    first = FedAvg(net, clients(), epochs=1).run(2)
    torch.manual_seed(2)
    assert same_state(first.model, FedAvg(net, clients(), epochs=1).run(2).model)


def test_sampling_is_without_replacement_and_fair():
    trainer = FedAvg(mlp, clients((4,) * 6), clients_per_round=2)
    drawn = [trainer.sample_clients(r) for r in range(1, 601)]
    assert all(len(set(d)) == 2 and d == sorted(d) for d in drawn)
    assert drawn == [trainer.sample_clients(r) for r in range(1, 601)]
    counts = np.bincount(np.concatenate(drawn), minlength=6)
    assert counts.min() > 140, "200 expected, standard deviation 11.5"
    assert FedAvg(mlp, clients()).sample_clients(9) == [0, 1, 2]


def test_only_sampled_clients_count():
    data = clients((6, 6, 6))
    trainer = FedAvg(mlp, data, epochs=1, clients_per_round=1, batch_size=6).run(1)
    chosen = trainer.sample_clients(1)
    alone = FedAvg(mlp, [data[chosen[0]]], epochs=1, batch_size=6).run(1)
    for name, entry in alone.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], entry, rtol=0, atol=1e-12)


def test_a_batch_of_one_that_batch_norm_cannot_use_is_skipped():
    x, y = clients((5,))[0]
    model, plain = mlp(), mlp()
    train_client(model, x, y, lr=0.1, epochs=1, batch_size=4, seed=2)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(2))[:4]
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    F.cross_entropy(plain(x[order]), y[order]).backward()
    optimizer.step()
    for name, entry in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], entry, rtol=0, atol=1e-12)
    single = FedAvg(mlp, [(x[:1], y[:1]), (x, y)], epochs=1).run(1)
    assert all(bool(entry.isfinite().all()) for entry in single.model.state_dict().values())


def test_a_batch_of_one_that_batch_norm_can_use_is_not_skipped():
    conv = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    before = conv[3].weight.clone()
    train_client(conv, torch.randn(1, 1, 2, 2), torch.tensor([1]), lr=0.5, epochs=1, batch_size=4)
    assert not torch.equal(before, conv[3].weight)
    assert int(conv[1].num_batches_tracked) == 1


def test_a_sparse_model_stays_sparse_also_with_momentum():
    trainer = FedAvg(lambda: SparseModel(mlp(), 0.5), clients(), epochs=2, batch_size=4, momentum=0.9).run(3)
    for name, mask in trainer.model.masks.items():
        weight = trainer.model.model.get_parameter(name)
        assert torch.count_nonzero(weight[~mask]) == 0
        assert torch.count_nonzero(weight[mask]) == int(mask.sum())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"lr": -0.1}, "lr"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"clients_per_round": 4}, "clients_per_round"),
        ({"momentum": 1.0}, "momentum"),
        ({"seed": -1}, "seed"),
        ({"clients": []}, "clients"),
        ({"clients": [(torch.ones(3, 5), torch.ones(2))]}, "clients"),
        ({"clients": [(torch.ones(0, 5), torch.ones(0))]}, "clients"),
    ],
)
def test_bad_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        FedAvg(**{"model_fn": mlp, "clients": clients(), **arguments})
    with pytest.raises(ValueError, match="rounds"):
        FedAvg(mlp, clients()).run(-1)


def test_function_and_examples():
    import sys

    assert fedavg_function is fedavg
    assert torch.float64 == F64
    assert doctest.testmod(sys.modules["normviz.federated.fedavg"]).failed == 0

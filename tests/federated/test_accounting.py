"""Bytes and operations, counted by hand."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

from normviz.federated import (
    SparseModel,
    accounting,
    adjustment_flops,
    communication_bytes,
    device_memory,
    model_macs,
    sparse_bytes,
    training_flops,
)
from normviz.models import ConvNet
from tests.federated.small import convnet


def digits_net():
    return ConvNet(1, (16, 32, 32), 10, norm=nn.BatchNorm2d, bias=False)


def test_check_12_the_smallest_format():
    assert sparse_bytes(1000, 10) == 80
    assert sparse_bytes(1000, 100) == 525
    assert sparse_bytes(1000, 1000) == 4000
    assert sparse_bytes(1001, 100) == 126 + 400, "a bitmap is whole bytes"
    assert sparse_bytes(1000, 0) == 0
    assert sparse_bytes(1000, 10, value_bytes=2, index_bytes=8) == 100
    for n in (1, 7, 64, 1000):
        for k in range(0, n + 1, max(1, n // 9)):
            assert sparse_bytes(n, k) == min(4 * n, (n + 7) // 8 + 4 * k, 8 * k)


def test_multiply_accumulates_of_the_digits_network():
    net = digits_net()
    assert sum(p.numel() for p in net.parameters()) == 14458
    macs = model_macs(net, (1, 8, 8))
    assert macs == {
        "blocks.0.conv.weight": 16 * 9 * 64,
        "blocks.1.conv.weight": 16 * 32 * 9 * 16,
        "blocks.2.conv.weight": 32 * 32 * 9 * 4,
        "head.weight": 320,
    }
    sparse = SparseModel(net, 0.2)
    positions = (64, 16, 4, 1)
    counts = [int(mask.sum()) for mask in sparse.masks.values()]
    assert list(model_macs(sparse, (1, 8, 8)).values()) == [
        n * p for n, p in zip(counts, positions, strict=True)
    ]


def test_multiply_accumulates_of_other_layers():
    net = nn.Sequential(
        nn.Conv1d(4, 8, 3, groups=2, padding=1), nn.ConvTranspose1d(8, 2, 4, stride=2), nn.Flatten(1)
    )
    assert model_macs(net, (4, 10)) == {"0.weight": 8 * 2 * 3 * 10, "1.weight": 8 * 2 * 4 * 10}
    linear = nn.Linear(3, 5)
    assert model_macs(linear, (3,)) == {"weight": 15}
    assert model_macs(linear, (7, 3)) == {"weight": 105}, "applied at seven positions"
    shared = nn.Sequential(linear, nn.Linear(5, 3), linear)
    assert model_macs(shared, (3,)) == {"0.weight": 30, "1.weight": 15}, "used twice"


def test_counting_leaves_the_model():
    sparse = SparseModel(convnet(), 0.4)
    modes = [m.training for m in sparse.modules()]
    state = {name: entry.clone() for name, entry in sparse.state_dict().items()}
    model_macs(sparse, (1, 6, 6))
    assert all(torch.equal(entry, sparse.state_dict()[name]) for name, entry in state.items())
    assert [m.training for m in sparse.modules()] == modes
    assert all(not m._forward_hooks for m in sparse.modules())


def test_flops():
    assert training_flops(100, 7, 2) == 3 * 2 * 100 * 7 * 2
    assert adjustment_flops(100, 30, 8) == 2 * 70 * 8


def test_memory_of_a_device():
    net = digits_net()
    parameters = 14458
    assert device_memory(net) == 2 * 4 * parameters
    assert device_memory(net, momentum=True, activations=100) == 3 * 4 * parameters + 100
    sparse = SparseModel(net, 0.1)
    pruned = sum(sparse_bytes(m.numel(), int(m.sum())) for m in sparse.masks.values())
    dense = sum(4 * m.numel() for m in sparse.masks.values())
    assert device_memory(sparse) == 2 * pruned + 2 * 4 * 170
    assert device_memory(sparse, topk=25) == device_memory(sparse) + 200
    assert device_memory(sparse, momentum=True) == 3 * pruned + 3 * 4 * 170
    assert device_memory(sparse, dense_gradients=True) == pruned + dense + 2 * 4 * 170
    assert device_memory(sparse, momentum=True, dense_gradients=True) == 2 * pruned + dense + 3 * 4 * 170


def test_communication_of_a_client():
    net = digits_net()
    state = 4 * (14458 + 2 * 80)
    assert communication_bytes(net) == {"up": state, "down": state}
    sparse = SparseModel(net, 0.1)
    active = sum(int(m.sum()) for m in sparse.masks.values())
    state = 4 * (active + 170 + 2 * 80)
    assert communication_bytes(sparse) == {"up": state, "down": state}
    bitmaps = sum((m.numel() + 7) // 8 for m in sparse.masks.values())
    assert communication_bytes(sparse, topk=30, masks_changed=True) == {
        "up": state + 240,
        "down": state + bitmaps,
    }
    selection = 5 * 2 * 80 * 4
    assert communication_bytes(sparse, pool_size=5) == {
        "up": state + selection + 20,
        "down": state + selection,
    }


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: sparse_bytes(-1, 0), "numel"),
        (lambda: sparse_bytes(3, 4), "nnz"),
        (lambda: sparse_bytes(3, 1, 0), "value_bytes"),
        (lambda: training_flops(-1, 1), "forward_macs"),
        (lambda: adjustment_flops(1, 2, 3), "sparse_macs"),
        (lambda: device_memory(nn.Linear(1, 1), topk=-1), "topk"),
        (lambda: device_memory(nn.Linear(1, 1), activations=-1), "activations"),
        (lambda: communication_bytes(nn.Linear(1, 1), pool_size=-1), "pool_size"),
    ],
)
def test_bad_arguments(call, name):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        call()


def test_examples():
    assert doctest.testmod(accounting).failed == 0

"""Replay buffers, ER-ACE and DER++ around AdaB²N, against NumPy derivations and counts."""

from __future__ import annotations

import copy
import doctest
import math

import numpy as np
import pytest
import torch
from torch import nn

from normviz.adaptive import continual, replay_buffers
from normviz.adaptive.continual import (
    ERACE,
    DERPlusPlus,
    ReservoirBuffer,
    RingBuffer,
    average_accuracy,
    er_ace_mask,
    forgetting,
)
from normviz.norms import convert_batchnorm

F64 = torch.float64


def stream(n, classes, seed=0, h=2):
    """Float64 images (n, 1, h, h) with labels among ``classes``, whose level tells the class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes)[torch.randint(len(classes), (n,), generator=generator)]
    x = torch.randn(n, 1, h, h, generator=generator, dtype=F64) + y.view(-1, 1, 1, 1)
    return x, y


def network(classes=6, num_tasks=3, **options):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1, dtype=F64),
        nn.BatchNorm2d(4, dtype=F64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, classes, dtype=F64),
    )
    return convert_batchnorm(model, num_tasks, **options) if num_tasks else model


def learner(kind, capacity=20, num_tasks=3, lr=0.05, **options):
    model = network(num_tasks=num_tasks)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return kind(model, optimizer, ReservoirBuffer(capacity), 6, 2, **options)


class Recorder(nn.Module):
    """A linear model that keeps every batch it is given."""

    def __init__(self, classes=6):
        super().__init__()
        self.linear = nn.Linear(2, classes, dtype=F64)
        self.batches = []

    def forward(self, x):
        self.batches.append(x.detach().clone())
        return self.linear(x)


def cross_entropy(z, y):
    z = np.asarray(z, dtype=np.float64)
    total = 0.0
    for row, label in zip(z, y, strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(v - top) for v in row)) - row[label]
    return total / len(z)


def linear_logits(model, x):
    return x.numpy() @ model.linear.weight.detach().numpy().T + model.linear.bias.detach().numpy()


# ------------------------------------------------------------------------------------------------ buffers


def test_reservoir_holds_every_item_of_the_stream_with_the_same_probability():
    capacity, length, runs = 5, 23, 4000
    counts = np.zeros(length)
    for seed in range(runs):
        buffer = ReservoirBuffer(capacity, seed=seed)
        for start in range(0, length, 4):
            items = torch.arange(start, min(start + 4, length))
            buffer.add(items, items)
        assert len(buffer) == capacity
        counts[buffer.sample(capacity)["y"].numpy()] += 1
    p = capacity / length
    assert np.abs(counts / runs - p).max() < 5 * math.sqrt(p * (1 - p) / runs)


def test_reservoir_takes_everything_until_it_is_full():
    buffer = ReservoirBuffer(5)
    buffer.add(torch.arange(3.0), torch.arange(3))
    assert (len(buffer), buffer.num_seen) == (3, 3)
    assert sorted(buffer.sample(9)["y"].tolist()) == [0, 1, 2]
    buffer.add(torch.arange(100.0), torch.arange(100))
    assert (len(buffer), buffer.num_seen) == (5, 103)


def test_draws_are_distinct_uniform_and_keep_rows_together():
    buffer = ReservoirBuffer(8)
    items = torch.arange(8)
    buffer.add(items.double() * 2, items, logits=torch.stack([items, -items], 1), task_ids=items // 4)
    counts = np.zeros(8)
    for _ in range(2000):
        draw = buffer.sample(3)
        y = draw["y"]
        assert len(set(y.tolist())) == 3
        assert torch.equal(draw["x"], 2 * y.double())
        assert torch.equal(draw["logits"], torch.stack([y, -y], 1))
        assert torch.equal(draw["task_ids"], y // 4)
        counts[y.numpy()] += 1
    assert np.abs(counts / 2000 - 3 / 8).max() < 0.055


def test_stored_samples_are_detached_copies():
    buffer = ReservoirBuffer(4)
    x = torch.ones(2, 3, requires_grad=True)
    logits = x * 2
    buffer.add(x, torch.tensor([0, 1]), logits=logits)
    with torch.no_grad():
        x.fill_(9)
    draw = buffer.sample(2)
    assert torch.equal(draw["x"], torch.ones(2, 3))
    assert not draw["logits"].requires_grad
    draw["x"].fill_(7)
    assert torch.equal(buffer.sample(2)["x"], torch.ones(2, 3))
    assert draw["task_ids"] is None


def test_ring_keeps_the_newest_of_each_task():
    buffer = RingBuffer(7, n_tasks=3)  # two places each
    for start in (0, 3, 6):
        items = torch.arange(start, start + 3)
        buffer.add(items, items, task_ids=torch.tensor([0, 0, 1]))
    assert sorted(buffer.sample(7)["y"].tolist()) == [5, 6, 7, 8]
    assert (len(buffer), buffer.num_seen) == (4, 9)


@pytest.mark.parametrize(
    ("kind", "arguments", "name"),
    [
        (ReservoirBuffer, (0,), "capacity"),
        (ReservoirBuffer, (3, -1), "seed"),
        (RingBuffer, (0, 1), "capacity"),
        (RingBuffer, (3, 0), "n_tasks"),
        (RingBuffer, (3, 4), "capacity"),
    ],
)
def test_buffer_arguments(kind, arguments, name):
    with pytest.raises(ValueError, match=name):
        kind(*arguments)


def test_what_buffers_refuse():
    buffer = ReservoirBuffer(3)
    with pytest.raises(RuntimeError, match="empty"):
        buffer.sample(1)
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match="y must have one entry"):
        buffer.add(x, y[:1])
    buffer.add(x, y)
    for bad, name in (((torch.zeros(2, 4), y), "x"), ((x, y, x), "logits")):
        with pytest.raises(ValueError, match=name):
            buffer.add(*bad)
    with pytest.raises(ValueError, match="n must be"):
        buffer.sample(0)
    with pytest.raises(ValueError, match="capacity"):
        ReservoirBuffer(4).load_state_dict(buffer.state_dict())
    ring = RingBuffer(4, 2)
    with pytest.raises(ValueError, match="task_ids"):
        ring.add(x, y)
    with pytest.raises(ValueError, match="task_ids"):
        ring.add(x, y, task_ids=y + 2)
    with pytest.raises(ValueError, match="n_tasks"):
        RingBuffer(4, 1).load_state_dict(ring.state_dict())


@pytest.mark.parametrize("make", [lambda: ReservoirBuffer(4), lambda: RingBuffer(4, 2)])
def test_buffers_resume_bit_for_bit(make):
    def add(buffer, i):
        buffer.add(torch.arange(i, i + 6), torch.arange(i, i + 6), task_ids=torch.arange(6) % 2)
        return buffer.sample(3)["y"].tolist()

    buffer, resumed = make(), make()
    add(buffer, 0)
    add(resumed, 50)
    resumed.load_state_dict(buffer.state_dict())
    assert [add(buffer, i) for i in (10, 20)] == [add(resumed, i) for i in (10, 20)]
    assert len(resumed) == len(buffer)


# -------------------------------------------------------------------------------------- masks and measures


def test_check_10_mask_keeps_the_batch_and_everything_from_the_largest_seen_class():
    kept = er_ace_mask(present=[4, 5], seen=[0, 1, 2, 3, 4, 5], num_classes=10)
    assert kept.dtype == torch.bool
    assert kept.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9]
    assert er_ace_mask([4, 5], range(10), 10).nonzero().flatten().tolist() == [4, 5]
    assert er_ace_mask(torch.tensor([0]), {0, 3}, 6).nonzero().flatten().tolist() == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([6], [0], 6), "present"),
        (([0], [-1], 6), "seen"),
        (([0], [], 6), "seen"),
        (([0], [0], 0), "num_classes"),
    ],
)
def test_mask_refuses(arguments, name):
    with pytest.raises(ValueError, match=name):
        er_ace_mask(*arguments)


def test_accuracy_and_forgetting_by_hand():
    nan = math.nan
    a = [[0.9, nan, nan], [0.5, 0.8, nan], [0.6, 0.3, 0.7]]
    assert average_accuracy(a) == pytest.approx((0.6 + 0.3 + 0.7) / 3)
    assert forgetting(a) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.3)) / 2)
    assert forgetting(torch.tensor(a)) == pytest.approx(0.4)
    assert forgetting([[0.4]]) == 0.0
    assert average_accuracy(np.array([[0.4]])) == 0.4
    assert type(forgetting(a)) is type(average_accuracy(a)) is float
    for wrong in ([0.5], [[0.5, 0.4]], np.zeros((0, 0))):
        with pytest.raises(ValueError, match="acc_matrix"):
            average_accuracy(wrong)


# ------------------------------------------------------------------------------------------------ learners


def test_er_ace_loss_is_the_cards():
    model = Recorder()
    learner = ERACE(model, torch.optim.SGD(model.parameters(), 0.0), ReservoirBuffer(50), 6, 2, replay_size=4)
    generator = torch.Generator().manual_seed(0)
    x0, y0 = torch.randn(5, 2, generator=generator, dtype=F64), torch.tensor([0, 1, 1, 0, 1])
    for _ in range(2):  # nothing is replayed in task 0, although the buffer has samples
        result = learner.observe(x0, y0)
        assert model.batches[-1].shape == (5, 2)
        assert result["loss"] == pytest.approx(cross_entropy(linear_logits(model, x0), y0), rel=1e-12)
        assert result["norm_loss"] == 0.0
    learner.end_task()
    x1, y1 = torch.randn(6, 2, generator=generator, dtype=F64), torch.tensor([3, 2, 2, 3, 2, 2])
    result = learner.observe(x1, y1)
    replayed = model.batches[-1][6:]
    assert replayed.shape == (4, 2)
    labels = [int(y0[(x0 == row).all(1)][0]) for row in replayed]
    masked = linear_logits(model, x1)
    masked[:, [0, 1]] = -np.inf
    expected = cross_entropy(masked, y1) + cross_entropy(linear_logits(model, replayed), labels)
    assert result["loss"] == pytest.approx(expected, rel=1e-12)
    learner.end_task()
    x2 = torch.randn(3, 2, generator=generator, dtype=F64)
    learner.observe(x2, torch.tensor([4, 4, 4]))
    result = learner.observe(
        x2, torch.tensor([5, 5, 5])
    )  # the last class is seen: only the batch's own is kept
    rows = model.batches[-1][3:]
    stored = torch.cat([x0, x1, x2]), torch.cat([y0, y1, torch.tensor([4, 4, 4])])
    labels = [int(stored[1][(stored[0] == row).all(1)][0]) for row in rows]
    assert result["loss"] == pytest.approx(cross_entropy(linear_logits(model, rows), labels), rel=1e-12)


def test_derpp_loss_is_the_cards():
    model = Recorder()
    sgd = torch.optim.SGD(model.parameters(), 0.3)
    learner = DERPlusPlus(model, sgd, ReservoirBuffer(50), 6, 2, alpha=0.7, beta=0.2)
    generator = torch.Generator().manual_seed(0)
    x0, y0 = torch.randn(4, 2, generator=generator, dtype=F64), torch.tensor([0, 1, 1, 0])
    stored = linear_logits(model, x0)
    result = learner.observe(x0, y0)
    assert result["loss"] == pytest.approx(cross_entropy(stored, y0), rel=1e-12)
    x1, y1 = torch.randn(4, 2, generator=generator, dtype=F64), torch.tensor([1, 0, 0, 0])
    before = copy.deepcopy(model)
    result = learner.observe(x1, y1)
    first, second = model.batches[-1][4:8], model.batches[-1][8:]
    which = [[int((x0 == row).all(1).nonzero()) for row in draw] for draw in (first, second)]
    assert sorted(which[0]) == sorted(which[1]) == [0, 1, 2, 3]
    mse = np.mean((linear_logits(before, first) - stored[which[0]]) ** 2)
    expected = (
        cross_entropy(linear_logits(before, x1), y1)
        + 0.7 * mse
        + 0.2 * cross_entropy(linear_logits(before, second), y0[which[1]].tolist())
    )
    assert result["loss"] == pytest.approx(expected, rel=1e-12)
    assert mse > 1e-4, "the step has moved the logits"
    kept = learner.buffer.sample(50)
    newest = [int((kept["x"] == row).all(1).nonzero()) for row in x1]
    np.testing.assert_allclose(kept["logits"][newest], linear_logits(before, x1), atol=1e-12)


def test_derpp_draws_twice_independently():
    model = Recorder()
    learner = DERPlusPlus(
        model, torch.optim.SGD(model.parameters(), 0.0), ReservoirBuffer(200), 6, 2, replay_size=5
    )
    learner.observe(*labelled(100))
    learner.observe(*labelled(3, seed=1))
    first, second = model.batches[-1][3:8], model.batches[-1][8:13]
    assert not torch.equal(first.sort(0).values, second.sort(0).values)


def labelled(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=generator, dtype=F64), torch.arange(n) % 2


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_the_balance_loss_is_added_on_rehearsal_steps_from_ada_t0(kind):
    built = learner(kind, lam=0.5, ada_t0=1)
    plain = learner(kind, lam=0.0, ada_t0=1)
    for seed in range(2):
        assert built.observe(*stream(5, [0, 1], seed))["norm_loss"] == 0.0
        plain.observe(*stream(5, [0, 1], seed))
    built.end_task()
    plain.end_task()
    result, without = (other.observe(*stream(5, [2, 3], 2)) for other in (built, plain))
    layer = built.model[1]
    assert result["norm_loss"] == pytest.approx(layer.balance_loss.item(), rel=1e-12)
    assert result["norm_loss"] == without["norm_loss"] > 0
    assert result["loss"] == pytest.approx(without["loss"] + 0.5 * result["norm_loss"], rel=1e-12)
    assert not torch.equal(built.model[0].weight, plain.model[0].weight), "lambda reaches the network"


def test_the_balance_loss_in_the_first_task():
    er_ace, derpp = learner(ERACE, lam=0.5), learner(DERPlusPlus, lam=0.5)
    for built in (er_ace, derpp):
        assert built.observe(*stream(5, [0, 1]))["norm_loss"] == 0.0, "an empty buffer: no rehearsal samples"
    assert er_ace.observe(*stream(5, [0, 1], 1))["norm_loss"] == 0.0, "no replay in task 0"
    assert derpp.observe(*stream(5, [0, 1], 1))["norm_loss"] > 0


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_one_forward_with_the_tasks_of_all_its_samples(kind):
    built = learner(kind, replay_size=3)
    built.observe(*stream(8, [0, 1]))
    built.end_task()
    built.observe(*stream(5, [2, 3], 1))
    layer = built.model[1]
    assert layer.num_batches_tracked == 2
    old = 3 * (1 if kind is ERACE else 2)
    psi = np.zeros(2)
    expected = (np.exp(psi) + np.array([old, 5])) / (np.exp(psi).sum() + old + 5)
    np.testing.assert_allclose(layer.task_posterior(), expected, atol=1e-6)
    assert layer._task_ids is None
    assert built.cur_task == layer.cur_task == 1
    assert layer.task_weight[2] == 0
    assert layer.task_weight[0] != 0, "psi learns"


def test_the_buffer_gets_the_raw_inputs():
    built = learner(DERPlusPlus)
    x, y = stream(5, [0, 1])
    built.observe(x, y, x_raw=x + 100)
    kept = built.buffer.sample(5)
    assert kept["x"].min() > 50
    assert kept["task_ids"].tolist() == [0] * 5
    er_ace = learner(ERACE)
    er_ace.observe(x, y)
    assert er_ace.buffer.sample(5)["x"].max() < 50
    assert er_ace.buffer.sample(5)["logits"] is None


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_models_without_the_layer_work(kind):
    built = learner(kind, num_tasks=0, lam=1.0)
    assert type(built.model[1]) is nn.BatchNorm2d
    for task in range(3):
        result = built.observe(*stream(5, [2 * task, 2 * task + 1], task))
        assert result["norm_loss"] == 0.0
        assert all(type(value) is float for value in result.values())
        built.end_task()


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_resumes_bit_for_bit(kind):
    built, resumed = learner(kind, lam=0.1), learner(kind, lam=0.1)
    for task in range(2):
        built.observe(*stream(5, [2 * task, 2 * task + 1], task))
        built.end_task()
    resumed.load_state_dict(copy.deepcopy(built.state_dict()))
    for seed in range(3):
        assert resumed.observe(*stream(5, [4, 5], seed)) == built.observe(*stream(5, [4, 5], seed))


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_what_learners_refuse(kind):
    built = learner(kind)
    x, y = stream(4, [0, 1])
    for bad in (y[:3], y.double(), y - 2, y + 6, y[:, None]):
        with pytest.raises(ValueError, match="y must"):
            built.observe(x, bad)
    with pytest.raises(ValueError, match="x_raw"):
        built.observe(x, y, x[:2])
    with pytest.raises(ValueError, match="y must"):
        built.observe(x[:0], y[:0])
    with pytest.raises(ValueError, match=r"task_ids .* got 1"):
        built.observe(x, y + 2)
    for _ in range(3):
        built.end_task()
    with pytest.raises(RuntimeError, match="end_task"):
        built.end_task()
    assert built.cur_task == 3
    for options, name in (
        ({"lam": -0.1}, "lam"),
        ({"ada_t0": -1}, "ada_t0"),
        ({"replay_size": 0}, "replay_size"),
        ({"num_classes": 0}, "num_classes"),
        ({"classes_per_task": 0}, "classes_per_task"),
    ):
        with pytest.raises(ValueError, match=name):
            kind(
                built.model,
                built.optimizer,
                built.buffer,
                **{"num_classes": 6, "classes_per_task": 2, **options},
            )


def test_derpp_needs_stored_logits():
    built = learner(DERPlusPlus)
    x, y = stream(4, [0, 1])
    built.buffer.add(x, y, task_ids=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="buffer must hold logits"):
        built.observe(x, y)


@pytest.mark.parametrize("kind", [ERACE, DERPlusPlus])
def test_replay_keeps_what_plain_training_forgets(kind):
    """Two tasks of linearly separable levels: with replay the first one stays, without it is lost."""

    def accuracy_on_the_first(replay, seed):
        torch.manual_seed(seed)
        model = network(num_tasks=3)
        sgd = torch.optim.SGD(model.parameters(), 0.05)
        options = {"alpha": 0.5, "beta": 1.0} if kind is DERPlusPlus else {}
        built = kind(model, sgd, ReservoirBuffer(40, seed=seed), 6, 2, **options)
        for task in range(2):
            for step in range(60):
                x, y = stream(10, [2 * task, 2 * task + 1], 1000 * seed + 100 * task + step)
                if replay:
                    built.observe(3 * x, y)
                else:
                    sgd.zero_grad()
                    nn.functional.cross_entropy(model(3 * x), y).backward()
                    sgd.step()
            built.end_task()
        model.eval()
        x, y = stream(200, [0, 1], 99)
        return float((model(3 * x).argmax(1) == y).double().mean())

    for seed in range(2):
        assert accuracy_on_the_first(False, seed) < 0.2
        assert accuracy_on_the_first(True, seed) > 0.3


@pytest.mark.parametrize("module", [continual, replay_buffers])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0

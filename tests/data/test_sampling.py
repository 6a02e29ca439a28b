from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.data import Batches, IndexSampler, TensorBatches, by_seed, chunks, seeded_generator
from normviz.data.sampling import _permutation


def first(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator))


def test_generators_differ_by_every_part_of_the_key() -> None:
    keys = [*itertools.product(range(4), repeat=2), *itertools.product(range(3), repeat=3)]
    drawn = {key: first(seeded_generator(*key)) for key in keys}
    # SeedSequence pads with zeros, so a key and the same key with trailing zeros are one stream.
    stripped = {tuple(reversed(list(itertools.dropwhile(lambda k: k == 0, reversed(key))))) for key in keys}
    assert len(set(drawn.values())) == len(stripped)
    assert first(seeded_generator(3, 1)) == drawn[3, 1]


def test_generator_leaves_the_global_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    IndexSampler(10, 3).indices(0, 0)
    IndexSampler(10, 3, replacement=True).indices(0, 0)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("key", [(), (-1,), (0, -2), (1.5,), (True,)])
def test_generator_errors(key: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="key"):
        seeded_generator(*key)


@given(
    size=st.integers(1, 40),
    batch=st.integers(1, 40),
    seed=st.integers(0, 10**9),
    epoch=st.integers(0, 5),
    drop_last=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_an_epoch_sees_everything_once(size: int, batch: int, seed: int, epoch: int, drop_last: bool) -> None:
    batch = min(batch, size)
    sampler = IndexSampler(size, batch, drop_last=drop_last)
    steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
    seen = [sampler.indices(seed, step) for step in steps]
    flat = torch.cat(seen).tolist()
    assert len(set(flat)) == len(flat)
    if drop_last:
        assert all(len(indices) == batch for indices in seen)
        assert size - len(flat) < batch
    else:
        assert sorted(flat) == list(range(size))


@pytest.mark.parametrize("replacement", [False, True])
def test_pure_function_of_seed_and_step(replacement: bool) -> None:
    sampler = IndexSampler(50, 7, replacement=replacement)
    forward = [sampler.indices(3, step) for step in range(20)]
    _permutation.cache_clear()
    fresh = IndexSampler(50, 7, replacement=replacement)
    for step in reversed(range(20)):
        assert torch.equal(fresh.indices(3, step), forward[step])
    assert not torch.equal(fresh.indices(4, 0), forward[0])
    assert not torch.equal(IndexSampler(50, 7, replacement=replacement, stream=1).indices(3, 0), forward[0])


def test_epochs_have_different_permutations() -> None:
    sampler = IndexSampler(50, 50)
    assert not torch.equal(sampler.indices(0, 0), sampler.indices(0, 1))


def test_changing_a_batch_does_not_change_the_next_draw() -> None:
    sampler = IndexSampler(6, 3)
    before = sampler.indices(0, 0).clone()
    sampler.indices(0, 0).zero_()
    assert torch.equal(sampler.indices(0, 0), before)


def test_replacement_is_uniform() -> None:
    sampler = IndexSampler(5, 100, replacement=True)
    counts = torch.cat([sampler.indices(0, step) for step in range(100)]).bincount(minlength=5).double()
    # 10,000 draws: each count is 2000 +- 40 (one standard deviation).
    assert ((counts - 2000).abs() < 5 * 40).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 0}, "size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 11}, "at most the number of examples"),
        ({"stream": -1}, "stream"),
    ],
)
def test_sampler_errors(arguments: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        IndexSampler(**({"size": 10, "batch_size": 2} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "step"), [(-1, 0), (0, -1), (0.5, 0), (0, 0.5)])
@pytest.mark.parametrize("replacement", [False, True])
def test_bad_seed_or_step(seed: int, step: int, replacement: bool) -> None:
    with pytest.raises(ValueError, match="must be an integer >= 0"):
        IndexSampler(10, 2, replacement=replacement).indices(seed, step)


def test_tensor_batches_keep_rows_together() -> None:
    x = torch.arange(20.0)
    source = TensorBatches((x, x * 10), 6)
    assert source.steps_per_epoch == 3
    a, b = source(1, 4)
    assert a.shape == (6,)
    assert torch.equal(b, a * 10)
    assert torch.equal(a, x[source.sampler.indices(1, 4)])


@pytest.mark.parametrize("tensors", [(), (torch.zeros(3), torch.zeros(4))])
def test_unequal_tensors(tensors: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="equal length"):
        TensorBatches(tensors, 1)
    with pytest.raises(ValueError, match="equal length"):
        chunks(tensors, 1)


def test_batches_iterate_and_resume() -> None:
    source = TensorBatches((torch.arange(20),), 6)
    whole = [batch[0] for batch, _ in zip(Batches(source, seed=2), range(8), strict=False)]
    resumed = [batch[0] for batch, _ in zip(Batches(source, seed=2, start=5), range(3), strict=False)]
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], resumed, strict=True))
    assert torch.equal(Batches(source, seed=2).batch(7)[0], whole[7])
    with pytest.raises(ValueError, match="seed"):
        Batches(source, seed=-1)
    with pytest.raises(ValueError, match="start"):
        Batches(source, seed=0, start=-1)


def test_by_seed_has_a_source_for_every_seed_and_asks_for_it_once() -> None:
    asked: list[int] = []

    def of(seed: int) -> TensorBatches:
        asked.append(seed)
        return TensorBatches((100 * seed + torch.arange(10),), 5)

    source = by_seed(of)
    for seed in (3, 1, 3):
        both = torch.cat([source(seed, 0)[0], source(seed, 1)[0]])
        assert sorted(both.tolist()) == list(range(100 * seed, 100 * seed + 10))
        assert torch.equal(source(seed, 7)[0], of(seed)(seed, 7)[0])
        asked.pop()
    assert asked == [3, 1]


def test_chunks_are_in_order() -> None:
    x = torch.arange(7)
    parts = chunks((x, -x), 3)
    assert [len(part[0]) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert all(torch.equal(a, -b) for a, b in parts)
    with pytest.raises(ValueError, match="batch_size"):
        chunks((x,), 0)

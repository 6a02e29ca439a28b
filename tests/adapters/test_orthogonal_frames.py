"""Frames of concepts: what they are drawn from, that they depend on their seeds alone, how much they overlap."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
import torch

from normviz.adapters import SharedOrthogonalBasis, concept_basis, expected_overlap, probability_disjoint
from normviz.adapters.orthogonal_frames import FRAMES


@pytest.mark.parametrize("method", ["orthogonal", "disjoint"])
@pytest.mark.parametrize(("n", "r"), [(1, 1), (7, 7), (48, 4), (64, 20)])
def test_check_1_columns_are_orthonormal(method: str, n: int, r: int) -> None:
    B = concept_basis(n, r, method=method, seed=3)
    assert (B.shape, B.dtype, B.device.type) == ((n, r), torch.float64, "cpu")
    np.testing.assert_allclose(B.numpy().T @ B.numpy(), np.eye(r), atol=1e-12)


@pytest.mark.parametrize("method", FRAMES)
def test_check_1_same_seeds_same_frame_wherever_it_is_drawn(method: str) -> None:
    expected = concept_basis(12, 3, method=method, seed=1, concept=2, key="to_k")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.device("meta"), torch.inference_mode():
        again = concept_basis(12, 3, method=method, seed=1, concept=2, key="to_k")
    assert torch.equal(again.clone(), expected)
    assert torch.equal(torch.get_rng_state(), before), "torch's own random state stays"


def test_check_1_another_process_draws_the_same() -> None:
    code = (
        "from normviz.adapters import concept_basis\n"
        "for method in ('orthogonal', 'gaussian'):\n"
        "    print(*concept_basis(5, 2, method=method, key='to_k').flatten().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = [concept_basis(5, 2, method=method, key="to_k") for method in ("orthogonal", "gaussian")]
    np.testing.assert_allclose(
        [float(x) for x in done.stdout.split()], torch.stack(ours).flatten(), atol=1e-14
    )


@pytest.mark.parametrize("method", FRAMES)
def test_frames_differ_by_concept_and_key(method: str) -> None:
    def frame(**changes: object) -> torch.Tensor:
        return concept_basis(40, 3, **{"method": method, "concept": 1, "key": "a", "seed": 0, **changes})

    reference = frame()
    assert torch.equal(frame(), reference)
    for changes in ({"concept": 2}, {"key": "b"}, {"seed": 1}):
        assert float((frame(**changes) - reference).abs().max()) > 0.01, changes


def test_matrix_is_a_function_of_seed_key_and_size() -> None:
    shared = SharedOrthogonalBasis(4)
    first = shared.matrix(6, "a")
    reference = first.clone()
    shared.sample(6, 2, 9, "a")
    first.zero_()
    assert torch.equal(shared.matrix(6, "a"), reference), "writing into a result changes nothing"
    assert torch.equal(SharedOrthogonalBasis(4).matrix(6, "a"), reference), "nor what was drawn before"
    assert SharedOrthogonalBasis(4) == shared
    for other in (shared.matrix(6), shared.matrix(6, "b"), SharedOrthogonalBasis(5).matrix(6, "a")):
        assert float((other - reference).abs().max()) > 0.01


def test_sample_takes_columns_of_the_matrix() -> None:
    shared, other = SharedOrthogonalBasis(1), SharedOrthogonalBasis(2)
    B, columns = shared.sample(30, 5, 7, "q")
    assert (columns.dtype, columns.shape, len(set(columns.tolist()))) == (torch.int64, (5,), 5)
    assert torch.equal(B, shared.matrix(30, "q")[:, columns])
    assert torch.equal(other.sample(30, 5, 7, "q")[1], columns), "not from the shared seed"
    assert torch.equal(concept_basis(30, 5, seed=1, concept=7, key="q"), B)
    for changed in (
        shared.sample(30, 5, 8, "q"),
        shared.sample(30, 5, 7, "k"),
        shared.sample(31, 5, 7, "q"),
        shared.sample(30, 6, 7, "q"),
    ):
        assert changed[1][:5].tolist() != columns.tolist()


def test_columns_are_uniform() -> None:
    pairs = dict.fromkeys(combinations(range(6), 2), 0)
    shared = SharedOrthogonalBasis()
    for concept in range(2000):
        first, second = sorted(shared.sample(6, 2, concept)[1].tolist())
        pairs[first, second] += 1
    expected = 2000 / 15
    assert max(abs(count - expected) for count in pairs.values()) < 5 * math.sqrt(expected)


def test_matrices_are_uniform_over_the_seeds() -> None:
    draws = np.stack([SharedOrthogonalBasis(seed).matrix(3).numpy() for seed in range(400)])
    positive = int((np.linalg.det(draws) > 0).sum())
    assert abs(positive - 200) < 5 * 10
    # An entry of a uniform 3 x 3 orthogonal matrix is uniform on [-1, 1].
    assert np.abs(draws.mean(0)).max() < 5 * math.sqrt(1 / 3 / 400)
    assert np.abs((draws**2).mean(0) - 1 / 3).max() < 5 * math.sqrt(4 / 45 / 400)
    assert np.abs((draws**4).mean(0) - 1 / 5).max() < 5 * math.sqrt((1 / 9 - 1 / 25) / 400)


def test_disjoint_frames_are_consecutive_columns() -> None:
    O = SharedOrthogonalBasis(2).matrix(11, "k")
    frames = [concept_basis(11, 3, method="disjoint", seed=2, concept=i, key="k") for i in range(3)]
    assert torch.equal(torch.cat(frames, 1), O[:, :9])
    for a, b in combinations(frames, 2):
        assert float((a.mT @ b).abs().max()) < 1e-13


def test_gaussian_entries_have_variance_one_over_n() -> None:
    B = np.stack([concept_basis(50, 4, method="gaussian", concept=i).numpy() for i in range(500)])
    assert abs(B.mean()) < 5 / math.sqrt(50 * B.size)
    assert B.var() == pytest.approx(1 / 50, rel=5 * math.sqrt(2 / B.size))
    gram = (B.transpose(0, 2, 1) @ B).mean(0)
    np.testing.assert_allclose(gram, np.eye(4), atol=5 * math.sqrt(2 / 50 / 500))


def test_check_4_overlap_statistics() -> None:
    n, r, pairs = 48, 4, 4000
    shared = SharedOrthogonalBasis()
    overlaps = {"orthogonal": np.zeros(pairs), "gaussian": np.zeros(pairs)}
    for i in range(pairs):
        frames = {
            "orthogonal": [shared.sample(n, r, 2 * i + j)[0].numpy() for j in range(2)],
            "gaussian": [concept_basis(n, r, method="gaussian", concept=2 * i + j).numpy() for j in range(2)],
        }
        for method, (a, b) in frames.items():
            overlaps[method][i] = ((a.T @ b) ** 2).sum()
    for values in overlaps.values():
        assert values.mean() == pytest.approx(expected_overlap(n, r), abs=0.03)
    counted = overlaps["orthogonal"]
    np.testing.assert_allclose(counted, counted.round(), atol=1e-10)
    assert (counted < 0.5).mean() == pytest.approx(probability_disjoint(n, r), abs=0.03)
    assert overlaps["gaussian"].min() > 0.01, "never orthogonal, but near the mean"
    assert overlaps["gaussian"].std() < 0.3 * counted.std()


def test_expected_overlap_and_probability_by_enumeration() -> None:
    for n, r in ((5, 1), (6, 2), (7, 3), (5, 3), (4, 4)):
        choices = [set(c) for c in combinations(range(n), r)]
        shared = np.array([len(choices[0] & c) for c in choices])
        assert expected_overlap(n, r) == pytest.approx(shared.mean(), rel=1e-12)
        assert probability_disjoint(n, r) == pytest.approx((shared == 0).mean(), abs=1e-15)
    assert expected_overlap(768, 20) == pytest.approx(0.52, abs=0.005)
    assert probability_disjoint(768, 20) == pytest.approx(0.59, abs=0.005)
    assert probability_disjoint(48, 4) == pytest.approx(0.698, abs=0.001)
    assert probability_disjoint(7, 4) == 0


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"r": 0}, "r must be"),
        ({"r": 13}, "r must be"),
        ({"r": 2.0}, "r must be"),
        ({"n": 0}, "n must be"),
        ({"method": "hadamard"}, "'hadamard'"),
        ({"seed": 1.5}, "seed"),
        ({"concept": "cat"}, "concept"),
        ({"method": "disjoint", "concept": 2}, "capacity of 2 concepts"),
        ({"method": "disjoint", "concept": -1}, "concept must be in 0..1"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        concept_basis(**{"n": 12, "r": 5, **arguments})


def test_negative_seeds_are_seeds() -> None:
    assert concept_basis(12, 5, concept=-1, seed=-2).shape == (12, 5)


def test_errors_of_the_shared_basis() -> None:
    with pytest.raises(ValueError, match="seed"):
        SharedOrthogonalBasis(0.5)
    shared = SharedOrthogonalBasis()
    with pytest.raises(ValueError, match="n must be"):
        shared.matrix(0)
    with pytest.raises(ValueError, match="r must be"):
        shared.sample(4, 5, 0)
    with pytest.raises(ValueError, match="concept_seed"):
        shared.sample(4, 2, 0.5)
    for function in (expected_overlap, probability_disjoint):
        with pytest.raises(ValueError, match="r must be"):
            function(4, 5)

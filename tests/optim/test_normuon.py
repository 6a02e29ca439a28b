"""NorMuon against a NumPy derivation, against its stated invariants, and against Muon and torch.optim.AdamW."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.optim import Muon, NorMuon, neuron_normalize, newton_schulz, split_matrix_params
from tests.optim.test_muon import gaussian, reference_orthogonalize

SHAPES = [(5, 9), (9, 5), (6, 6), (1, 7), (7, 1), (5, 9), (4, 2, 3, 3)]
SCALES = ["official", "rms", "none"]


class Reference:
    """One matrix, row by row in float64, Newton-Schulz through an SVD."""

    def __init__(self, W: np.ndarray, **options: Any) -> None:
        self.W = W.reshape(W.shape[0], -1).copy()
        self.M = np.zeros_like(self.W)
        self.v = np.zeros(W.shape[0])
        self.o = {
            "lr": 0.02,
            "b1": 0.95,
            "b2": 0.95,
            "nesterov": True,
            "wd": 0.0,
            "scale": "official",
            **options,
        }

    def step(self, g: np.ndarray) -> None:
        o, (m, n) = self.o, self.W.shape
        g = g.reshape(m, n)
        self.M = o["b1"] * self.M + (1 - o["b1"]) * g
        O = reference_orthogonalize((1 - o["b1"]) * g + o["b1"] * self.M if o["nesterov"] else self.M)
        H = np.zeros_like(O)
        for i in range(m):
            self.v[i] = o["b2"] * self.v[i] + (1 - o["b2"]) * sum(x * x for x in O[i]) / n
            H[i] = O[i] / (math.sqrt(self.v[i]) + 1e-10)
        length = math.sqrt((H * H).sum()) + 1e-10
        if o["scale"] == "rms":
            H *= 0.2 * math.sqrt(m * n) / length
        else:
            H *= math.sqrt((O * O).sum()) / length
        if o["scale"] == "official":
            H *= math.sqrt(max(1, m / n))
        self.W = self.W - o["lr"] * o["wd"] * self.W - o["lr"] * H


def parameters(
    dtype: torch.dtype = torch.float64, shapes: list[tuple[int, ...]] = SHAPES
) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]


def set_gradients(params: list[nn.Parameter], step: int, factor: float = 1.0) -> None:
    for i, p in enumerate(params):
        p.grad = factor * gaussian(*p.shape, seed=1000 + 100 * step + i, dtype=p.dtype)


def first_update(shape: tuple[int, int], **options: Any) -> Tensor:
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    set_gradients([p], 0)
    NorMuon([p], lr=1.0, **options).step()
    return -p.detach()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_trajectory_equals_the_row_by_row_reference(scale: str, nesterov: bool) -> None:
    params = parameters()
    references = [
        Reference(p.detach().numpy(), scale=scale, nesterov=nesterov, wd=0.3, lr=0.05, b1=0.9, b2=0.8)
        for p in params
    ]
    optimizer = NorMuon(
        params, lr=0.05, momentum=0.9, beta2=0.8, nesterov=nesterov, weight_decay=0.3, scale=scale
    )
    for step in range(20):
        set_gradients(params, step)
        optimizer.step()
        for p, reference in zip(params, references, strict=True):
            assert p.grad is not None
            reference.step(p.grad.numpy())
            np.testing.assert_allclose(p.detach().numpy().reshape(len(p), -1), reference.W, rtol=0, atol=1e-9)
            np.testing.assert_allclose(
                optimizer.state[p]["second_momentum_buffer"].numpy()[:, 0], reference.v, rtol=0, atol=1e-10
            )
    assert optimizer.state[params[-1]]["momentum_buffer"].shape == params[-1].shape


def test_neuron_normalize_by_hand() -> None:
    O = torch.tensor([[3.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    H, v_new = neuron_normalize(O, v, 0.75, eps=0.5)
    # v = 0.75 * 1 + 0.25 * (9 + 1)/2 = 2
    torch.testing.assert_close(v_new, torch.tensor([[2.0], [0.0]], dtype=torch.float64))
    root = math.sqrt(2) + 0.5
    torch.testing.assert_close(H, torch.tensor([[3 / root, 1 / root], [0, 0]], dtype=torch.float64))
    assert v.tolist() == [[1.0], [0.0]]


def test_neuron_normalize_batches_vmaps_and_keeps_dtypes() -> None:
    O, v = gaussian(3, 4, 6), gaussian(3, 4, 1, seed=1).square()
    H, v_new = neuron_normalize(O, v, 0.9)
    for i in range(3):
        one = neuron_normalize(O[i], v[i], 0.9)
        torch.testing.assert_close((H[i], v_new[i]), one)
    torch.testing.assert_close(torch.func.vmap(lambda a, b: neuron_normalize(a, b, 0.9))(O, v), (H, v_new))
    compiled = torch.compile(neuron_normalize, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(O, v, 0.9), (H, v_new))
    half, v_half = neuron_normalize(O.half(), v.half(), 0.9)
    assert half.dtype == v_half.dtype == torch.float16
    torch.testing.assert_close(half.double(), H, rtol=5e-3, atol=1e-3)  # eps = 1e-10 would be 0 in float16
    zero, _ = neuron_normalize(torch.zeros(2, 2).half(), torch.zeros(2, 1).half(), 0.9)
    assert not zero.any()


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (8, 8)])
@pytest.mark.parametrize("scale", SCALES)
def test_first_step_makes_all_rows_equally_long(shape: tuple[int, int], scale: str) -> None:
    lengths = first_update(shape, scale=scale).norm(dim=1)
    assert (lengths / lengths.mean() - 1).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (8, 8)])
def test_official_and_none_keep_the_frobenius_norm(shape: tuple[int, int]) -> None:
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    set_gradients([p], 0)
    assert p.grad is not None
    u = (1 - 0.95**2) * p.grad  # Nesterov after one step: 0.05 g + 0.95 * 0.05 g
    length = float(newton_schulz(u).norm())
    m, n = shape
    assert float(first_update(shape).norm()) == pytest.approx(length * math.sqrt(max(1, m / n)), rel=1e-9)
    assert float(first_update(shape, scale="none").norm()) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (8, 8)])
def test_rms_scale_gives_two_tenths_at_every_step(shape: tuple[int, int]) -> None:
    params = parameters(shapes=[shape])
    optimizer = NorMuon(params, lr=0.5, scale="rms")
    for step in range(3):
        before = params[0].detach().clone()
        set_gradients(params, step)
        optimizer.step()
        assert float((before - params[0].detach()).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("shape", [(6, 14), (14, 6), (7, 7)])
def test_equal_second_moments_give_muons_step(shape: tuple[int, int]) -> None:
    (p,), (q,) = parameters(shapes=[shape]), parameters(shapes=[shape])
    normuon = NorMuon([p], lr=0.1, beta2=1 - 1e-12)
    normuon.state[p].update(
        momentum_buffer=torch.zeros_like(p), second_momentum_buffer=torch.ones(shape[0], 1, dtype=p.dtype)
    )
    muon = Muon([q], lr=0.1, weight_decay=0.0)
    for step in range(2):
        # Large, because the one adds eps = 1e-7 to the norm and the other clamps.
        set_gradients([p], step, 1e5)
        set_gradients([q], step, 1e5)
        normuon.step()
        muon.step()
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-9)


def test_gradient_scale_does_not_matter() -> None:
    trajectories = []
    for factor in (1.0, 1000.0):
        params = parameters()
        optimizer = NorMuon(params)
        for step in range(3):
            set_gradients(params, step, factor)
            optimizer.step()
        trajectories.append(params)
    for a, b in zip(*trajectories, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_zero_gradient_changes_nothing_and_is_finite(scale: str) -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.zeros_like(p)
    NorMuon(params, scale=scale).step()
    assert all(torch.equal(p.detach(), b) for p, b in zip(params, before, strict=True))


def test_dead_row_stays_zero_and_its_first_activity_has_the_documented_size() -> None:
    O = gaussian(3, 8)
    O[1] = 0
    H, v = neuron_normalize(O, torch.zeros(3, 1, dtype=O.dtype), 0.95)
    assert not H[1].any()
    O[1] = 1e-3 * gaussian(8, seed=1)
    H, _ = neuron_normalize(O, v, 0.95)
    assert float(H[1].square().mean().sqrt()) == pytest.approx(1 / math.sqrt(0.05), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_tall_matrices_gain_row_balance(seed: int) -> None:
    def imbalance(U: Tensor) -> float:
        return float(U.norm(dim=1).std(correction=0) / U.norm(dim=1).mean())

    scales = gaussian(256, 1, seed=seed).exp()
    p, q = (nn.Parameter(torch.zeros(256, 64, dtype=torch.float64)) for _ in range(2))
    normuon, muon = NorMuon([p], lr=1.0), Muon([q], lr=1.0, weight_decay=0.0)
    for step in range(6):
        p.grad = q.grad = scales * gaussian(256, 64, seed=10 + 7 * seed + step)
        before = p.detach().clone(), q.detach().clone()
        normuon.step()
        muon.step()
        assert imbalance(before[0] - p.detach()) < 0.25 * imbalance(before[1] - q.detach())


# ------------------------------------------------------------------------------------------------- groups


def test_group_without_flag_is_split() -> None:
    params = parameters(shapes=[(3, 4), (3,), (2, 3, 2), (5,)])
    optimizer = NorMuon([{"params": params, "lr": 0.1, "weight_decay": 0.5}], adam_lr=0.002)
    matrices, rest = optimizer.param_groups
    assert [p.ndim for p in matrices["params"]] == [2, 3]
    assert [p.ndim for p in rest["params"]] == [1, 1]
    assert (matrices["use_muon"], matrices["lr"], matrices["weight_decay"]) == (True, 0.1, 0.5)
    assert (rest["use_muon"], rest["lr"], rest["weight_decay"]) == (False, 0.002, 0.0)


def test_group_of_matrices_only_stays_one_group() -> None:
    assert len(NorMuon(parameters(shapes=[(3, 4), (4, 3)])).param_groups) == 1


def test_named_parameters_keep_their_names() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = NorMuon(model.named_parameters())
    assert [g["param_names"] for g in optimizer.param_groups] == [
        ["0.weight", "1.weight"],
        ["0.bias", "1.bias"],
    ]


def test_flagged_false_group_takes_its_own_lr_or_adam_lr() -> None:
    a, b, c = parameters(shapes=[(3, 4), (3, 4), (3, 4)])
    optimizer = NorMuon(
        [
            {"params": [a], "use_muon": True},
            {"params": [b], "use_muon": False, "lr": 0.5},
            {"params": [c], "use_muon": False},
        ],
        lr=0.1,
        adam_lr=0.01,
        weight_decay=0.3,
    )
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.5, 0.01]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0, 0.0]


def test_scheduler_moves_both_kinds() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = NorMuon(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def test_split_matrix_params_feeds_normuon_and_its_groups_can_be_reused() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(7, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 7)})
    groups = split_matrix_params(model)
    first = NorMuon(groups, lr=0.5, adam_lr=0.1)
    second = NorMuon(groups)
    assert [g["lr"] for g in first.param_groups] == [0.5, 0.1]
    assert [g["lr"] for g in second.param_groups] == [0.02, 3e-4]
    assert [len(g["params"]) for g in second.param_groups] == [1, 4]


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_auxiliary_adam_equals_torch(weight_decay: float) -> None:
    ours, theirs = parameters(shapes=[(3,), (4, 5), (2, 2, 2)]), parameters(shapes=[(3,), (4, 5), (2, 2, 2)])
    optimizer = NorMuon([{"params": ours, "use_muon": False, "weight_decay": weight_decay}], weight_decay=9.0)
    adam = torch.optim.AdamW(theirs, lr=3e-4, betas=(0.9, 0.95), eps=1e-10, weight_decay=weight_decay)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        adam.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)
        assert sorted(optimizer.state[p]) == ["exp_avg", "exp_avg_sq", "step"]


def test_missing_gradients() -> None:
    def run(zero_missing_grads: bool) -> tuple[Tensor, Tensor, NorMuon]:
        (p,) = parameters(shapes=[(3, 4)])
        optimizer = NorMuon([p], weight_decay=0.5, lr=0.1, zero_missing_grads=zero_missing_grads)
        set_gradients([p], 0)
        optimizer.step()
        before = p.detach().clone()
        p.grad = None
        optimizer.step()
        return before, p.detach(), optimizer

    before, after, _ = run(False)
    assert torch.equal(before, after)
    before, after, _ = run(True)
    reference = Reference(parameters(shapes=[(3, 4)])[0].detach().numpy(), lr=0.1, wd=0.5)
    reference.step(gaussian(3, 4, seed=1000).numpy())
    reference.o["wd"] = 0.0  # no decay without a gradient
    reference.step(np.zeros((3, 4)))
    np.testing.assert_allclose(after.numpy(), reference.W, rtol=0, atol=1e-10)
    assert not torch.equal(before, after)
    # A matrix that never had a gradient does not move.
    (q,) = parameters(shapes=[(3, 4)])
    start = q.detach().clone()
    NorMuon([q], zero_missing_grads=True, weight_decay=0.5).step()
    assert torch.equal(q.detach(), start)


# ------------------------------------------------------------------------------------------------ machine


def test_state_dict_resumes_bit_for_bit() -> None:
    shapes: list[tuple[int, ...]] = [(4, 6), (4, 6), (6, 4), (3,), (2, 3, 2)]
    params = parameters(torch.float32, shapes)
    optimizer = NorMuon(params, ns_dtype=torch.bfloat16, weight_decay=0.1)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twins = [nn.Parameter(p.detach().clone()) for p in params]
    resumed = NorMuon(twins)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(3, 6):
        set_gradients(params, step)
        set_gradients(twins, step)
        optimizer.step()
        resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    copied = copy.deepcopy(optimizer)
    assert copied.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()


def test_state_is_one_momentum_and_m_numbers() -> None:
    params = parameters(torch.float32, [(8, 5)])
    set_gradients(params, 0)
    optimizer = NorMuon(params)
    optimizer.step()
    state = optimizer.state[params[0]]
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "momentum_buffer": (8, 5),
        "second_momentum_buffer": (8, 1),
    }
    assert all(value.dtype == torch.float32 for value in state.values())


def test_half_parameters_follow_float32() -> None:
    shapes: list[tuple[int, ...]] = [(6, 9), (9, 6)]
    half, single = parameters(torch.bfloat16, shapes), parameters(torch.float32, shapes)
    for p, q in zip(half, single, strict=True):
        q.data.copy_(p)
    optimizers = NorMuon(half, lr=0.1), NorMuon(single, lr=0.1)
    set_gradients(half, 0)
    for p, q in zip(half, single, strict=True):
        assert p.grad is not None
        q.grad = p.grad.float()
    for optimizer in optimizers:
        optimizer.step()
    for p, q in zip(half, single, strict=True):
        assert p.dtype == torch.bfloat16
        torch.testing.assert_close(p.detach().float(), q.detach(), rtol=2**-7, atol=2e-3)


def test_closure_runs_with_gradients() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    x = gaussian(16, 6, dtype=torch.float32)
    optimizer = NorMuon(model.parameters(), lr=0.01)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(x) - x[:, :1]).square().mean()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(20)]
    assert losses[-1] is not None
    assert losses[0] is not None
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr": -0.1}, "lr"),
        ({"adam_lr": -0.1}, "adam_lr"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"beta2": 1.0}, "beta2"),
        ({"beta2": -0.1}, "beta2"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": 0.9}, "betas"),
        ({"ns_steps": 0}, "ns_steps"),
        ({"ns_steps": 100}, "ns_steps"),
        ({"scale": "frobenius"}, "scale"),
        ({"eps": -1.0}, "eps"),
        ({"adam_eps": -1.0}, "adam_eps"),
        ({"ns_dtype": "bfloat16"}, "ns_dtype"),
    ],
)
def test_refuses(options: dict[str, Any], word: str) -> None:
    params = parameters(shapes=[(2, 2)])
    with pytest.raises(ValueError, match=word):
        NorMuon(params, **options)
    good = NorMuon(params)
    with pytest.raises(ValueError, match=word):
        good.add_param_group({"params": parameters(shapes=[(2, 2)]), **options})
    assert len(good.param_groups) == 1


def test_refuses_vectors_in_a_matrix_group() -> None:
    with pytest.raises(ValueError, match="use_muon"):
        NorMuon([{"params": parameters(shapes=[(3,)]), "use_muon": True}])
    with pytest.raises(ValueError, match="use_muon"):
        NorMuon([{"params": parameters(shapes=[(3, 3)]), "use_muon": "yes"}])


def test_neuron_normalize_refuses() -> None:
    O, v = torch.ones(3, 4), torch.ones(3, 1)
    for arguments, word in [
        ((O[0], v, 0.9), "O"),
        ((O, v.mT, 0.9), "v"),
        ((O, v, 1.0), "beta2"),
        ((O, v, 0.9, -1.0), "eps"),
    ]:
        with pytest.raises(ValueError, match=word):
            neuron_normalize(*arguments)  # type: ignore[arg-type]


def test_sparse_or_complex_gradient_changes_nothing() -> None:
    p, q = parameters(shapes=[(2, 2), (3, 3)])
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    q.grad = torch.eye(3, dtype=q.dtype).to_sparse()
    optimizer = NorMuon([p, q])
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(p.detach(), before)
    c = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    c.grad = torch.ones_like(c)
    with pytest.raises(RuntimeError, match="complex"):
        NorMuon([c]).step()

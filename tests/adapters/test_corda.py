"""CorDA: decomposition, starts of adapters, truncation, the collector and whole networks."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.adapters import (
    CovarianceCollector,
    LoRALinear,
    apply_corda,
    context_energy,
    context_oriented_svd,
    corda_init,
    damped_covariance,
    lora_init,
    pissa_init,
    truncated_reconstruction,
)

OUT, IN = 5, 7
RANK = min(OUT, IN)
FUSIONS = ("UV", "U", "V")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def activations(rows: int = 40, seed: int = 1) -> Tensor:
    """Inputs in which directions differ in size by a factor of 20."""
    return (
        randn(rows, IN, seed=seed)
        * torch.logspace(-0.7, 0.6, IN, dtype=torch.float64)
        @ torch.linalg.qr(randn(IN, IN, seed=seed + 50))[0]
    )


def covariance(rows: int = 40, seed: int = 1) -> Tensor:
    x = activations(rows, seed)
    return x.mT @ x


def reference(
    W: np.ndarray, C: np.ndarray, damp: float = 0.01
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """U, S, Vhat and C' in NumPy; Vhat by solving, not by inverting."""
    fixed = C.copy()
    for i in range(len(C)):
        fixed[i, i] += damp * sum(C[j, j] for j in range(len(C))) / len(C)
    U, S, Vh = np.linalg.svd(W @ fixed, full_matrices=False)
    return U, S, np.linalg.solve(fixed, Vh.T), fixed


# ------------------------------------------------------------------------------------------- the decomposition


def test_check_2_exact_decomposition() -> None:
    W, C = randn(OUT, IN), covariance()
    U, S, V_hat, damp = context_oriented_svd(W, C)
    _, S0, _, fixed = reference(W.numpy(), C.numpy())
    assert damp == 0.01
    np.testing.assert_allclose(U * S @ V_hat.mT, W, rtol=0, atol=1e-9)
    np.testing.assert_allclose(U.mT @ U, np.eye(RANK), atol=1e-12)
    np.testing.assert_allclose(S, S0, rtol=1e-10)
    assert bool((S[:-1] >= S[1:]).all())
    np.testing.assert_allclose(
        U * S @ V_hat.mT @ torch.from_numpy(fixed), W.numpy() @ fixed, rtol=1e-9, atol=1e-9
    )
    assert float((V_hat.mT @ V_hat - torch.eye(RANK)).abs().max()) > 0.1, "V_hat is not orthonormal"
    assert bool((U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()), "signs are fixed"


def test_components_equal_numpys() -> None:
    W, C = randn(OUT, IN), covariance()
    U, S, V_hat, _ = context_oriented_svd(W, C, damp=0.03)
    U0, S0, V0, _ = reference(W.numpy(), C.numpy(), 0.03)
    for i in range(RANK):
        np.testing.assert_allclose(
            S[i] * torch.outer(U[:, i], V_hat[:, i]),
            S0[i] * np.outer(U0[:, i], V0[:, i]),
            rtol=1e-8,
            atol=1e-9,
        )


def test_damped_covariance_equals_numpy_and_tall_weights() -> None:
    C = covariance()
    fixed, inverse, damp = damped_covariance(C, damp=0.2)
    expected = C.numpy() + 0.2 * np.trace(C.numpy()) / IN * np.eye(IN)
    np.testing.assert_allclose(fixed, expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(inverse, np.linalg.inv(expected), rtol=1e-9, atol=1e-12)
    assert damp == 0.2
    tall = randn(9, IN)
    U, S, V_hat, _ = context_oriented_svd(tall, C)
    assert (U.shape, S.shape, V_hat.shape) == ((9, IN), (IN,), (IN, IN))
    np.testing.assert_allclose(U * S @ V_hat.mT, tall, atol=1e-9)


def test_check_9_rank_deficient_covariance_is_inverted_at_the_first_damping() -> None:
    C = covariance(rows=3)
    assert int(torch.linalg.matrix_rank(C)) == 3
    for dtype in (torch.float64, torch.float32):
        fixed, inverse, damp = damped_covariance(C.to(dtype))
        assert damp == 0.01
        assert fixed.dtype == inverse.dtype == dtype
        assert float(torch.linalg.matrix_norm(fixed @ inverse - torch.eye(IN, dtype=dtype))) < 0.05


def test_damping_doubles_until_the_inverse_is_good_enough() -> None:
    C = torch.ones(3, 3, dtype=torch.float64)
    fixed, inverse, damp = damped_covariance(C, damp=1e-30)
    assert damp == 1e-30 * 2 ** round(math.log2(damp / 1e-30))
    assert damp > 1e-17, "less vanishes beside 1, and leaves the matrix singular"
    assert float(torch.linalg.matrix_norm(fixed @ inverse - torch.eye(3))) < 0.05
    loose, tight = (damped_covariance(C.float(), 1e-9, tol)[2] for tol in (0.5, 1e-5))
    assert tight > loose > 1e-9


def test_damping_ends_after_two_hundred_doublings(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def always_singular(C: Tensor) -> tuple[Tensor, Tensor]:
        tried.append(float(C[0, 1]))
        return torch.zeros_like(C), torch.tensor(1)

    monkeypatch.setattr(torch.linalg, "inv_ex", always_singular)
    with pytest.raises(ValueError, match=r"^C could not be inverted"):
        damped_covariance(covariance())
    assert len(tried) == 201


def test_computation_and_result_dtypes() -> None:
    W, C = randn(OUT, IN).bfloat16(), covariance().bfloat16()
    fixed, inverse, _ = damped_covariance(C)
    assert fixed.dtype == inverse.dtype == torch.float32
    found = context_oriented_svd(W, C)
    assert {found.U.dtype, found.S.dtype, found.V_hat.dtype} == {torch.bfloat16}
    _, S0, _, _ = reference(W.double().numpy(), C.double().numpy())
    np.testing.assert_allclose(found.S.double(), S0, rtol=0.01)
    for mode in ("kpm", "ipm"):
        A, B, W_res = corda_init(W, C, 2, mode)
        assert {A.dtype, B.dtype, W_res.dtype} == {torch.bfloat16}
        rebuilt = W_res.double() + B.double() @ A.double()
        assert float((rebuilt - W.double()).abs().max()) <= 2**-8 * float(W_res.double().abs().max())
    wide = context_oriented_svd(W.float(), covariance())
    exact = context_oriented_svd(W.double(), covariance())
    torch.testing.assert_close(wide.S, exact.S.float(), rtol=1e-6, atol=0)


def test_results_are_detached_and_arguments_stay() -> None:
    W, C = nn.Parameter(randn(OUT, IN)), covariance().requires_grad_()
    before = W.detach().clone(), C.detach().clone()
    for result in (
        *corda_init(W, C, 2),
        *pissa_init(W, 2),
        *lora_init(W, 2),
        *context_oriented_svd(W, C)[:3],
    ):
        assert not result.requires_grad
        assert result.untyped_storage().data_ptr() != W.untyped_storage().data_ptr()
    assert not truncated_reconstruction(W, 1, covariance=C).requires_grad
    assert torch.equal(W, before[0])
    assert torch.equal(C, before[1])


# ---------------------------------------------------------------------------------------------- the adapters


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
@pytest.mark.parametrize("sigma_fuse", FUSIONS)
@pytest.mark.parametrize("alpha", [None, 1.0, 6.0])
def test_factors_equal_numpy(mode: str, sigma_fuse: str, alpha: float | None) -> None:
    W, C, r = randn(OUT, IN), covariance(), 2
    s = 1.0 if alpha is None else alpha / r
    A, B, W_res = corda_init(W, C, r, mode, alpha, sigma_fuse)
    U, S, V_hat, _ = reference(W.numpy(), C.numpy())
    order = range(RANK - r, RANK) if mode == "kpm" else range(r)
    share_of_B = {"UV": 0.5, "U": 1.0, "V": 0.0}[sigma_fuse]
    for column, i in enumerate(order):
        sign = math.copysign(1.0, U[:, i] @ B[:, column].numpy())
        np.testing.assert_allclose(
            B[:, column], sign * U[:, i] * (S[i] / s) ** share_of_B, rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(
            A[column], sign * V_hat[:, i] * (S[i] / s) ** (1 - share_of_B), rtol=1e-7, atol=1e-9
        )
    np.testing.assert_allclose(W_res, W.numpy() - s * B.numpy() @ A.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("r", [1, 3, RANK])
@pytest.mark.parametrize("alpha", [None, 7.0])
def test_pissa_is_the_truncated_svd(r: int, alpha: float | None) -> None:
    W = randn(OUT, IN)
    s = 1.0 if alpha is None else alpha / r
    A, B, W_res = pissa_init(W, r, alpha)
    U, S, Vh = np.linalg.svd(W.numpy(), full_matrices=False)
    np.testing.assert_allclose(s * B @ A, U[:, :r] * S[:r] @ Vh[:r], atol=1e-12)
    np.testing.assert_allclose(W_res, U[:, r:] * S[r:] @ Vh[r:], atol=1e-12)
    np.testing.assert_allclose(A @ A.mT, np.diag(S[:r] / s), atol=1e-11)
    np.testing.assert_allclose(B.mT @ B, np.diag(S[:r] / s), atol=1e-11)


def test_lora_start() -> None:
    W = randn(60, 40)
    A, B, W_res = lora_init(W, 30, torch.Generator().manual_seed(3))
    assert torch.equal(W_res, W)
    assert W_res is not W
    assert not B.any()
    assert float(A.abs().max()) <= 1 / math.sqrt(40)
    assert float(A.std()) == pytest.approx(1 / math.sqrt(3 * 40), rel=0.1)
    assert torch.equal(A, lora_init(W, 30, torch.Generator().manual_seed(3))[0])


def test_check_4_a_multiple_of_the_identity_is_pissa() -> None:
    W = randn(OUT, IN)
    for multiple in (1.0, 37.0):
        A, B, W_res = corda_init(W, multiple * torch.eye(IN).double(), 2, "ipm")
        A0, B0, W0 = pissa_init(W, 2)
        np.testing.assert_allclose(B @ A, B0 @ A0, atol=1e-10)
        np.testing.assert_allclose(W_res, W0, atol=1e-10)
        A, B, W_res = corda_init(W, multiple * torch.eye(IN).double(), 2, "kpm")
        U, S, Vh = np.linalg.svd(W.numpy(), full_matrices=False)
        np.testing.assert_allclose(B @ A, U[:, -2:] * S[-2:] @ Vh[-2:], atol=1e-10)


@pytest.mark.parametrize("t", [1e-6, 300.0])
def test_check_5_scale_of_the_covariance_does_not_matter(t: float) -> None:
    W, C = randn(OUT, IN), covariance()
    for mode in ("kpm", "ipm"):
        A, B, W_res = corda_init(W, C, 2, mode)
        A1, B1, W1 = corda_init(W, t * C, 2, mode)
        torch.testing.assert_close(B1 @ A1, B @ A, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(W1, W_res, rtol=1e-6, atol=1e-9)


def test_check_6_modes_use_disjoint_components() -> None:
    W, C = randn(OUT, IN), covariance()
    deltas = []
    for mode in ("kpm", "ipm"):
        A, B, W_res = corda_init(W, C, 2, mode)
        deltas.append(B @ A)
        A, B, W_res = corda_init(W, C, RANK, mode, alpha=3.0)
        np.testing.assert_allclose(B @ A, W / (3.0 / RANK), rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(W_res, np.zeros((OUT, IN)), atol=1e-10)
    np.testing.assert_allclose(deltas[0].mT @ deltas[1], np.zeros((IN, IN)), atol=1e-10)


def test_check_7_energy_of_the_adapter() -> None:
    W, C = randn(OUT, IN), covariance()
    _, S, _, fixed = reference(W.numpy(), C.numpy())
    energies = {}
    for mode, chosen in (("kpm", S[-2:]), ("ipm", S[:2])):
        A, B, _ = corda_init(W, C, 2, mode, alpha=5.0)
        energies[mode] = np.linalg.norm(2.5 * B.numpy() @ A.numpy() @ fixed) ** 2
        assert energies[mode] == pytest.approx((chosen**2).sum(), rel=1e-7)
    assert energies["kpm"] < energies["ipm"]


# ------------------------------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("discard", range(RANK + 1))
def test_check_3_weighted_eckart_young(discard: int) -> None:
    W, C = randn(OUT, IN), covariance()
    _, S, _, fixed = reference(W.numpy(), C.numpy())
    options: dict[str, dict[str, Any]] = {
        "corda": {"covariance": C},
        "asvd": {"abs_mean": activations().abs().mean(0)},
        "svd": {},
    }
    weighted, plain = {}, {}
    for method, given in options.items():
        error = W.numpy() - truncated_reconstruction(W, discard, method, **given).numpy()
        weighted[method] = np.linalg.norm(error @ fixed)
        plain[method] = np.linalg.norm(error)
    assert weighted["corda"] == pytest.approx(math.sqrt((S[RANK - discard :] ** 2).sum()), rel=1e-7, abs=1e-7)
    assert weighted["corda"] <= min(weighted["asvd"], weighted["svd"]) * (1 + 1e-9) + 1e-7
    assert plain["svd"] <= min(plain["asvd"], plain["corda"]) * (1 + 1e-9) + 1e-9
    if 0 < discard < RANK:
        assert weighted["corda"] < 0.99 * weighted["svd"]
        assert plain["svd"] < 0.99 * plain["corda"]
    if discard == RANK:
        assert not truncated_reconstruction(W, discard, covariance=C).any()


def test_asvd_equals_numpy() -> None:
    W, mean = randn(OUT, IN), activations().abs().mean(0)
    for alpha in (0.5, 1.0):
        d = mean.numpy() ** alpha + 1e-6
        U, S, Vh = np.linalg.svd(W.numpy() * d, full_matrices=False)
        found = truncated_reconstruction(W, 2, "asvd", abs_mean=mean, asvd_alpha=alpha)
        np.testing.assert_allclose(found, U[:, :-2] * S[:-2] @ Vh[:-2] / d, rtol=1e-9, atol=1e-10)
    flat = truncated_reconstruction(W, 2, "asvd", abs_mean=mean, asvd_alpha=0.0)
    torch.testing.assert_close(flat, truncated_reconstruction(W, 2, "svd"), rtol=1e-9, atol=1e-10)
    assert truncated_reconstruction(W.bfloat16(), 2, "svd").dtype == torch.bfloat16


def test_context_energy() -> None:
    W, C = randn(OUT, IN), covariance()
    _, S, _, _ = reference(W.numpy(), C.numpy())
    for k in range(RANK + 1):
        assert context_energy(W, C, k) == pytest.approx((S[:k] ** 2).sum() / (S**2).sum(), rel=1e-9)
    assert context_energy(torch.zeros(OUT, IN), C, 0) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda W, C: corda_init(W, C, 0), "r must"),
        (lambda W, C: corda_init(W, C, RANK + 1), "r must"),
        (lambda W, C: corda_init(W, C, 2, "kpa"), "mode must"),
        (lambda W, C: corda_init(W, C, 2, alpha=0.0), "alpha must"),
        (lambda W, C: corda_init(W, C, 2, sigma_fuse="S"), "sigma_fuse must"),
        (lambda W, C: corda_init(W, C, 2, damp=0.0), "damp must"),
        (lambda W, C: corda_init(W[0], C, 2), "W must"),
        (lambda W, C: corda_init(W, C[:-1, :-1], 2), "C must"),
        (lambda W, C: corda_init(W, C[:-1], 2), "C must"),
        (lambda W, C: corda_init(W, C * math.nan, 2), "C must be finite"),
        (lambda W, C: corda_init(W, 0 * C, 2), "C must have a positive mean"),
        (lambda W, C: corda_init(W, -C, 2), "C must have a positive mean"),
        (lambda W, C: pissa_init(W, 0), "r must"),
        (lambda W, C: pissa_init(W, 1, alpha=-1.0), "alpha must"),
        (lambda W, C: lora_init(W, RANK + 1), "r must"),
        (lambda W, C: context_oriented_svd(W, C, damp=-1.0), "damp must"),
        (lambda W, C: context_oriented_svd(W, C, tol=0.0), "tol must"),
        (lambda W, C: damped_covariance(C[:-1]), "C must be a square"),
        (lambda W, C: damped_covariance(C / 0), "C must be finite"),
        (lambda W, C: damped_covariance(C, tol=-1.0), "tol must"),
        (lambda W, C: truncated_reconstruction(W, -1, covariance=C), "discard must"),
        (lambda W, C: truncated_reconstruction(W, RANK + 1, covariance=C), "discard must"),
        (lambda W, C: truncated_reconstruction(W, 1), "covariance must"),
        (lambda W, C: truncated_reconstruction(W, 1, covariance=C[:-1, :-1]), "covariance must"),
        (lambda W, C: truncated_reconstruction(W, 1, "asvd", C), "abs_mean must"),
        (lambda W, C: truncated_reconstruction(W, 1, "asvd", abs_mean=C), "abs_mean must"),
        (lambda W, C: truncated_reconstruction(W, 1, "asvd", abs_mean=-(C[0] ** 2)), "abs_mean must"),
        (
            lambda W, C: truncated_reconstruction(W, 1, "asvd", abs_mean=C[0] ** 2, asvd_alpha=-1),
            "asvd_alpha must",
        ),
        (lambda W, C: truncated_reconstruction(W, 1, "pca"), "method must"),
        (lambda W, C: context_energy(W, C, RANK + 1), "k must"),
        (lambda W, C: context_energy(W, C, -1), "k must"),
    ],
)
def test_refusals(call, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}"):
        call(randn(OUT, IN), covariance())


def test_integers_are_refused() -> None:
    for call in (
        lambda W: corda_init(W, covariance(), 2),
        lambda W: pissa_init(W, 2),
        lambda W: lora_init(W, 2),
        lambda W: truncated_reconstruction(W, 1, "svd"),
        lambda W: context_energy(W, covariance(), 1),
    ):
        with pytest.raises(TypeError, match=r"^W must"):
            call(torch.ones(OUT, IN).long())
    with pytest.raises(TypeError, match=r"^C must"):
        damped_covariance(torch.eye(3).long())


# -------------------------------------------------------------------------------------------- a whole network


class Network(nn.Module):
    """Embedding, block with a layer in two places, norm, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, IN)
        shared = nn.Linear(IN, IN)
        self.block = nn.Sequential(nn.Linear(IN, IN), nn.Tanh(), shared, nn.Dropout(0.5))
        self.again = shared
        self.norm = nn.LayerNorm(IN)
        self.lm = nn.ModuleDict({"head": nn.Linear(IN, 11)})

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        return self.lm["head"](self.norm(self.again(self.block(h))))


def network(seed: int = 0) -> tuple[Network, Tensor]:
    torch.manual_seed(seed)
    return Network().double(), torch.randint(11, (6, 9))


def collected(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    with CovarianceCollector(model, dtype=torch.float64) as collector:
        for sample in tokens:
            model(sample[None])
    return collector.covariances()


@pytest.mark.parametrize("mode", ["kpm", "ipm"])
def test_check_1_network_is_unchanged_at_the_start_and_check_8_only_adapters_train(mode: str) -> None:
    model, tokens = network()
    covariances = collected(model, tokens)
    expected = model.eval()(tokens)
    base = copy.deepcopy(model)
    adapted = apply_corda(model.train(), covariances, 2, mode, alpha=3.0)
    assert adapted is model
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.eval()(tokens), expected, rtol=0, atol=1e-9)
    assert isinstance(model.block[0], LoRALinear)
    assert model.again is model.block[2]
    assert type(model.lm["head"]) is nn.Linear
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"block.{i}.lora_{factor}" for i in (0, 2) for factor in "AB"}
    A, B, W_res = corda_init(base.block[0].weight, covariances["block.0"], 2, mode, 3.0)
    assert torch.equal(model.block[0].weight, W_res)

    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for step in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        if step == 0:
            for name in trained:
                assert float(model.get_parameter(name).grad.abs().max()) > 1e-8, (
                    "check 10: A and B have gradients"
                )
        optimizer.step()
    for name, value in model.state_dict().items():
        if name not in trained and isinstance(value, Tensor) and not name.startswith("again.lora_"):
            assert torch.equal(value, before[name]), name
    assert float((model(tokens) - expected).detach().abs().max()) > 0.1

    merged = model.block[0].merge()
    x = randn(4, IN)
    torch.testing.assert_close(merged(x), model.block[0](x), rtol=0, atol=1e-10)
    A, B = model.block[0].export_lora()
    torch.testing.assert_close(base.block[0].weight + B @ A, merged.weight, rtol=0, atol=1e-10)


def test_apply_refuses_before_anything_is_replaced() -> None:
    model, tokens = network()
    covariances = collected(model, tokens)
    model.requires_grad_(True)
    cases = [
        ({"covariances": {"block.0": covariances["block.0"]}}, "block.2"),
        ({"covariances": covariances | {"block.2": torch.zeros(IN, IN)}}, "block.2"),
        ({"covariances": covariances | {"block.2": torch.eye(IN + 1)}}, "block.2"),
        ({"covariances": covariances | {"block.2": torch.full((IN, IN), math.nan)}}, "block.2"),
        ({"r": IN + 1}, "block.0"),
        ({"skip": ()}, "lm.head"),
        ({"r": 0}, "r must"),
        ({"mode": "kpa"}, "mode must"),
        ({"alpha": -1.0}, "alpha must"),
        ({"sigma_fuse": "S"}, "sigma_fuse must"),
        ({"damp": 0.0}, "damp must"),
    ]
    covariances.pop("lm.head")
    for options, named in cases:
        given = {"covariances": covariances, "r": 2, "mode": "kpm", **options}
        with pytest.raises(ValueError, match=named):
            apply_corda(model, **given)
        assert not any(isinstance(module, LoRALinear) for module in model.modules())
        assert all(p.requires_grad for p in model.parameters())


def test_apply_skips_by_components_and_ignores_other_covariances() -> None:
    model, tokens = network()
    covariances = collected(model, tokens) | {"elsewhere": torch.eye(3)}
    apply_corda(model, covariances, 1, "ipm", skip=("block",))
    replaced = [name for name, module in model.named_modules() if isinstance(module, LoRALinear)]
    assert replaced == ["lm.head"], "a layer in two places is skipped under its first name"
    single = nn.Linear(3, 4)
    layer = apply_corda(single, {"": torch.eye(3)}, 1, "kpm", skip="head")
    assert isinstance(layer, LoRALinear)
    assert [p.requires_grad for p in layer.parameters()] == [True, True]

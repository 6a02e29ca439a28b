import copy
import math
import warnings
from collections.abc import Callable
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial
from scipy.special import erf
from torch import nn

from normviz import residual as package
from normviz.residual import _jets, expansion
from normviz.residual.blocks import (
    ConvBlock,
    FixupBlock,
    MLPBlock,
    ResidualTower,
    SkipInit,
    build_tower,
    fixup_init_,
)
from normviz.residual.expansion import (
    expansion_terms,
    level_coefficients,
    level_contributions,
    path_count,
    remainder_bound,
    remainder_slope,
    sample_paths,
    truncated_forward,
)

kinks = pytest.mark.filterwarnings("ignore:a module has a kink:UserWarning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def array(t: torch.Tensor) -> np.ndarray:
    return t.detach().numpy()


def randomise(module: nn.Module, std: float = 0.5) -> nn.Module:
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


def affine_tower(
    n: int, d: int, bias: bool = True, scale: float | str | list[float] = "inv"
) -> ResidualTower:
    return ResidualTower([nn.Linear(d, d, bias=bias).double() for _ in range(n)], scale)


def tanh_tower(n: int, d: int, hidden: int, scale: float | str | list[float] = "inv") -> ResidualTower:
    return ResidualTower([randomise(MLPBlock(d, hidden, "tanh"), 0.8) for _ in range(n)], scale)


class Layer:
    """f(h) = V tanh(W h + b) + c in NumPy, with its directional derivatives written out."""

    def __init__(self, block: MLPBlock, x: torch.Tensor) -> None:
        self.W, self.V = array(block.first.weight), array(block.last.weight)
        t = np.tanh(array(x) @ self.W.T + array(block.first.bias))
        self.value = t @ self.V.T + array(block.last.bias)
        s = 1 - t**2
        self.derivatives = [t, s, -2 * t * s, (6 * t**2 - 2) * s]

    def __call__(self, *directions: np.ndarray) -> np.ndarray:
        """f^{(m)}(x)[directions]."""
        if not directions:
            return self.value
        inner = self.derivatives[len(directions)]
        for v in directions:
            inner = inner * (v @ self.W.T)
        return inner @ self.V.T


def layers(tower: ResidualTower, x: torch.Tensor) -> list[Layer]:
    return [Layer(block, x) for block in tower.blocks]


# ------------------------------------------------------------------------------------------------- affine towers


@pytest.mark.parametrize("method", ["jet", "linear", "trees"])
@pytest.mark.parametrize("bias", [True, False])
def test_affine_levels_equal_the_sum_over_subsets(method: str, bias: bool) -> None:
    n, d = 6, 4
    tower, x = affine_tower(n, d, bias), randn(3, 4)
    order = 4 if method == "trees" else n
    T = array(expansion_terms(tower, x, order, method))
    members = 0
    for k in range(order + 1):
        level = np.zeros((3, d))
        for subset in combinations(range(n), k):
            value = array(x)
            for position, i in enumerate(subset):
                value = value @ array(tower.blocks[i].weight).T
                if bias and position == 0:
                    value = value + array(tower.blocks[i].bias)
            level += value
            members += 1
        np.testing.assert_allclose(T[k], level, rtol=0, atol=1e-10)
    if order == n:
        assert members == 64


@pytest.mark.parametrize("method", ["jet", "linear"])
@pytest.mark.parametrize("lam", [1.0, 0.3, 1 / 6, -0.7])
def test_affine_levels_sum_to_the_forward(method: str, lam: float) -> None:
    tower, x = affine_tower(6, 4, scale=lam), randn(3, 4)
    T = expansion_terms(tower, x, 6, method)
    total = sum(lam**k * T[k] for k in range(7))
    torch.testing.assert_close(total, tower(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(expansion_terms(tower, x, 6, method, scaled=True).sum(0), tower(x))


@pytest.mark.parametrize("method", ["jet", "linear"])
def test_levels_above_n_are_exactly_zero(method: str) -> None:
    T = expansion_terms(affine_tower(3, 4), randn(2, 4), 6, method)
    assert T.shape == (7, 2, 4)
    assert T[3].abs().max() > 0
    assert not T[4:].any()
    deep = expansion_terms(affine_tower(20, 4), randn(2, 4), 20, "linear")  # no limit of the order here
    assert deep.shape == (21, 2, 4)


def test_unequal_scales() -> None:
    scales = [0.5, -2.0, 0.0, 1.5]
    tower, x = affine_tower(4, 3, scale=scales), randn(2, 3)
    for method in ("jet", "linear", "trees"):
        T = array(expansion_terms(tower, x, 4, method, scaled=True))
        for k in range(1, 5):
            level = np.zeros((2, 3))
            for subset in combinations(range(4), k):
                value = array(x) @ array(tower.blocks[subset[0]].weight).T + array(
                    tower.blocks[subset[0]].bias
                )
                for i in subset[1:]:
                    value = value @ array(tower.blocks[i].weight).T
                level += math.prod(scales[i] for i in subset) * value
            np.testing.assert_allclose(T[k], level, atol=1e-12)
        bare = expansion_terms(tower, x, 4, method)
        torch.testing.assert_close(
            bare, expansion_terms(affine_tower_with(tower, 1.0), x, 4, method, scaled=True)
        )


def affine_tower_with(tower: ResidualTower, scale: float) -> ResidualTower:
    return ResidualTower(tower.blocks, scale)


# ------------------------------------------------------------------------------------------------- smooth towers


@pytest.mark.parametrize("method", ["jet", "trees"])
def test_tanh_levels_equal_the_explicit_sums(method: str) -> None:
    n = 4
    tower, x = tanh_tower(n, 3, 5), randn(2, 3)
    f = layers(tower, x)
    T = array(expansion_terms(tower, x, 3, method))
    np.testing.assert_allclose(T[0], array(x))
    np.testing.assert_allclose(T[1], sum(g() for g in f), atol=1e-8)
    pairs, triples = list(combinations(range(n), 2)), list(combinations(range(n), 3))
    np.testing.assert_allclose(T[2], sum(f[j](f[i]()) for i, j in pairs), atol=1e-8)
    chains = sum(f[l](f[j](f[i]())) for i, j, l in triples)
    forks = sum(f[l](f[i](), f[j]()) for i, j, l in triples)
    repeated = sum(f[l](f[i](), f[i]()) for i, l in pairs) / 2
    np.testing.assert_allclose(T[3], chains + forks + repeated, atol=1e-8)
    for incomplete in (chains + forks, chains + repeated, forks + repeated, chains + forks + 2 * repeated):
        assert np.abs(T[3] - incomplete).max() > 1e-2


def tree_value(f: list[Layer], tree: tuple) -> np.ndarray:
    return f[tree[0]](*(tree_value(f, child) for child in tree[1]))


def symmetry(tree: tuple) -> int:
    children = tree[1]
    own = math.prod(math.factorial(children.count(child)) for child in set(children))
    return own * math.prod(symmetry(child) for child in children)


def trees(root: int, size: int) -> list[tuple]:
    kinds = [t for s in range(1, size) for label in range(root) for t in trees(label, s)]
    return [
        (root, forest)
        for count in range(size)
        for forest in combinations_with_replacement(kinds, count)
        if sum(map(nodes, forest)) == size - 1
    ]


def nodes(tree: tuple) -> int:
    return 1 + sum(map(nodes, tree[1]))


@pytest.mark.parametrize("method", ["jet", "trees"])
def test_fourth_level_equals_the_sum_over_all_trees_one_by_one(method: str) -> None:
    n = 4
    tower, x = tanh_tower(n, 2, 3), randn(2, 2)
    f = layers(tower, x)
    all_trees = [tree for root in range(n) for tree in trees(root, 4)]
    assert len(all_trees) == expansion.tree_count(n, 4)
    level = sum(tree_value(f, tree) / symmetry(tree) for tree in all_trees)
    np.testing.assert_allclose(array(expansion_terms(tower, x, 4, method)[4]), level, atol=1e-10)
    without_symmetry = sum(tree_value(f, tree) for tree in all_trees)
    assert np.abs(level - without_symmetry).max() > 1e-2


class Sine(nn.Module):
    """A module no rule knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)


def derivatives_of_tanh(x: np.ndarray, order: int) -> list[np.ndarray]:
    P, out = Polynomial([0, 1]), []
    for _ in range(order + 1):
        out.append(P(np.tanh(x)))
        P = P.deriv() * Polynomial([1, 0, -1])
    return out


def derivatives_of_gelu(x: np.ndarray, order: int) -> list[np.ndarray]:
    """x Phi(x): the k-th is x Phi^(k) + k Phi^(k-1), with Phi^(k) = (-1)^(k-1) He_{k-1} phi."""
    phi = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    hermite = [np.ones_like(x), x]
    for k in range(1, order + 1):
        hermite.append(x * hermite[k] - k * hermite[k - 1])
    Phi = [(1 + erf(x / math.sqrt(2))) / 2] + [(-1) ** k * hermite[k] * phi for k in range(order + 1)]
    return [x * Phi[k] + (k * Phi[k - 1] if k else 0) for k in range(order + 1)]


def derivatives_of_sine(x: np.ndarray, order: int) -> list[np.ndarray]:
    return [np.sin(x + k * math.pi / 2) for k in range(order + 1)]


@pytest.mark.parametrize(
    ("module", "derivatives", "order"),
    [
        (nn.Tanh(), derivatives_of_tanh, 12),
        (nn.GELU(), derivatives_of_gelu, 12),
        (Sine(), derivatives_of_sine, 8),
    ],
)
def test_jets_to_high_order(module: nn.Module, derivatives: Callable, order: int) -> None:
    """f_1 = c constant, f_2 = f: h_2 = x + lam c + lam f(x + lam c), so T_k = f^(k-1)(x) c^(k-1) / (k-1)!."""
    constant = nn.Linear(3, 3).double()
    nn.init.zeros_(constant.weight)
    c = array(constant.bias)
    x = randn(2, 3)
    T = array(expansion_terms(ResidualTower([constant, module], scale=0.1), x, order))
    d = derivatives(array(x), order)
    for k in range(2, order + 1):
        np.testing.assert_allclose(
            T[k], d[k - 1] * c ** (k - 1) / math.factorial(k - 1), rtol=1e-9, atol=1e-13
        )
    np.testing.assert_allclose(T[1], c + d[0])


def smooth_modules() -> dict[str, tuple[list[nn.Module], torch.Tensor]]:
    x, images = randn(5, 4), randn(2, 4, 3, 3)
    batch = nn.Sequential(nn.BatchNorm1d(4), nn.Tanh())
    evaluated = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.GELU("tanh")).eval()
    evaluated[1].running_mean.normal_()
    evaluated[1].running_var.uniform_(0.5, 2)
    return {
        "mlp": ([MLPBlock(4, 6, act, norm) for act in ("tanh", "gelu") for norm in (None, "batch", "layer")], x),
        "fixup": ([FixupBlock(4, 3, "tanh"), FixupBlock(4, activation="gelu", num_layers=3)], x),
        "skipinit": ([SkipInit(MLPBlock(4, activation="gelu"), 0.7), SkipInit(nn.Tanh(), -0.4)], x),
        "sequential": ([nn.Sequential(nn.Identity(), nn.Tanh(), nn.Linear(4, 4)), batch, evaluated], x),
        "unknown": ([Sine(), nn.Sequential(nn.Linear(4, 4), Sine()), nn.SiLU()], x),
        "norms": ([nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False)], x),
        "conv": ([ConvBlock(4, 3, 3, act, norm) for act, norm in
                  (("tanh", "batch"), ("gelu", "layer"), ("tanh", None))], images),
        "images": ([FixupBlock(4, kernel_size=3, activation="tanh"), nn.GroupNorm(2, 4), nn.BatchNorm2d(4),
                    nn.LayerNorm((3, 3))], images),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(smooth_modules()))
@pytest.mark.parametrize("scaled", [True, False])
def test_jets_equal_trees(kind: str, scaled: bool) -> None:
    modules, x = smooth_modules()[kind]
    scales = [0.3 + 0.2 * i for i in range(len(modules))]
    tower = randomise(ResidualTower(modules, scales, learnable=True))
    jets = expansion_terms(tower, x, 4, "jet", scaled)
    sums = expansion_terms(tower, x, 4, "trees", scaled)
    assert jets.shape == (5, *x.shape)
    assert all(level.abs().max() > 1e-4 for level in jets)
    torch.testing.assert_close(jets, sums, rtol=1e-8, atol=1e-9)


def test_series_of_the_norms_equal_nested_differentiation() -> None:
    """Beyond the orders that trees reach."""
    for f, shape in (
        (nn.LayerNorm((2, 3)), (4, 2, 3)),
        (nn.BatchNorm1d(3, track_running_stats=False), (4, 3)),
        (nn.BatchNorm1d(3, affine=False, track_running_stats=False), (4, 3, 2)),
        (nn.BatchNorm2d(3).eval(), (2, 3, 2, 2)),
        (nn.GroupNorm(2, 4), (3, 4, 2)),
        (nn.Conv1d(3, 2, 3, padding=1, padding_mode="circular"), (2, 3, 5)),
        (nn.GELU("tanh"), (2, 3)),
    ):
        a = randn(7, *shape)
        randomise(f)
        torch.testing.assert_close(_jets.module_series(f, a), _jets.nested_series(f, a), rtol=1e-8, atol=1e-8)
    a = randn(6, 3, 4, 5)
    channelwise = _jets.module_series(nn.GroupNorm(4, 4, affine=False), a)
    torch.testing.assert_close(
        channelwise, _jets.nested_series(nn.InstanceNorm1d(4), a), rtol=1e-8, atol=1e-8
    )


def test_a_subclass_of_a_known_layer_is_not_taken_for_it() -> None:
    class Squared(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) ** 2

    tower = ResidualTower([nn.Linear(3, 3).double(), Squared(3, 3).double()])
    x = randn(2, 3)
    torch.testing.assert_close(expansion_terms(tower, x, 3), expansion_terms(tower, x, 3, "trees"))


@pytest.mark.parametrize("K", range(5))
@pytest.mark.parametrize("seed", [0, 1])
def test_remainder_slope(K: int, seed: int) -> None:
    torch.manual_seed(seed)
    tower, x = tanh_tower(6, 3, 4).float(), torch.randn(5, 3)
    before = copy.deepcopy(tower.state_dict())
    assert remainder_slope(tower, x, K, [0.02, 0.01]) == pytest.approx(K + 1, abs=0.35)
    for key, value in tower.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_remainder_slope_is_a_least_squares_fit() -> None:
    tower, x = tanh_tower(3, 3, 4, scale=0.7), randn(5, 3)
    tower.encoder = randomise(nn.Linear(3, 3))
    lams = [0.05, 0.1, 0.4]
    h0 = tower.encoder(x)
    logs = []
    for lam in lams:
        h = h0
        for f in tower.blocks:
            h = h + lam * f(h)
        logs.append(math.log((h - h0 - lam * sum(f(h0) for f in tower.blocks)).norm().item()))
    u = np.log(lams)
    slope = ((u - u.mean()) * (np.array(logs) - np.mean(logs))).sum() / ((u - u.mean()) ** 2).sum()
    assert remainder_slope(tower, x, 1, lams) == pytest.approx(slope, rel=1e-8)
    # one module is its own first order: no remainder at all
    zero = ResidualTower([nn.Linear(2, 2)])
    for p in zero.blocks.parameters():
        nn.init.zeros_(p)
    assert math.isnan(remainder_slope(zero, torch.ones(1, 2), 1, [0.1, 0.2]))


def test_order_of_composition() -> None:
    tower, x = tanh_tower(4, 3, 5), randn(2, 3)
    reverse = ResidualTower(list(tower.blocks)[::-1])
    forward, backward = (expansion_terms(t, x, 2) for t in (tower, reverse))
    torch.testing.assert_close(forward[1], backward[1])
    f = layers(tower, x)
    swapped = sum(f[j](f[i]()) for i in range(4) for j in range(4) if i > j)
    np.testing.assert_allclose(array(backward[2]), swapped, atol=1e-10)
    assert (forward[2] - backward[2]).abs().max() > 1e-2


@pytest.mark.parametrize("method", ["jet", "trees"])
def test_one_module(method: str) -> None:
    block, x = randomise(MLPBlock(3, activation="gelu")), randn(2, 3)
    T = expansion_terms(ResidualTower([block]), x, 4, method)
    torch.testing.assert_close(T[1], block(x))
    assert not T[2:].any()


def test_equal_scales_are_powers_of_lambda_and_gradients_flow() -> None:
    tower, x = tanh_tower(3, 3, 4, scale=0.3), randn(2, 3)
    bare, scaled = expansion_terms(tower, x, 4), expansion_terms(tower, x, 4, scaled=True)
    powers = 0.3 ** torch.arange(5, dtype=torch.float64)
    torch.testing.assert_close(scaled, powers[:, None, None] * bare)
    parameters = [p for p in tower.parameters() if p.ndim > 0]
    by_jets = torch.autograd.grad(expansion_terms(tower, x, 3).square().sum(), parameters)
    by_trees = torch.autograd.grad(expansion_terms(tower, x, 3, "trees").square().sum(), parameters)
    for ours, theirs in zip(by_jets, by_trees, strict=True):
        torch.testing.assert_close(ours, theirs)


# ------------------------------------------------------------------------------------------------- encoder, decoder


@pytest.mark.parametrize("method", ["jet", "trees", "linear"])
def test_decoder_coefficients(method: str) -> None:
    """Order 1 g'[T_1], order 2 g'[T_2] + 1/2 g''[T_1, T_1], order 3 g'[T_3] + g''[T_1, T_2] + 1/6 g'''[T_1]^3."""
    g = randomise(MLPBlock(3, 5, "tanh"))
    tower = affine_tower(4, 3) if method == "linear" else tanh_tower(4, 3, 4)
    tower.encoder, tower.decoder = randomise(nn.Linear(2, 3)), g
    x = randn(2, 2)
    T = array(expansion_terms(tower, x, 3, method))
    h0 = tower.encoder(x)
    np.testing.assert_allclose(T[0], array(h0))
    G = Layer(g, h0)
    wanted = [G(), G(T[1]), G(T[2]) + G(T[1], T[1]) / 2]
    wanted.append(G(T[3]) + G(T[1], T[2]) + G(T[1], T[1], T[1]) / 6)
    Y = array(expansion_terms(tower, x, 3, method, decoder=True))
    np.testing.assert_allclose(Y, np.stack(wanted), atol=1e-10)


def test_decoder_jets_equal_trees_at_fourth_order_with_scales() -> None:
    tower = tanh_tower(3, 3, 4, scale=[0.5, 1.0, -2.0])
    tower.decoder = nn.Sequential(nn.Tanh(), nn.Linear(3, 2).double())
    x = randn(2, 3)
    jets, sums = (expansion_terms(tower, x, 4, m, scaled=True, decoder=True) for m in ("jet", "trees"))
    assert jets.shape == (5, 2, 2)
    torch.testing.assert_close(jets, sums)


def test_truncated_forward() -> None:
    tower, x = affine_tower(15, 3, scale=0.3), randn(4, 2)
    tower.encoder, tower.decoder = randomise(nn.Linear(2, 3)), randomise(MLPBlock(3, activation="tanh"))
    h0 = tower.encoder(x)
    torch.testing.assert_close(truncated_forward(tower, x, 0), tower.decoder(h0))
    linear = h0 + 0.3 * sum(f(h0) for f in tower.blocks)
    torch.testing.assert_close(truncated_forward(tower, x, 1), tower.decoder(linear))
    torch.testing.assert_close(truncated_forward(tower, x, 15), tower(x))  # n = 15 > 12: the linear recursion
    torch.testing.assert_close(truncated_forward(tower, x, 15, scale=-0.2), with_scale(tower, -0.2)(x))
    assert (truncated_forward(tower, x, 3) - tower(x)).abs().max() > 1e-3
    bare = ResidualTower(tower.blocks, 0.1)
    torch.testing.assert_close(truncated_forward(bare, h0, 15), bare(h0))
    curved = tanh_tower(4, 3, 4, scale=0.02)
    torch.testing.assert_close(truncated_forward(curved, h0, 8), curved(h0), rtol=0, atol=1e-10)
    torch.testing.assert_close(truncated_forward(curved, h0, 3, scale=0.0), h0)


def with_scale(tower: ResidualTower, scale: float) -> ResidualTower:
    return ResidualTower(tower.blocks, scale, encoder=tower.encoder, decoder=tower.decoder)


@pytest.mark.parametrize("lam", [1.0, 0.3, 1 / 14])
def test_truncation_error_stays_below_its_bound(lam: float) -> None:
    n = 14
    tower, x = affine_tower(n, 4, bias=False, scale=lam), randn(1, 4)
    L = max(torch.linalg.matrix_norm(f.weight, 2).item() for f in tower.blocks)
    for K in range(n + 1):
        error = (truncated_forward(tower, x, K) - tower(x)).norm().item()
        assert error <= remainder_bound(n, lam, L, x.norm().item(), K) + 1e-12 * tower(x).norm().item()


# ------------------------------------------------------------------------------------------------- ReLU


def relu_tower(n: int, d: int, scale: float | str) -> ResidualTower:
    return ResidualTower([randomise(MLPBlock(d, 2 * d)) for _ in range(n)], scale)


@kinks
@pytest.mark.parametrize("method", ["jet", "trees"])
def test_relu_chains_are_exact_below_the_first_kink(method: str) -> None:
    tower, x = relu_tower(4, 3, 1e-6), randn(5, 3)
    h = tower(x)
    total = expansion_terms(tower, x, 4, method, scaled=True).sum(0)
    assert (h - total).norm() <= 1e-12 * h.norm()
    # by hand: W_i = f_i'(x) per sample, b_i = f_i(x) - W_i x
    T = expansion_terms(tower, x, 3, method)
    for b in range(5):
        W = [torch.autograd.functional.jacobian(f, x[b]) for f in tower.blocks]
        f0 = [f(x[b]).detach() for f in tower.blocks]
        second = sum(W[j] @ f0[i] for i, j in combinations(range(4), 2))
        third = sum(W[l] @ W[j] @ f0[i] for i, j, l in combinations(range(4), 3))
        torch.testing.assert_close(T[2, b], second)
        torch.testing.assert_close(T[3, b], third)


@pytest.mark.parametrize("method", ["jet", "trees"])
def test_relu_warns_and_smooth_modules_do_not(method: str) -> None:
    x = randn(2, 3)
    with pytest.warns(UserWarning, match="affine piece"):
        expansion_terms(ResidualTower([SkipInit(MLPBlock(3).double(), 1.0)]), x, 2, method)
    decoder = nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).double()
    smooth = ResidualTower([nn.Tanh()], decoder=decoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expansion_terms(smooth, x, 2, method)
    with pytest.warns(UserWarning, match="affine piece"):
        expansion_terms(smooth, x, 2, method, decoder=True)


# ------------------------------------------------------------------------------------------------- levels and paths


def test_level_coefficients() -> None:
    c = level_coefficients(1000, 1e-3)
    assert c.dtype == torch.float64
    assert c.shape == (1001,)
    assert c[2].item() == pytest.approx(0.4995, rel=1e-10)
    assert c.sum().item() == pytest.approx(2.71692, abs=5e-6)
    assert level_coefficients(100, 0.1).argmax() == 9
    assert level_coefficients(100, 0.1).sum().item() == pytest.approx(13780.6, abs=0.05)
    assert level_coefficients(4, 0.0, 6).tolist() == [1, 0, 0, 0, 0, 0, 0]
    torch.testing.assert_close(
        level_coefficients(4, -0.5, 6), torch.tensor([1, -2, 1.5, -0.5, 0.0625, 0, 0], dtype=torch.float64)
    )


def test_level_contributions() -> None:
    tower, x = affine_tower(15, 3, scale=[0.1 * i for i in range(15)]), randn(4, 3)
    T = array(expansion_terms(tower, x, 15, "linear", scaled=True))
    norms = [np.mean([math.sqrt((T[k, b] ** 2).sum()) for b in range(4)]) for k in range(16)]
    np.testing.assert_allclose(array(level_contributions(tower, x, 15)), norms)
    images = ResidualTower([ConvBlock(2, activation="tanh").double()], "one")
    z = randn(3, 2, 4, 4)
    first = level_contributions(images, z, 1)
    torch.testing.assert_close(first[1], images.blocks[0](z).flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sampled_paths_are_the_chains(k: int) -> None:
    tower, x = tanh_tower(5, 3, 4), randn(2, 3)
    f = layers(tower, x)
    indices, values = sample_paths(tower, x, k, 30, torch.Generator().manual_seed(1))
    assert indices.shape == (30, k)
    assert indices.dtype == torch.int64
    assert values.shape == (30, 2, 3)
    assert (indices.diff(dim=1) > 0).all()
    assert indices.min() >= 0
    assert indices.max() <= 4
    for path, value in zip(indices.tolist(), values, strict=True):
        chain = f[path[0]]()
        for i in path[1:]:
            chain = f[i](chain)
        np.testing.assert_allclose(array(value), chain, atol=1e-12)
    again = sample_paths(tower, x, k, 30, torch.Generator().manual_seed(1))
    assert torch.equal(again[0], indices)


def test_paths_are_drawn_uniformly() -> None:
    """Counts of 10 subsets in 20000 draws: chi-square with 9 degrees of freedom, 0.9999-quantile 33.7."""
    tower = affine_tower(5, 1)
    for seed, k in ((0, 2), (1, 3)):
        indices, _ = sample_paths(tower, randn(1, 1), k, 20000, torch.Generator().manual_seed(seed))
        _, counts = torch.unique(indices, dim=0, return_counts=True)
        assert len(counts) == 10
        assert ((counts - 2000) ** 2 / 2000).sum() < 33.7


@kinks
@pytest.mark.parametrize("make", [lambda: affine_tower(5, 3, scale=7.0), lambda: relu_tower(5, 3, 7.0)])
def test_paths_estimate_the_level(make: Callable[[], ResidualTower]) -> None:
    """Every subset weighted equally gives T_k exactly: the draws' mean is unbiased, scales ignored."""
    tower, x = make(), randn(2, 3)
    T = expansion_terms(tower, x, 3)
    indices, values = sample_paths(tower, x, 3, 400, torch.Generator().manual_seed(0))
    by_path = dict(zip(map(tuple, indices.tolist()), values, strict=True))
    assert len(by_path) == path_count(5, 3)
    torch.testing.assert_close(path_count(5, 3) * torch.stack(list(by_path.values())).mean(0), T[3])
    estimate = path_count(5, 3) * values.mean(0)
    error = path_count(5, 3) * values.std(0) / math.sqrt(400)
    assert ((estimate - T[3]).abs() < 5 * error).all()


def test_paths_of_images() -> None:
    tower = ResidualTower([ConvBlock(2, activation="tanh", norm="batch").double() for _ in range(3)])
    x = randn(3, 2, 4, 4)
    indices, values = sample_paths(tower, x, 2, 40, torch.Generator().manual_seed(0))
    by_path = dict(zip(map(tuple, indices.tolist()), values, strict=True))
    torch.testing.assert_close(sum(by_path.values()), expansion_terms(tower, x, 2)[2])


# ------------------------------------------------------------------------------------------------- contracts


@pytest.mark.parametrize("method", ["jet", "trees"])
def test_batch_statistics_are_not_moved(method: str) -> None:
    tower = ResidualTower([MLPBlock(3, activation="tanh", norm="batch").double() for _ in range(2)])
    before = copy.deepcopy(tower.state_dict())
    x = randn(6, 3)
    expansion_terms(tower, x, 2, method)
    sample_paths(tower, x, 2, 3)
    for key, value in tower.state_dict().items():
        assert torch.equal(value, before[key])
    tower(x)
    assert not torch.equal(
        tower.state_dict()["blocks.0.norm.running_mean"], before["blocks.0.norm.running_mean"]
    )


def test_scales_are_ignored_without_scaled() -> None:
    x = randn(2, 3)
    tower = tanh_tower(3, 3, 4, scale=0.0)
    other = ResidualTower(tower.blocks, 5.0)
    for method in ("jet", "trees"):
        torch.testing.assert_close(expansion_terms(tower, x, 3, method), expansion_terms(other, x, 3, method))
    assert not expansion_terms(tower, x, 3, scaled=True)[1:].any()


def test_fixup_tower_at_init_has_no_level_but_the_first() -> None:
    tower = fixup_init_(ResidualTower([FixupBlock(3, activation="tanh") for _ in range(4)], "one")).double()
    assert not expansion_terms(tower, randn(2, 3), 4)[1:].any()


@kinks
def test_built_towers_expand() -> None:
    x = torch.randn(6, 64)
    for method in ("inv", "skipinit", "fixup", "batchnorm", "layernorm"):
        tower = build_tower(4, method=method, activation="gelu")
        T = expansion_terms(tower, x, 5)
        assert T.shape == (6, 6, 32)
        assert torch.isfinite(T).all()
    inverse = build_tower(4, method="inv", activation="gelu")
    error = (truncated_forward(inverse, x, 9) - inverse(x)).abs().max()
    assert error < (truncated_forward(inverse, x, 2) - inverse(x)).abs().max() / 10


@pytest.mark.parametrize("name", expansion.__all__)
def test_names_are_those_of_the_package(name: str) -> None:
    assert getattr(package, name) is getattr(expansion, name)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: expansion_terms(t, X, -1), "order must be"),
        (lambda t: expansion_terms(t, X, 13), r"order must be an integer in \[0, 12\], got 13"),
        (lambda t: expansion_terms(t, X, 5, "trees"), r"order must be an integer in \[0, 4\], got 5"),
        (lambda t: expansion_terms(t, X, 2, "jets"), "method must be one of 'jet', 'linear', 'trees'"),
        (lambda t: expansion_terms(t, X, 2, decoder=True), "decoder=True needs a tower with a decoder"),
        (lambda t: truncated_forward(t, X, -1), "order must be"),
        (lambda t: truncated_forward(t, X, 1, math.nan), "scale must be"),
        (lambda t: level_coefficients(0, 1.0), "n must be"),
        (lambda t: level_coefficients(2, 1.0, -1), "order must be"),
        (lambda t: level_contributions(t, X, 13), "order must be"),
        (lambda t: remainder_slope(t, X, 1, [0.1]), "lams must hold at least two"),
        (lambda t: remainder_slope(t, X, 1, [0.1, 0.1]), "lams must hold at least two different"),
        (lambda t: remainder_slope(t, X, 1, [0.1, 0.0]), r"lams\[1\] must be a number > 0, got 0.0"),
        (lambda t: sample_paths(t, X, 0, 2), r"k must be an integer in \[1, 2\], got 0"),
        (lambda t: sample_paths(t, X, 3, 2), "k must be"),
        (lambda t: sample_paths(t, X, 1, 0), "n_samples must be"),
    ],
)
def test_bad_arguments(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ResidualTower([nn.Tanh(), nn.Tanh()]))


@pytest.mark.parametrize("method", ["jet", "linear", "trees"])
def test_a_module_that_changes_the_shape(method: str) -> None:
    with pytest.raises(ValueError, match=r"got \(2, 1\) for \(2, 3\) from module 0"):
        expansion_terms(ResidualTower([nn.Linear(3, 1)]), X, 2, method)
    with pytest.raises(ValueError, match="from module 0"):
        sample_paths(ResidualTower([nn.Linear(3, 1)]), X, 1, 2)


@pytest.mark.parametrize("module", [nn.Tanh(), SkipInit(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3))])
def test_linear_needs_linear_modules(module: nn.Module) -> None:
    with pytest.raises(TypeError, match="as module 1"):
        expansion_terms(ResidualTower([nn.Linear(3, 3), module]), X, 2, "linear")

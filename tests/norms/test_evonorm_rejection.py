"""What the EvoNorm search rejects: layers that do not train, and layers that are not stable."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from normviz.norms import make_evonorm
from normviz.norms.evonorm_search import (
    EVONORM_GRAPHS,
    Candidate,
    EvolutionSearch,
    Graph,
    Progress,
    SearchData,
    evaluate_norm,
    layer_factory,
    quality_reject,
    stability_reject,
)
from tests.norms.evonorm_formulas import CONSTANT, IDENTITY, SQUARE, TOWER, tensor


@pytest.fixture(scope="module")
def digits():
    loaded = load_digits()
    x = torch.tensor(loaded.images, dtype=torch.float32)[:, None]
    x = (x - x.mean()) / x.std()
    y = torch.tensor(loaded.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return SearchData(x[:1200], y[:1200], x[1200:1500], y[1200:1500])


class Residual(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)


def plain(norm, c=16):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1),
        norm(c),
        nn.Conv2d(c, c, 3, 2, 1),
        norm(c),
        nn.Conv2d(c, c, 3, 2, 1),
        norm(c),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


def residual(norm, c=16):
    branches = [nn.Sequential(nn.Conv2d(c, c, 3, padding=1), norm(c)) for _ in range(2)]
    return nn.Sequential(
        nn.Conv2d(1, c, 3, 2, 1),
        norm(c),
        Residual(branches[0]),
        nn.MaxPool2d(2),
        Residual(branches[1]),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


def depthwise(norm, c=16):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, 2, 1),
        norm(c),
        nn.Conv2d(c, c, 3, padding=1, groups=c),
        norm(c),
        nn.Conv2d(c, c, 1),
        norm(c),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * c, 10),
    )


@pytest.mark.parametrize("name", ["BN-ReLU", "S0", "B0"])
def test_card_check_11_good_layers_pass(digits, name):
    graph = EVONORM_GRAPHS[name]
    quality = quality_reject(graph, [plain, residual, depthwise], digits, steps=30)
    assert quality.reason is None
    assert not quality.rejected
    assert quality.steps == 90
    assert len(quality.scores) == 3
    assert min(quality.scores) > 0.6
    stability = stability_reject(graph, plain, (digits.x[:32], digits.y[:32]), steps=20)
    assert stability.reason is None
    assert stability.steps == 20
    assert len(stability.norms) == 21
    assert stability.scores == ()
    assert max(stability.norms) <= 1e8


@pytest.mark.parametrize("test", ["quality", "stability"])
def test_card_check_11_a_constant_is_rejected_untrained(test, digits):
    def untouched(norm):
        raise AssertionError("built a network for a constant")

    if test == "quality":
        report = quality_reject(CONSTANT, [untouched], digits)
    else:
        report = stability_reject(CONSTANT, untouched, (digits.x[:8], digits.y[:8]))
    assert report == (True, "constant", (), (), 0)


@pytest.mark.parametrize(
    "graph", [Graph([("max", (0, 1))]), SQUARE, TOWER, Graph([("exp", (0,)), ("mul", (0, 4))])]
)
def test_card_check_12_unstable_layers(digits, graph):
    report = stability_reject(graph, plain, (digits.x[:32], digits.y[:32]), steps=20)
    assert report.reason == "stability"
    *before, last = report.norms
    assert all(n <= 1e8 for n in before)
    assert not last <= 1e8
    assert report.steps == len(before) <= 20


def test_stability_follows_the_raw_gradient_of_the_gradient_norm():
    """Against finite differences of a loss written out in NumPy."""
    x = tensor(shape=(3, 1, 1, 2))
    y = torch.tensor([0, 1, 1])
    start = {"v0": 0.0, "v1": 1.0, "weight": 1.0, "bias": 0.0}

    def anchor(norm):
        model = nn.Sequential(norm(1), nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
        with torch.no_grad():
            model[2].weight.copy_(torch.tensor([[0.5, -1.0], [0.3, 0.8]]))
        return model

    def loss(theta):  # graph: tanh(v1 * x), parameters v0, v1, weight, bias, then the matrix
        _, v1, weight, bias = theta[:4]
        h = weight * np.tanh(v1 * x.numpy().reshape(3, 2)) + bias
        logits = h @ theta[4:].reshape(2, 2).T
        return (np.log(np.exp(logits).sum(1)) - logits[np.arange(3), y.numpy()]).mean()

    def gradient(f, theta, h):
        return np.array([(f(theta + h * e) - f(theta - h * e)) / (2 * h) for e in np.eye(len(theta))])

    def norm(theta):
        return np.linalg.norm(gradient(loss, theta, 1e-5))

    theta = np.array([*start.values(), 0.5, -1.0, 0.3, 0.8])
    expected = []
    for _ in range(4):
        expected.append(norm(theta))
        theta = theta + 0.2 * gradient(norm, theta, 1e-3)
    graph = Graph([("mul", (3, 0)), ("tanh", (4,))])
    report = stability_reject(graph, anchor, (x, y), steps=3, lr=0.2)
    np.testing.assert_allclose(report.norms, expected, rtol=1e-4)
    assert report.norms[-1] > 1.1 * report.norms[0]


def test_stability_limits(digits):
    batch = (digits.x[:16], digits.y[:16])
    graph = EVONORM_GRAPHS["BN-ReLU"]
    assert len(stability_reject(graph, plain, batch, steps=0).norms) == 1
    low = stability_reject(graph, plain, batch, steps=5, max_norm=1e-3)
    assert (low.reason, low.steps, len(low.norms)) == ("stability", 0, 1)

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones(10))

        def forward(self, x):
            return (self.p * 0).expand(len(x), 10)

    still = stability_reject(graph, lambda norm: Silent(), batch, steps=5)
    assert still == (False, None, (), (0.0,), 0)


def test_quality_training_is_sgd_with_momentum():
    """All samples alike, so the drawn batch does not matter; three steps by hand."""
    x = torch.tensor([0.7, -1.2]).double().expand(6, 1, 1, 2)
    y = torch.ones(6, dtype=torch.long)

    def anchor(norm):
        return nn.Sequential(norm(1), nn.Flatten(), nn.Linear(2, 2)).double()

    torch.manual_seed(5)
    start = nn.Linear(2, 2).double()  # the layer draws nothing, so this is the anchor's own draw
    w = start.weight.detach().numpy().copy()
    b = start.bias.detach().numpy().copy()
    gain, offset, a = 1.0, 0.0, x[0].flatten().numpy()
    v = [np.zeros_like(w), np.zeros_like(b), 0.0, 0.0]
    losses = []
    for _ in range(3):
        logits = w @ (gain * a + offset) + b
        p = np.exp(logits) / np.exp(logits).sum()
        losses.append(-np.log(p[1]))
        d = p - np.array([0.0, 1.0])
        inner = w.T @ d
        g = [np.outer(d, gain * a + offset), d, inner @ a, inner.sum()]
        v = [0.9 * vi + gi for vi, gi in zip(v, g, strict=True)]
        w, b, gain, offset = (p - 0.3 * vi for p, vi in zip((w, b, gain, offset), v, strict=True))
    data = SearchData(x, y, x, y, batch_size=2)
    search = EvolutionSearch([anchor], data, steps=3, lr=0.3, seed=5, initial=[IDENTITY])
    seen = [item.value for item in search.examine() if isinstance(item, Progress) and item.stage == "quality"]
    np.testing.assert_allclose(seen, losses, rtol=1e-6)


def test_quality_stops_at_the_first_failing_anchor(digits):
    built = []

    def counting(norm):
        built.append(1)
        return depthwise(norm)

    report = quality_reject(IDENTITY, [plain, plain, counting], digits, steps=2, threshold=0.999)
    assert (report.reason, report.steps, len(report.scores)) == ("quality", 2, 1)
    assert report.scores[0] < 0.999
    assert not built
    assert quality_reject(IDENTITY, [plain], digits, steps=1, threshold=0.0).reason is None


def test_non_finite_training_and_logits(digits):
    report = quality_reject(TOWER, [plain], digits, steps=30)
    assert (report.rejected, report.reason, report.scores) == (True, "nan", ())
    assert 1 <= report.steps < 30

    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

        def forward(self, x):
            return self.inner(x) if self.training else self.inner(x) * math.inf

    report = quality_reject(IDENTITY, [plain, lambda norm: Explodes()], digits, steps=2, threshold=0.0)
    assert (report.reason, len(report.scores), report.steps) == ("nan", 1, 4)


def test_common_random_numbers_and_the_global_state(digits):
    torch.manual_seed(11)
    before = torch.get_rng_state()

    def noisy(norm):
        return nn.Sequential(nn.Dropout(0.3), plain(norm))

    first = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0)
    torch.rand(3)
    second = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0)
    other = quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=5, threshold=0.0, seed=1)
    assert first == second
    assert first.scores != other.scores
    torch.manual_seed(11)
    with torch.no_grad():
        quality_reject(EVONORM_GRAPHS["S0"], [noisy], digits, steps=2)
        stability_reject(EVONORM_GRAPHS["S0"], plain, (digits.x[:8], digits.y[:8]), steps=2)
    assert torch.equal(torch.get_rng_state(), before)

    starts = []

    def recording(norm):
        model = plain(norm)
        starts.append(model[0].weight.detach().clone())
        return model

    for name in ("S0", "BN-ReLU"):
        quality_reject(EVONORM_GRAPHS[name], [recording], digits, steps=1)
    assert torch.equal(*starts)


def test_any_norm_factory_is_scored_the_same_way(digits):
    graph = EVONORM_GRAPHS["S1"]
    by_graph = quality_reject(graph, [plain], digits, steps=10, threshold=0.0, groups=4)
    by_candidate = evaluate_norm(lambda c: Candidate(graph, (0.0,))(c, groups=4), [plain], digits, steps=10)
    assert by_candidate.scores == by_graph.scores
    published = evaluate_norm(lambda c: make_evonorm("S1", c, groups=4), [plain], digits, steps=10)
    assert abs(published.scores[0] - by_graph.scores[0]) < 0.05
    assert evaluate_norm(layer_factory(TOWER), [plain], digits, steps=20).reason == "nan"


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"lr": 0.0}, "lr must be a number > 0"),
        ({"threshold": math.nan}, "threshold must be a number"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"groups": 0}, "groups must be an integer >= 1"),
        ({"anchors": []}, "anchors must hold at least 1"),
        ({"anchors": [3]}, r"anchors\[0\] must be callable"),
    ],
)
def test_bad_quality_arguments(digits, kw, message):
    with pytest.raises(ValueError, match=message):
        quality_reject(**({"graph": IDENTITY, "anchors": [plain], "data": digits} | kw))


def test_bad_stability_arguments_and_data(digits):
    for kw in ({"steps": -1}, {"lr": 0.0}, {"max_norm": 0.0}, {"groups": 0}):
        with pytest.raises(ValueError, match=next(iter(kw))):
            stability_reject(IDENTITY, plain, (digits.x[:2], digits.y[:2]), **kw)
    for bad in (
        digits._replace(x=digits.x[:0], y=digits.y[:0]),
        digits._replace(y_val=digits.y_val[:3]),
        digits._replace(batch_size=0),
    ):
        with pytest.raises(ValueError, match=r"data\.(x|x_val|batch_size) must"):
            quality_reject(IDENTITY, [plain], bad)

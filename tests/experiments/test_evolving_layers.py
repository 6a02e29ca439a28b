"""The page *Evolving layers*: comparison, search, candidates as numbers and text, claims on hand-made logs."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from normviz.experiments.evolving_layers import EXPERIMENT, Knobs, search
from normviz.experiments.evolving_layers.candidates import (
    MOST_OPERATIONS,
    ORIGINS,
    VERDICTS,
    WRITTEN_OUT,
    best,
    encode,
    formula,
    from_code,
    front,
    operations,
    population,
    to_code,
    trials,
)
from normviz.experiments.evolving_layers.compare import (
    _earlier_updates,
    _response,
    make_layer,
    sees_batch,
)
from normviz.experiments.evolving_layers.expression import (
    graph_figure,
    layer_latex,
    simplified,
    simplified_latex,
)
from normviz.experiments.evolving_layers.knobs import LAYERS, warm_start_graphs
from normviz.experiments.evolving_layers.recorded import RESPONSE_AT
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.models import PerWorker
from normviz.norms import ARITIES, EVONORM_GRAPHS, Graph, GraphLayer2d, Node, Primitive, make_evonorm
from normviz.norms import _evonorm_layer as graph_layers
from normviz.norms.evonorm_search import VERDICTS as LIBRARY_VERDICTS
from normviz.training import Arm, Member

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
TINY: dict[str, Any] = {"mode": "search", "budget": 4, "trial_steps": 10, "seeds": 1, "threshold": 0.1}


def run(**values: Any) -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**values), "cpu"))


# ---- comparison


@pytest.mark.parametrize("network", ["convnet", "resnet"])
def test_every_layer_trains_in_every_network(network: str) -> None:
    code = to_code(EVONORM_GRAPHS["S1"])
    knobs = Knobs(layers=tuple(LAYERS), batch_sizes=("4",), network=network, steps=10, seeds=1, found=code)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.arms == list(knobs.shown_arms().names)
    assert len(log.arms) == len(LAYERS) + 1
    assert log.events == []
    assert (log.scalars("loss").groupby("arm").size() == 10).all()
    for entry in log.arrays("response"):
        assert entry.value.shape == (len(RESPONSE_AT),)
        assert np.isfinite(entry.value).all()


def test_layers_of_single_images_are_the_same_for_every_number_of_workers() -> None:
    log = run(layers=("S0", "GN-ReLU", "BN-ReLU"), batch_sizes=("4", "16"), steps=10, seeds=1)
    final = log.final("loss").set_index("arm")["value"]
    assert final["S0, n=4"] == pytest.approx(final["S0, n=16"], rel=1e-4)
    assert final["GN-ReLU, n=4"] == pytest.approx(final["GN-ReLU, n=16"], rel=1e-4)
    assert abs(final["BN-ReLU, n=4"] - final["BN-ReLU, n=16"]) > 1e-3


def test_workers_matter_to_layers_that_look_at_the_batch() -> None:
    assert {name for name in LAYERS if sees_batch(name, "")} == {"BN-ReLU", "B0", "B1", "B2"}
    assert sees_batch("Found", "std_bwh(0) div(0,4)")
    assert not sees_batch("Found", "std_whg(0) div(0,4)")
    for name in LAYERS:  # a layer that does not look at the batch makes of two images what it makes of each
        layer = make_layer(name, "", 8)
        x = torch.randn(2, 8, 4, 4)
        apart = torch.allclose(layer(x), torch.cat([layer(x[:1]), layer(x[1:])]), atol=1e-5)
        assert apart != sees_batch(name, "")


def test_a_smaller_batch_has_an_update_for_every_share() -> None:
    """Against plain gradient descent with momentum on consecutive shares at a rate in proportion, in NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.integers(0, 2, 8)
    model = nn.Linear(3, 2).double()
    weight, bias = (p.detach().numpy().copy() for p in model.parameters())
    arm = Arm("A, n=2", lambda: model, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), lambda *_: None)
    member = Member(arm, 0, model, arm.optimizer(model.parameters()), None)
    batch = torch.tensor(x), torch.tensor(y)
    _earlier_updates(member, 0, sizes={"A, n=2": 2}, batches=lambda seed, step: batch)
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    for begin in (0, 2, 4):
        part, labels = x[begin : begin + 2], y[begin : begin + 2]
        logits = part @ weight.T + bias
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        p[np.arange(2), labels] -= 1
        speed_w, speed_b = 0.9 * speed_w + p.T @ part / 2, 0.9 * speed_b + p.mean(0)
        weight, bias = weight - 0.1 * speed_w, bias - 0.1 * speed_b
    np.testing.assert_allclose(model.weight.detach().numpy(), weight, rtol=1e-9)
    np.testing.assert_allclose(model.bias.detach().numpy(), bias, rtol=1e-9)


def test_the_largest_batch_is_the_same_however_it_shrinks() -> None:
    setting = {"layers": ("B0",), "batch_sizes": ("8", "32"), "steps": 10, "seeds": 1}
    split, shrunk = (
        run(**setting, shrink=shrink).final("loss").set_index("arm") for shrink in ("workers", "batch")
    )
    assert shrunk["value"]["B0, n=32"] == pytest.approx(split["value"]["B0, n=32"], rel=1e-4)
    assert abs(shrunk["value"]["B0, n=8"] - split["value"]["B0, n=8"]) > 1e-3


def test_per_worker_takes_statistics_over_its_own_share() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3, 2, 2) * 2 + 1
    layer = PerWorker(nn.BatchNorm2d(3, affine=False), 4)
    found = layer(x).numpy()
    for part in (slice(0, 4), slice(4, 6)):
        z = x[part].numpy()
        mean, var = z.mean((0, 2, 3), keepdims=True), z.var((0, 2, 3), keepdims=True)
        np.testing.assert_allclose(found[part], (z - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
    layer.eval()
    np.testing.assert_allclose(layer(x).numpy(), layer.layer(x).numpy())


def test_response_is_the_layer_at_one_moved_pixel() -> None:
    torch.manual_seed(0)
    first, second = PerWorker(nn.Identity(), 4), PerWorker(make_layer("S1", "", 8), 4)
    model = nn.Sequential(first, nn.Conv2d(1, 8, 1), second).eval()
    images = torch.randn(5, 1, 4, 4)
    with torch.no_grad():
        found = _response(model, images)
        z = model[1](images)
        for k in (0, 16, 32):
            moved = z.clone()
            moved[:, :, 2, 2] = RESPONSE_AT[k] * z.std((0, 2, 3))
            assert found[k] == pytest.approx(second(moved)[:, :, 2, 2].mean().item(), rel=1e-4, abs=1e-6)


def test_layers_by_name_are_the_librarys() -> None:
    x = torch.randn(4, 8, 3, 3)
    for name in ("B0", "B1", "B2"):
        torch.testing.assert_close(make_layer(name, "", 8)(x), make_evonorm(name, 8)(x))
    for name in ("S0", "S1", "S2"):
        torch.testing.assert_close(make_layer(name, "", 8)(x), make_evonorm(name, 8, groups=4)(x))
    torch.testing.assert_close(make_layer("BN-ReLU", "", 8)(x), torch.relu(nn.BatchNorm2d(8)(x)))
    torch.testing.assert_close(make_layer("GN-SiLU", "", 8)(x), nn.functional.silu(nn.GroupNorm(4, 8)(x)))
    torch.testing.assert_close(make_layer("Found", "max(0,1)", 8)(x), torch.relu(x))


# ---- search


FROM_PUBLISHED = Knobs(**{**TINY, "start": "published", "budget": 5, "language": "S"})


@pytest.fixture(scope="module")
def published_log() -> FrameLog:
    """A search that starts from the four published layers without batch statistics and examines one more candidate."""
    return FrameLog(EXPERIMENT.frames(FROM_PUBLISHED, "cpu"))


def test_a_tiny_search_from_published_layers(published_log: FrameLog) -> None:
    knobs, log = FROM_PUBLISHED, published_log
    assert log.arms == ["Evolution", "Random search"]
    assert log.last_step == knobs.total_steps() == 15
    found = trials(log)
    assert [t.index for t in found if t.arm == "Evolution"] == list(range(1, 6))
    names = warm_start_graphs("published", "S")
    assert [t.graph for t in found if t.arm == "Evolution"][:4] == [EVONORM_GRAPHS[n] for n in names]
    assert all(t.origin == "initial" for t in found if t.index <= 4)
    counts = {v: log.scalars(f"count/{v}") for v in VERDICTS}
    assert sum(int(table["value"].iloc[-1]) for table in counts.values()) == 5
    accepted = [t for t in found if t.scores]
    assert accepted
    assert best(log).mean == pytest.approx(max(t.mean for t in accepted))
    for e in log.array_history("reranked"):
        assert e.value.shape == (3,)
    assert {f"reference/{name}" for name in ("BN-ReLU", "B0", "S0")} | {
        "reranked/BN-ReLU",
        "unseen/BN-ReLU",
    } <= set(log.array_names)
    verdicts = EXPERIMENT.verdicts(log, knobs)
    for claim in ("found-beats-batch-norm", "found-transfers", "rejection-saves-training"):
        assert verdicts[claim].per_seed.keys() == {0}
    assert not verdicts["pareto-beats-average"].measured
    full, early = EXPERIMENT.figures(log, knobs), EXPERIMENT.figures(log, knobs, 1)
    assert all(figure.data is not None and len(figure.data) for figure in full.values())
    assert len(early["population"].data) <= len(full["population"].data)
    assert {"BN-ReLU", "B0", "S0"} <= set(full["pareto"].data["arm"])


def test_every_strategy_runs_and_one_candidate_is_enough() -> None:
    knobs = Knobs(**{**TINY, "budget": 1, "strategies": ("pareto", "average", "random"), "language": "S"})
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert len(trials(log)) == 3
    assert not any("bwh" in t.graph.to_formula() for t in trials(log))


def test_a_candidate_that_is_not_a_number_or_raises_is_a_counted_rejection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*inputs: torch.Tensor, eps: float = 1e-5, groups: int = 8) -> torch.Tensor:
        raise RuntimeError("no such function")

    broken = {**graph_layers.PRIMITIVES, "tanh": Primitive("tanh", 1, fail)}
    monkeypatch.setattr(graph_layers, "PRIMITIVES", broken)
    exploding = Graph((Node("exp", (0,)), Node("exp", (4,)), Node("exp", (5,)), Node("exp", (6,))))
    for graph, verdict in ((exploding, "nan"), (Graph((Node("tanh", (0,)),)), "error")):
        monkeypatch.setattr(
            search, "EVONORM_GRAPHS", {**EVONORM_GRAPHS, "BN-ReLU": graph, "B0": EVONORM_GRAPHS["B0"]}
        )
        monkeypatch.setattr(search, "REFERENCES", ("B0",))
        monkeypatch.setattr(search, "RIVAL", "B0")
        log = run(**{**TINY, "start": "usual", "budget": 2, "strategies": ("pareto",)})
        assert trials(log)[0].verdict == verdict
        assert log.scalars(f"count/{verdict}")["value"].iloc[0] == 1
        assert log.last_step == 12
        told = [e.text for e in log.events]
        assert bool(told) == (verdict == "error")
        assert all("raised" in text and "no such function" in text for text in told)


# ---- candidates as numbers and text


@pytest.mark.parametrize("seed", range(20))
def test_candidates_come_back_from_numbers_and_from_text(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = Graph.random(rng, 10)
    verdict, origin = str(rng.choice(VERDICTS)), str(rng.choice(ORIGINS))
    frame = Frame(
        7, "Evolution", 3, {"candidate": encode(graph, verdict, origin), "scores": np.array([0.5, 0.25])}
    )
    log = FrameLog.from_table(FrameLog([frame]).to_table())
    (trial,) = trials(log)
    assert trial.graph.nodes == graph.nodes
    assert (trial.verdict, trial.origin, trial.index, trial.seed) == (verdict, origin, 7, 3)
    assert trial.mean == pytest.approx(0.375)
    assert from_code(to_code(graph)) == graph


def test_verdicts_are_the_librarys() -> None:
    assert VERDICTS == LIBRARY_VERDICTS


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("", "at least one node"),
        ("nonsense", "nonsense"),
        ("max(0,1) and more", "and more"),
        ("maxx(0,1)", "Nearest: max"),
        ("max(0)", "takes 2"),
        ("tanh(9)", "got 9"),
    ],
)
def test_unreadable_layers_say_why(code: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        from_code(code)
    if code:
        with pytest.raises(KnobError) as knobs_refused:
            Knobs.parse({"found": code})
        assert str(refused.value) in str(knobs_refused.value)


def search_log(*accepted: tuple[str, int, int, tuple[float, ...]]) -> FrameLog:
    """A search log with a distinct graph for each (arm, seed, index, scores); no scores: rejected."""
    ops = [op for op, arity in ARITIES.items() if arity == 1]
    return FrameLog(
        Frame(
            index,
            arm,
            seed,
            {
                "candidate": encode(
                    Graph((Node(ops[i], (0,)),)), "accepted" if scores else "quality", "random"
                ),
                **({"scores": np.array(scores)} if scores else {}),
            },
        )
        for i, (arm, seed, index, scores) in enumerate(accepted)
    )


def test_population_front_and_best() -> None:
    log = search_log(
        ("Evolution", 0, 1, (0.9, 0.1)),
        ("Evolution", 0, 2, ()),
        ("Evolution", 0, 3, (0.5, 0.6)),
        ("Evolution", 0, 4, (0.4, 0.5)),
        ("Random search", 0, 4, (0.2, 0.2)),
    )
    found = trials(log)
    assert population(found, 2) == {("Evolution", 0, 3), ("Evolution", 0, 4), ("Random search", 0, 4)}
    assert [t.index for t in front([t for t in found if t.arm == "Evolution"])] == [1, 3]
    assert best(log).index == 3
    assert best(log, step=2).index == 1
    assert best(FrameLog()) is None
    assert len(trials(log, step=3)) == 3


# ---- claims


def numbers(claim: str, log: FrameLog, knobs: Knobs) -> dict[str, float]:
    """Of seed 0, by rival."""
    return {i.rival: i.per_seed[0] for i in CLAIMS[claim].verdict(log, knobs).intervals}


def test_random_acceptance_and_front_dominance() -> None:
    log = search_log(
        ("Evolution", 0, 1, (0.9, 0.9)),
        ("Random search", 0, 1, ()),
        ("Random search", 0, 2, (0.5, 0.8)),
        ("Random search", 0, 3, (0.8, 0.5)),
        ("Random search", 0, 4, ()),
    )
    knobs = Knobs(mode="search", budget=4)
    assert not CLAIMS["random-layers-fail"].verdict(search_log(("Random search", 0, 3, ())), knobs).measured
    for arm in ("Evolution", "Random search"):
        log.append(Frame(14, arm, 0, {"training_saved": 0.0}))
    log.append(Frame(4, "Random search", 0, {"training_saved": 62.5}))
    assert numbers("rejection-saves-training", log, knobs) == {"": 62.5}
    assert numbers("random-layers-fail", log, knobs) == {"": 50.0}
    assert numbers("evolution-beats-random", log, knobs) == {"": 1.0}
    knobs = Knobs(mode="search", budget=1)
    tied = search_log(("Evolution", 0, 1, (0.5, 0.5)), ("Random search", 0, 1, (0.5, 0.5)))
    assert numbers("evolution-beats-random", tied, knobs) == {"": 0.0}
    empty = search_log(("Evolution", 0, 1, ()), ("Random search", 0, 1, (0.5, 0.5)))
    assert numbers("evolution-beats-random", empty, knobs) == {"": -1.0}
    assert not CLAIMS["random-layers-fail"].verdict(log, Knobs()).measured


def test_kept_layers_are_compared_after_re_ranking() -> None:
    def kept(arm: str, name: str, values: list[float]) -> Frame:
        return Frame(160, arm, 0, {name: np.array(values)})

    log = FrameLog(
        [
            kept("Evolution", "reranked", [0.5, 0.7, 0.9]),
            kept("By average", "reranked", [0.2, 0.9, 1.0]),
            kept("Evolution", "reranked/BN-ReLU", [0.6, 0.6, 0.6]),
            kept("Evolution", "unseen", [0.5]),
            kept("Evolution", "unseen/BN-ReLU", [0.75]),
        ]
    )
    knobs = Knobs(mode="search")
    assert numbers("found-beats-batch-norm", log, knobs) == {"": pytest.approx(10.0, rel=1e-5)}
    assert numbers("found-transfers", log, knobs) == {"": -25.0}
    assert numbers("pareto-beats-average", log, knobs) == {"": pytest.approx(30.0, rel=1e-5)}


def test_batch_size_claims() -> None:
    values = {"BN-ReLU, n=2": 90.0, "BN-ReLU, n=64": 97.0, "S0, n=2": 95.5, "S0, n=64": 96.0}
    values |= {"B0, n=64": 96.5, "GN-ReLU, n=2": 95.0}
    knobs = Knobs(steps=30)
    log = FrameLog(
        Frame(step, arm, 0, {"validation_accuracy": value})
        for arm, value in values.items()
        for step in (10, 20, 30)
    )
    assert numbers("s0-level-over-batch-sizes", log, knobs) == {"": 0.5}
    assert numbers("s0-level-as-batches-shrink", log, Knobs(steps=30, shrink="batch")) == {"": 0.5}
    assert numbers("batch-norm-drops-more", log, knobs) == {"": 6.5}
    assert numbers("s0-best-at-small-batches", log, knobs) == {"BN-ReLU": 5.5, "GN-ReLU": 0.5}
    assert numbers("b0-at-least-batch-norm", log, knobs) == {"": -0.5}
    unmeasured = {
        "s0-at-least-group-norm": knobs,
        "s0-level-as-batches-shrink": knobs,
        "batch-norm-drops-more": Knobs(batch_sizes=("8", "64")),
        "s0-level-over-batch-sizes": Knobs(batch_sizes=("64",)),
    }
    for claim, setting in unmeasured.items():
        assert not CLAIMS[claim].verdict(log, setting).measured


def test_a_layer_that_diverged_has_lost_all_accuracy() -> None:
    log = FrameLog(
        Frame(step, arm, 0, {"validation_accuracy": 90.0})
        for arm in ("B0, n=64", "BN-ReLU, n=64")
        for step in (10, 20, 30)
    )
    log.append(Frame.diverged(25, "B0, n=64", 0, "the loss is inf"))
    assert numbers("b0-at-least-batch-norm", log, Knobs(steps=30)) == {"": -math.inf}


# ---- mathematics


def doubling(nodes: int) -> str:
    """A layer whose formula doubles with every node."""
    return " ".join(["max(0,1)"] + [f"max({i},{i})" for i in range(4, 3 + nodes)])


def test_a_layer_whose_formula_explodes_is_refused_in_no_time() -> None:
    code = doubling(26)
    assert len(code) == 271
    start = time.process_time()
    assert operations(from_code(code)) == 2**26 - 1
    with pytest.raises(KnobError, match=r"67,108,863 operations .* at most 200"):
        Knobs.parse({"found": code})
    knobs, refused = Knobs.parse_leniently({"found": code})
    assert (knobs.found, len(refused)) == ("", 1)
    graph = from_code(code)
    assert len(formula(graph)) < 400
    assert len(layer_latex(graph)) < 2000
    assert "67,108,863" not in graph_figure(graph, "L", title="T").alt
    with pytest.raises(ValueError, match=f"at most {WRITTEN_OUT} operations"):
        simplified(graph)
    assert time.process_time() - start < 5
    assert Knobs(found=doubling(7)).found == doubling(7)  # 127 operations
    assert operations(from_code(doubling(8))) > MOST_OPERATIONS


def test_operations_count_a_part_as_often_as_it_is_read() -> None:
    assert operations(from_code("tanh(0)")) == 1
    assert operations(from_code("tanh(0) mul(4,4)")) == 3
    assert operations(from_code("tanh(0) exp(0) mul(4,4)")) == 3  # exp is read by nothing
    assert operations(EVONORM_GRAPHS["BN-ReLU"]) == EVONORM_GRAPHS["BN-ReLU"].to_formula().count("(")


def test_long_layers_have_a_name_for_every_part() -> None:
    nodes = [Node("exp", (0,)), Node("neg", (2,)), Node("max", (4, 5)), Node("std_bwh", (6,))]
    for i in range(7, 11):
        nodes.append(Node("mul", (i, i)))
    text = layer_latex(Graph(tuple(nodes)))
    assert r"a_{4} &= \exp\left(x\right)" in text
    assert r"a_{5} &= -v_0" in text
    assert r"a_{6} &= \max\left(a_{4}, a_{5}\right)" in text
    assert r"a_{7} &= \sqrt{s^2_{b,w,h}\left(a_{6}\right) + \epsilon}" in text
    assert r"a_{11} &= a_{10} \, a_{10}" in text
    assert r"y &= \gamma \, a_{11} + \beta" in text
    assert layer_latex(Graph((Node("tanh", (0,)),))) == r"y = \gamma \, \tanh\left(x\right) + \beta"


def test_a_found_layer_counts_in_the_work() -> None:
    none, short, long = (Knobs(found=code).work() for code in ("", "max(0,1)", doubling(7)))
    assert none < short < long


@pytest.mark.parametrize("seed", range(12))
def test_simplified_formulas_compute_what_the_layer_does(seed: int) -> None:
    import sympy as sp

    rng = np.random.default_rng(seed)
    ops = ("add", "mul", "max", "neg", "sigmoid", "tanh", "abs", "square")
    nodes = []
    for i in range(5):
        op = str(rng.choice(ops))
        nodes.append(Node(op, tuple(int(rng.integers(4 + i)) for _ in range(ARITIES[op]))))
    graph = Graph(tuple(nodes))
    layer = GraphLayer2d(graph, 1).double()
    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).view(1, 1, 7, 1)
    symbols = sp.symbols("x v0 v1", real=True)
    expected = [
        float(simplified(graph).subs(dict(zip(symbols, (v, 0.0, 1.0), strict=True)))) for v in x.flatten()
    ]
    np.testing.assert_allclose(layer(x).detach().flatten().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_simplified_latex_has_index_sets_and_survives_undefined_pieces() -> None:
    assert simplified_latex(EVONORM_GRAPHS["S1"]) == (
        r"\frac{x e^{x}}{\left(e^{x} + 1\right) \operatorname{std}_{w,h,c/g}\left(x\right)}"
    )
    squared = Graph((Node("std_wh", (0,)), Node("square", (4,))))
    assert simplified_latex(squared) == r"\operatorname{std}_{w,h}^{2}\left(x\right)"
    undefined = Graph((Node("log", (1,)), Node("max", (0, 4)), Node("div", (0, 5))))
    assert "x" in simplified_latex(undefined)


def test_graph_drawing_has_live_nodes_and_their_inputs() -> None:
    graph = Graph((Node("tanh", (2,)), Node("sigmoid", (0,)), Node("mul", (0, 5))))
    data = graph_figure(graph, "L", title="T").data
    nodes = data[data["part"] == "node"]
    assert sorted(nodes["label"]) == ["x", "×", "σ"]
    assert (data["part"] == "edge").sum() == 3
    assert nodes.set_index("label")["x"].to_dict() == {"x": 0.0, "σ": 0.5, "×": 1.0}
    assert graph_figure(None, "L", title="T").data.empty


# ---- figures, knobs


def test_too_small_searches_are_refused_with_the_smallest_that_works() -> None:
    with pytest.raises(KnobError, match=r"population of 2 .* The smallest that works is 3"):
        Knobs.parse({"mode": "search", "population": 2})
    with pytest.raises(KnobError, match=r"budget of 7 .* The smallest that works is 8"):
        Knobs.parse({"mode": "search", "budget": 7, "start": "published"})
    with pytest.raises(KnobError, match=r"budget of 1 .* The smallest that works is 2"):
        Knobs.parse({"mode": "search", "budget": 1, "start": "usual", "language": "S"})
    assert Knobs(mode="search", population=3, budget=1).budget == 1
    assert Knobs(mode="compare", population=1, budget=1).population == 1


@pytest.mark.parametrize("mode", ["compare", "search"])
def test_work_is_limited_and_the_advice_fits(mode: str) -> None:
    heavy = {
        "mode": mode,
        "seeds": 5,
        "layers": tuple(LAYERS),
        "batch_sizes": ("2", "4", "8", "128"),
        "network": "resnet",
        "steps": 1000,
        "budget": 1000,
        "strategies": ("pareto", "average", "random"),
        "trial_steps": 200,
    }
    name = "steps" if mode == "compare" else "budget"
    with pytest.raises(ValidationError, match=f"{name} = ") as refused:
        Knobs(**heavy)
    fits = int(re.split(r"[,.\n]", str(refused.value).split(f"{name} = ")[1])[0])
    assert getattr(Knobs(**{**heavy, name: fits}), name) == fits


def test_sections_of_the_chosen_mode_are_unfolded() -> None:
    assert Knobs.open_sections({"mode": "search"}) == ("Experiment", "Search", "Training")
    assert Knobs.open_sections({"mode": "compare"}) == ("Experiment", "Published layers", "Training")
    assert set(Knobs.open_sections({"mode": "search"})) <= {c.section for c in Knobs.controls().values()}

"""The page *Evolving layers*: comparison, search, candidates as numbers and text, claims on hand-made logs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from normviz.experiments.evolving_layers import EXPERIMENT, Knobs, search
from normviz.experiments.evolving_layers.candidates import (
    ARITIES,
    ORIGINS,
    VERDICTS,
    best,
    encode,
    from_code,
    front,
    population,
    to_code,
    trials,
)
from normviz.experiments.evolving_layers.compare import PerWorker, _response, make_layer
from normviz.experiments.evolving_layers.expression import graph_figure, simplified, simplified_latex
from normviz.experiments.evolving_layers.figures import RESPONSE_AT
from normviz.experiments.evolving_layers.knobs import LAYERS, arm_names, warm_start_graphs
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.norms import EVONORM_GRAPHS, Graph, GraphLayer2d, Node, Primitive, make_evonorm
from normviz.norms import _evonorm_layer as graph_layers
from normviz.norms.evonorm_search import VERDICTS as LIBRARY_VERDICTS

CLAIMS = {claim.id: claim for claim in EXPERIMENT.claims}
TINY: dict[str, Any] = {"mode": "search", "budget": 4, "trial_steps": 10, "seeds": 1, "threshold": 0.1}


def run(**values: Any) -> FrameLog:
    return FrameLog(EXPERIMENT.frames(Knobs(**values), "cpu"))


# ---- comparison


def test_first_frames_come_before_any_work() -> None:
    for mode in ("compare", "search"):
        first = list(itertools.islice(EXPERIMENT.frames(Knobs(mode=mode), "cpu"), 2))
        assert [f.step for f in first] == [0, 0]


@pytest.mark.parametrize("network", ["convnet", "resnet"])
def test_every_layer_trains_in_every_network(network: str) -> None:
    code = to_code(EVONORM_GRAPHS["S1"])
    knobs = Knobs(layers=tuple(LAYERS), batch_sizes=("4",), network=network, steps=10, seeds=1, found=code)
    log = FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    assert log.arms == arm_names(knobs)
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


FROM_PUBLISHED = Knobs(**{**TINY, "start": "published", "budget": 8, "language": "B"})


@pytest.fixture(scope="module")
def published_log() -> FrameLog:
    """A search that starts from the seven published layers and examines one more candidate."""
    return FrameLog(EXPERIMENT.frames(FROM_PUBLISHED, "cpu"))


def test_a_tiny_search_from_published_layers(published_log: FrameLog) -> None:
    knobs, log = FROM_PUBLISHED, published_log
    assert log.arms == ["Evolution", "Random search"]
    assert log.last_step == knobs.total_steps() == 18
    found = trials(log)
    assert [t.index for t in found if t.arm == "Evolution"] == list(range(1, 9))
    names = warm_start_graphs("published", "B")
    assert [t.graph for t in found if t.arm == "Evolution"][:7] == [EVONORM_GRAPHS[n] for n in names]
    assert all(t.origin == "initial" for t in found if t.index <= 7)
    counts = {v: log.scalars(f"count/{v}") for v in VERDICTS}
    assert sum(int(table["value"].iloc[-1]) for table in counts.values()) == 8
    accepted = [t for t in found if t.scores]
    assert accepted
    assert best(log).mean == pytest.approx(max(t.mean for t in accepted))
    for e in log.array_history("reranked"):
        assert e.value.shape == (3,)
    assert {"reference/BN-ReLU", "reference/B0", "reference/S0", "reranked/BN-ReLU"} <= set(log.array_names)
    verdicts = EXPERIMENT.verdicts(log, knobs)
    assert verdicts["found-beats-batch-norm"].per_seed.keys() == {0}
    assert verdicts["pareto-beats-average"].per_seed == {}


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


def log_of(*accepted: tuple[str, int, int, tuple[float, ...]]) -> FrameLog:
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
    log = log_of(
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


def test_random_acceptance_and_front_dominance() -> None:
    log = log_of(
        ("Evolution", 0, 1, (0.9, 0.9)),
        ("Random search", 0, 1, ()),
        ("Random search", 0, 2, (0.5, 0.8)),
        ("Random search", 0, 3, (0.8, 0.5)),
        ("Random search", 0, 4, ()),
    )
    knobs = Knobs(mode="search")
    assert CLAIMS["random-layers-fail"].measure(log, knobs) == {0: 50.0}
    assert CLAIMS["evolution-beats-random"].measure(log, knobs) == {0: 1.0}
    tied = log_of(("Evolution", 0, 1, (0.5, 0.5)), ("Random search", 0, 1, (0.5, 0.5)))
    assert CLAIMS["evolution-beats-random"].measure(tied, knobs) == {0: 0.0}
    empty = log_of(("Evolution", 0, 1, ()), ("Random search", 0, 1, (0.5, 0.5)))
    assert CLAIMS["evolution-beats-random"].measure(empty, knobs) == {0: -1.0}
    assert CLAIMS["random-layers-fail"].measure(log, Knobs()) == {}


def test_kept_layers_are_compared_after_re_ranking() -> None:
    def kept(arm: str, name: str, values: list[float]) -> Frame:
        return Frame(110, arm, 0, {name: np.array(values)})

    log = FrameLog(
        [
            kept("Evolution", "reranked", [0.5, 0.7, 0.9]),
            kept("By average", "reranked", [0.2, 0.9, 1.0]),
            kept("Evolution", "reranked/BN-ReLU", [0.6, 0.6, 0.6]),
        ]
    )
    knobs = Knobs(mode="search")
    assert CLAIMS["found-beats-batch-norm"].measure(log, knobs) == pytest.approx({0: 10.0})
    assert CLAIMS["pareto-beats-average"].measure(log, knobs) == pytest.approx({0: 30.0}, rel=1e-5)


def test_batch_size_claims() -> None:
    values = {
        "BN-ReLU, n=2": 90.0,
        "BN-ReLU, n=64": 97.0,
        "S0, n=2": 95.5,
        "S0, n=64": 96.0,
        "B0, n=64": 96.5,
    }
    log = FrameLog(
        Frame(step, arm, 0, {"validation_accuracy": value})
        for arm, value in values.items()
        for step in (1, 2, 3)
    )
    measured = {id: claim.measure(log, Knobs()) for id, claim in CLAIMS.items()}
    assert measured["s0-level-over-batch-sizes"] == pytest.approx({0: 0.5})
    assert measured["batch-norm-drops-more"] == pytest.approx({0: 6.5})
    assert measured["s0-beats-batch-norm-at-small-batches"] == pytest.approx({0: 5.5})
    assert measured["b0-at-least-batch-norm"] == pytest.approx({0: -0.5})
    assert measured["s0-at-least-group-norm"] == {}
    many = Knobs(batch_sizes=("8", "64"))
    assert CLAIMS["batch-norm-drops-more"].measure(log, many) == {}
    assert CLAIMS["s0-level-over-batch-sizes"].measure(log, Knobs(batch_sizes=("64",))) == {}


# ---- mathematics


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


@pytest.mark.parametrize("mode", ["compare", "search"])
def test_figures_of_empty_and_full_logs(mode: str, published_log: FrameLog) -> None:
    compared = Knobs(layers=("B0", "S0"), batch_sizes=("16",), steps=10, seeds=2)
    knobs = FROM_PUBLISHED if mode == "search" else compared
    empty = EXPERIMENT.figures(FrameLog(), knobs)
    log = published_log if mode == "search" else FrameLog(EXPERIMENT.frames(knobs, "cpu"))
    full = EXPERIMENT.figures(log, knobs)
    assert list(full) == list(empty)
    assert all(len(figure.data) for figure in full.values())
    early = EXPERIMENT.figures(log, knobs, 1)
    assert list(early) == list(full)
    if mode == "search":
        assert len(early["population"].data) <= len(full["population"].data)
        known = full["pareto"].data
        assert {"BN-ReLU", "B0", "S0"} <= set(known["group"])


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
    with pytest.raises(ValidationError, match="at most") as refused:
        Knobs(**heavy)
    fits = int(str(refused.value).split("at most ")[1].split()[0])
    name = "steps" if mode == "compare" else "budget"
    assert getattr(Knobs(**{**heavy, name: fits}), name) == fits


def test_server_side_loads_no_torch() -> None:
    code = (
        "import sys; from normviz.experiments.evolving_layers import EXPERIMENT, Knobs; from normviz.frame import "
        "FrameLog; [EXPERIMENT.figures(FrameLog(), Knobs(mode=m)) for m in ('compare', 'search')]; "
        "import normviz.figures.norm_responses; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sections_of_the_chosen_mode_are_unfolded() -> None:
    assert Knobs.open_sections({"mode": "search"}) == ("Experiment", "Search")
    assert Knobs.open_sections({"mode": "compare"}) == ("Experiment", "Published layers")
    assert set(Knobs.open_sections({"mode": "search"})) <= {c.section for c in Knobs.controls().values()}

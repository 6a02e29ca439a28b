"""The evolutionary search for layers: Pareto front, events, resuming, the cache, tournaments."""

import doctest
import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import normviz.norms
from normviz.norms import (
    _evonorm_evolution,
    _evonorm_export,
    _evonorm_graph,
    _evonorm_layer,
    _evonorm_render,
    evonorm_search,
)
from normviz.norms.evonorm_search import (
    EVONORM_GRAPHS,
    VERDICTS,
    Event,
    EvolutionSearch,
    Graph,
    GraphLayer2d,
    Node,
    Progress,
    Proposal,
    SearchData,
    dominates,
    evaluate_norm,
    layer_factory,
    pareto_front,
)
from tests.norms.evonorm_formulas import CONSTANT, IDENTITY, TOWER, random_graphs, tensor

# ---- Pareto

VECTORS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=8)


@settings(max_examples=60, deadline=None)
@given(VECTORS)
def test_card_check_9_dominance(scores):
    front = pareto_front(scores)
    assert front == sorted(set(front))
    for i, a in enumerate(scores):
        assert not dominates(a, a)
        for b in scores:
            assert not (dominates(a, b) and dominates(b, a))
            for c in scores:
                assert dominates(a, c) or not (dominates(a, b) and dominates(b, c))
        beaten = [j for j in front if dominates(scores[j], a)]
        assert bool(beaten) == (i not in front)


def test_pareto_by_hand():
    assert dominates((1, 2), (1, 1))
    assert not dominates((1, 2), (2, 1))
    assert pareto_front([]) == []
    assert pareto_front([(1, 3), (2, 2), (1, 2), (3, 1), (2, 2)]) == [0, 1, 3, 4]
    with pytest.raises(ValueError, match="same length, got 1 and 2"):
        dominates((1,), (1, 2))


# ---- evolution


def toy_data():
    x = tensor(shape=(96, 1, 4, 4), dtype=torch.float32)
    y = (x[:, 0, :2].mean((1, 2)) > x[:, 0, 2:].mean((1, 2))).long()
    return SearchData(x[:64], y[:64], x[64:], y[64:], 16)


def small(norm):
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm(4), nn.Flatten(), nn.Linear(16, 2))


def wide(norm):
    return nn.Sequential(nn.Conv2d(1, 6, 2), norm(6), nn.Flatten(), nn.Linear(54, 2))


TOY = {"steps": 2, "stability_steps": 2, "threshold": 0.3, "lr": 0.1, "groups": 2, "n_nodes": 5}


def toy_search(**kw):
    return EvolutionSearch([small, wide], toy_data(), **(TOY | kw))


def test_order_of_origins_and_contents_of_events():
    initial = [EVONORM_GRAPHS["BN-ReLU"], CONSTANT, TOWER, EVONORM_GRAPHS["S0"]]
    search = toy_search(initial=initial, population_size=6, seed=1)
    alive = []
    for i, event in enumerate(search.stream(60)):
        assert event.index == i
        if i < 4:
            assert (event.origin, event.graph, event.parent) == ("initial", initial[i], None)
        elif event.origin == "mutation":
            assert any(event.parent.nodes == graph.nodes for graph in alive)
            pairs = zip(event.parent.nodes, event.graph.nodes, strict=True)
            assert sum(a != b for a, b in pairs) <= 1
        else:
            assert event.origin == "random"
            assert event.parent is None
            assert len(event.graph.nodes) == 5
        assert event.verdict in VERDICTS
        assert (event.scores is None) == (event.verdict != "accepted")
        if event.scores is not None:
            assert len(event.scores) == 2
            assert min(event.scores) >= 0.3
            alive = [*alive, event.graph][-6:]
        assert [c.graph.nodes for c in search.population] == [g.nodes for g in alive]
    assert len(search.population) == 6
    assert search.history[1].verdict == "constant"
    assert search.history[2].verdict in ("nan", "stability")
    assert search.counts == {v: sum(e.verdict == v for e in search.history) for v in VERDICTS}
    assert len(search.history) == sum(search.counts.values()) == 60
    assert search.counts["constant"] > 5
    origins = Counter(e.origin for e in search.history)
    assert min(origins["random"], origins["mutation"]) > 10


def test_exploration_extremes():
    accepted = {"initial": [EVONORM_GRAPHS["BN-ReLU"]]}
    assert {e.origin for e in toy_search(exploration=1.0, **accepted).run(12)[1:]} == {"random"}
    assert {e.origin for e in toy_search(exploration=0.0, **accepted).run(12)[1:]} == {"mutation"}
    empty = toy_search(exploration=0.0, threshold=1.1)
    assert {e.origin for e in empty.run(12)} == {"random"}
    assert empty.population == ()
    assert empty.best is None
    assert empty.front == []


def test_same_seed_same_events():
    kw = {"initial": [EVONORM_GRAPHS["B0"]]}
    first, second = toy_search(seed=3, **kw).run(15), toy_search(seed=3, **kw).run(15)
    assert first == second
    assert [e.graph.nodes for e in first] == [e.graph.nodes for e in second]
    assert first != toy_search(seed=4, **kw).run(15)


def test_resumed_equals_uninterrupted():
    kw = {"initial": [EVONORM_GRAPHS["B0"], EVONORM_GRAPHS["S1"]], "population_size": 4, "seed": 2}
    whole = toy_search(**kw)
    whole.run(22)
    for at in (1, 13):
        part = toy_search(**kw)
        part.run(at)
        saved = json.loads(json.dumps(part.state_dict()))
        resumed = toy_search(**kw)
        resumed.load_state_dict(saved)
        assert resumed.state_dict() == part.state_dict()
        resumed.run(22 - at)
        assert resumed.history == whole.history
        assert [c.graph.nodes for c in resumed.population] == [c.graph.nodes for c in whole.population]
        assert resumed.state_dict() == whole.state_dict()


def test_equal_graphs_come_from_the_cache():
    built = []

    def counting(norm):
        built.append(1)
        return small(norm)

    graph = EVONORM_GRAPHS["BN-ReLU"]
    with_dead_node = Graph([("exp", (0,)), *[Node(op, shifted(i)) for op, i in graph.nodes]])
    search = EvolutionSearch(
        [counting], toy_data(), initial=[graph, with_dead_node, CONSTANT, CONSTANT], **TOY
    )
    first = search.step()
    assert first.verdict == "accepted"
    networks = len(built)
    assert networks == 2  # quality and stability
    second = search.step()
    assert (second.verdict, second.scores, len(built)) == ("accepted", first.scores, networks)
    assert second.index == 1
    assert [c.graph.nodes for c in search.population] == [graph.nodes, with_dead_node.nodes]
    assert len(search.accepted) == 1
    assert [e.verdict for e in search.run(2)] == ["constant", "constant"]


def shifted(inputs):
    return tuple(i if i < 4 else i + 1 for i in inputs)


def test_examine_shows_every_step_and_can_be_dropped():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    items = []
    for item in search.examine():
        items.append(item)
        assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(items[0], Proposal)
    assert isinstance(items[-1], Event)
    stages = [(p.stage, p.anchor, p.step) for p in items[1:-1]]
    assert stages == [
        *[("quality", j, s) for j in (0, 1) for s in (1, 2)],
        *[("stability", 0, i) for i in (0, 1, 2)],
    ]
    assert all(math.isfinite(p.value) for p in items[1:-1])

    for _ in range(3):
        next(search.examine())
    assert len(search.history) == 1
    assert [items[-1], *search.run(11)] == toy_search(initial=[EVONORM_GRAPHS["S0"]]).run(12)


def test_a_dropped_candidate_is_proposed_again():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]])
    search.step()
    while True:
        dropped = search.examine()
        proposal = next(dropped)
        if proposal.graph.depends_on_input:
            break
        list(dropped)
    next(dropped)
    dropped.close()
    count = len(search.history)
    event = search.step()
    assert len(search.history) == count + 1
    assert event.graph.nodes == proposal.graph.nodes


def test_evaluation_with_other_steps():
    graph = EVONORM_GRAPHS["BN-ReLU"]
    search = toy_search(initial=[graph], eval_steps=9)
    stages = [item.stage for item in search.examine() if isinstance(item, Progress)]
    assert stages.count("evaluation") == 18
    expected = evaluate_norm(layer_factory(graph, 2), [small, wide], toy_data(), steps=9, lr=0.1).scores
    assert search.history[0].scores == expected
    reused = toy_search(initial=[graph], eval_steps=2)
    assert [i.stage for i in reused.examine() if isinstance(i, Progress)].count("evaluation") == 0


def test_a_candidate_that_raises_is_counted_and_the_search_goes_on():
    def picky(norm):
        model = small(norm)
        if "tanh" in model[1].graph.to_formula():
            raise RuntimeError("no tanh here")
        return model

    bad = Graph([("tanh", (0,))])
    search = EvolutionSearch([small, picky], toy_data(), initial=[bad, IDENTITY, bad], **TOY)
    events = search.run(3)
    assert [e.verdict for e in events] == ["error", "accepted", "error"]
    assert search.counts["error"] == 2
    assert search.errors == {0: "RuntimeError: no tanh here", 2: "RuntimeError: no tanh here"}
    assert len(search.population) == 1
    restored = EvolutionSearch([small, picky], toy_data(), initial=[bad, IDENTITY, bad], **TOY)
    restored.load_state_dict(json.loads(json.dumps(search.state_dict())))
    assert restored.errors == search.errors


def test_anchors_that_always_raise_are_not_blamed_on_the_candidate():
    def broken(norm):
        raise RuntimeError("no network at all")

    search = EvolutionSearch([broken], toy_data(), initial=[IDENTITY], **TOY)
    with pytest.raises(RuntimeError, match="no network at all"):
        search.step()
    assert search.history == []
    assert search.counts["error"] == 0


def test_run_stops_when_the_callback_says_so():
    search = toy_search()
    seen = []
    events = search.run(20, lambda event: seen.append(event) or len(seen) < 4)
    assert events == seen == search.history
    assert len(events) == 4
    assert len(search.run(2, lambda event: None)) == 2


def with_population(scores, **kw):
    graphs = random_graphs(len(scores), seed=9)
    search = toy_search(population_size=1000, **kw)
    state = search.state_dict()
    state["population"] = [{"graph": g.to_dict(), "scores": s} for g, s in zip(graphs, scores, strict=True)]
    search.load_state_dict(json.loads(json.dumps(state)))
    return search


def winners(search, n):
    return Counter(search._tournament().scores for _ in range(n))


def test_tournament_criteria():
    scores = [[0.9, 0.1], [0.1, 0.8], [0.6, 0.5], [0.5, 0.5]]
    everyone = {"min_tournament": 10}
    average = winners(with_population(scores, criterion="average", **everyone), 30)
    assert average == {(0.6, 0.5): 30}
    pareto = winners(with_population(scores, **everyone), 600)
    assert pareto.keys() == {(0.9, 0.1), (0.1, 0.8), (0.6, 0.5)}
    assert min(pareto.values()) > 150


@pytest.mark.parametrize(
    ("kw", "size"), [({}, 5), ({"min_tournament": 9}, 9), ({"tournament_fraction": 0.2}, 20)]
)
def test_tournament_size(kw, size):
    scores = [[i / 100, i / 100] for i in range(100)]
    best = winners(with_population(scores, criterion="average", **kw), 1500)[(0.99, 0.99)]
    expected = 1500 * size / 100
    assert abs(best - expected) < 4 * math.sqrt(expected)


def test_tournament_draws_without_replacement():
    search = with_population([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]], criterion="average")
    assert winners(search, 40) == {(0.3, 0.3): 40}


def test_best_front_and_candidates_as_factories():
    search = toy_search(initial=list(EVONORM_GRAPHS.values()), steps=8)
    search.run(9)
    scores = [c.scores for c in search.accepted]
    assert search.best.scores in [c.scores for c in search.front] or len(search.front) > 1
    assert max(sum(s) for s in scores) == sum(search.best.scores)
    assert [c.scores for c in search.front] == [scores[i] for i in pareto_front(scores)]
    model = small(search.best)
    assert isinstance(model[1], GraphLayer2d)
    loss = nn.functional.cross_entropy(model(toy_data().x), toy_data().y)
    loss.backward()
    assert model[1].weight.grad.abs().sum() > 0


def test_rerank():
    search = toy_search(initial=list(EVONORM_GRAPHS.values()))
    search.run(len(EVONORM_GRAPHS) + 4)
    best = sorted(search.accepted, key=lambda c: sum(c.scores), reverse=True)[:4]
    reranked = search.rerank(top=4, keep=2, factor=3)
    again = [
        evaluate_norm(layer_factory(c.graph, 2), [small, wide], toy_data(), steps=6, lr=0.1, seed=1)
        for c in best
    ]
    expected = sorted((sum(r.scores) for r in again), reverse=True)[:2]
    assert [sum(c.scores) for c in reranked] == expected
    assert {c.graph for c in reranked} <= {c.graph for c in best}
    other = toy_data()._replace(x_val=toy_data().x_val * 2)
    assert len(search.rerank(top=2, keep=5, data=other, seed=7)) == 2
    assert toy_search().rerank() == []
    for kw in ({"top": 0}, {"keep": 0}, {"factor": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(kw))):
            search.rerank(**kw)


def test_the_search_has_one_language():
    search = toy_search(initial=[EVONORM_GRAPHS["S0"]], batch_dependent=True)
    search.step()
    assert search.population[0].graph.batch_dependent
    with pytest.raises(ValueError, match="must not use batch statistics"):
        toy_search(initial=[EVONORM_GRAPHS["B0"]], batch_dependent=False)
    independent = toy_search(batch_dependent=False, initial=[EVONORM_GRAPHS["S0"]])
    for event in independent.stream(15):
        assert not any(node.op.endswith("bwh") for node in event.graph.nodes)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"criterion": "best"}, "criterion must be one of 'pareto', 'average'"),
        ({"exploration": 1.1}, r"exploration must be a number in \[0, 1\]"),
        ({"tournament_fraction": 0.0}, r"tournament_fraction must be a number in \(0, 1\]"),
        ({"population_size": 0}, "population_size must be an integer >= 1, got 0"),
        ({"min_tournament": 0}, "min_tournament must be an integer >= 1, got 0"),
        ({"n_nodes": 0}, "n_nodes must be an integer >= 1, got 0"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"eval_steps": 0}, "eval_steps must be an integer >= 1, got 0"),
        ({"stability_steps": -1}, "stability_steps must be an integer >= 0"),
        ({"stability_batch": 0}, "stability_batch must be an integer >= 1"),
        ({"lr": -1.0}, "lr must be a number > 0"),
        ({"stability_lr": 0.0}, "stability_lr must be a number > 0"),
        ({"max_norm": 0.0}, "max_norm must be a number > 0"),
        ({"groups": 0}, "groups must be an integer >= 1"),
        ({"seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_settings_too_small_to_run_are_refused(kw, message):
    with pytest.raises(ValueError, match=message):
        toy_search(**kw)


def test_no_anchors_and_no_budget():
    with pytest.raises(ValueError, match="anchors must hold at least 1"):
        EvolutionSearch([], toy_data())
    for call in (toy_search().run, toy_search().stream):
        with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
            call(0)
    assert len(toy_search(population_size=1, min_tournament=1).run(3)) == 3


@pytest.mark.parametrize(
    "module",
    [
        evonorm_search,
        _evonorm_evolution,
        _evonorm_export,
        _evonorm_graph,
        _evonorm_layer,
        _evonorm_render,
    ],
)
def test_examples(module):
    result = doctest.testmod(module)
    assert result.failed == 0
    assert result.attempted > 0


def test_exports():
    unexported = {"Anchor", "Progress", "Proposal", "VERDICTS"}
    for name in evonorm_search.__all__:
        assert hasattr(evonorm_search, name)
        assert name in unexported or getattr(normviz.norms, name) is getattr(evonorm_search, name)

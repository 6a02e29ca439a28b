"""The experiment behind the page: what it trains and plays, draws and claims."""

from __future__ import annotations

import importlib.util
import math
import sys
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from normviz.experiments import effective_learning_rate as elr
from normviz.experiments.effective_learning_rate import games as games_module
from normviz.experiments.effective_learning_rate import supervised
from normviz.experiments.effective_learning_rate.claims import CLAIMS, late
from normviz.experiments.effective_learning_rate.environments import TaskSequence
from normviz.experiments.effective_learning_rate.games import LEARN_START, updates_per_game
from normviz.experiments.effective_learning_rate.growth import EXPRESSIONS, growth_figure
from normviz.experiments.effective_learning_rate.knobs import (
    AGENTS,
    NAP,
    NONE,
    REMEDIES,
    REPLAY,
    RESNET,
    RESNET_NAP,
    Knobs,
    Variant,
    variants,
)
from normviz.experiments.effective_learning_rate.measures import GrowthLaw, Lengths, dormant_units
from normviz.experiments.effective_learning_rate.supervised import Study, make_optimizer
from normviz.frame import Frame, FrameLog
from normviz.knobs import KnobError
from normviz.norms import NaPMLP, insert_normalization
from normviz.testing import log_of_series, merged
from normviz.training import build_member

CLAIM = {claim.id: claim for claim in CLAIMS}
CPU = torch.device("cpu")
SHORT: dict[str, Any] = {"period": 20, "phases": 2, "seeds": 1}
GAMES: dict[str, Any] = {"task": "games", "task_steps": 200, "tasks": 2, "cycles": 1, "seeds": 1}
ATARI = all(importlib.util.find_spec(name) for name in ("gymnasium", "ale_py", "cv2"))


# --- what is trained -------------------------------------------------------------------------------------------------


def test_every_remedy_trains_with_and_without_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "REDO_EVERY", 5)
    knobs = Knobs(remedies=tuple(REMEDIES), remedies_with_nap=True, replay=True, **SHORT)
    run = elr.run(knobs, device="cpu")
    names = [variant.name for variant in variants(knobs)]
    assert len(names) == 3 + 2 * len(REMEDIES) + 1
    assert run.log.arms == names == list(knobs.shown_arms())
    assert not run.log.events
    assert (run.log.scalars("loss").groupby("arm").size() == 40).all()
    assert run.log.scalars("phase_accuracy").groupby("arm")["step"].apply(list).tolist() == [[20, 40]] * len(
        names
    )
    final = run.log.final("loss").set_index("arm")["value"]
    for base in ("LayerNorm", NAP):
        treated = final[[n for n in names if n.startswith(f"{base}, ")]]
        assert len({final[base], *treated}) == 1 + len(REMEDIES), (
            "each remedy does something, and not the same"
        )
    lengths = run.log.scalars("length")
    projected = lengths[lengths["arm"].str.startswith(NAP) & (lengths["step"] > 0)]["value"]
    np.testing.assert_allclose(projected, 1, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "norm": "rms", "depth": 1, "change": "pixels", "every": 3},
        {
            "optimizer": "momentum",
            "network": "conv",
            "change": "classes",
            "scale_offset": "regularize",
            "depth": 3,
        },
        {"scale_offset": "none", "project_output": True, "depth": 4, "sweep": True},
        {"scale_offset": "free", "network": "conv", "change": "pixels", "batch_size": 8, "depth": 4},
        {"task": "stationary", "replay": True},
        {"arms": ("layer", "resnet", "resnet_nap"), "network": "conv", "norm": "rms", "change": "pixels"},
        {
            "data": "mnist1d",
            "network": "conv",
            "arms": ("none", "nap", "resnet"),
            "depth": 2,
            "change": "pixels",
        },
        {"data": "mnist", "arms": ("layer", "resnet_nap"), "depth": 2, "batch_size": 8},
        {"data": "mnist", "network": "conv", "depth": 1, "batch_size": 8},
    ],
)
@pytest.mark.usefixtures("small_mnist")
def test_other_settings_train(options: dict[str, Any]) -> None:
    knobs = Knobs(**{**SHORT, "phases": 1, **options})
    run = elr.run(knobs, device="cpu")
    assert not run.log.events
    assert run.log.arms == [variant.name for variant in variants(knobs)]
    assert all(run.log.scalars(f"elr/{layer}")["value"].min() > 0 for layer in range(1, knobs.layers() + 1))
    assert all(figure.data is not None for figure in run.figures().values())


def test_same_seed_same_numbers_also_where_remedies_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "REDO_EVERY", 5)
    knobs = Knobs(arms=("layer",), remedies=("noise", "shrink", "redo"), **SHORT)
    first, second = (elr.run(knobs, device="cpu").log.scalars("loss")["value"].to_numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_arms_share_weights_labels_and_batches() -> None:
    study = Study(Knobs(remedies=()), CPU)
    nets = []
    for variant in study.variants.values():
        torch.manual_seed(3)
        nets.append(study._network(variant))
    for name in ("layers.0.weight", f"layers.{len(nets[0].layers) - 1}.weight"):  # type: ignore[arg-type]
        plain = nets[0].get_parameter(name)
        for net in nets[1:]:
            same = [p for p in net.parameters() if p.shape == plain.shape and torch.equal(p, plain)]
            assert len(same) == 1
    x0, y0 = study.task(0, 0)
    x1, y1 = study.task(0, 1)
    assert torch.equal(x0, x1)
    assert 0.05 < (y0 == y1).float().mean() < 0.2, "labels of two phases agree by chance only"
    assert not torch.equal(study.task(1, 0)[1], y0)
    x, y = study._batch(0, study.knobs.period)
    rows = [int((x1 == row).flatten(1).all(1).nonzero()[0]) for row in x]
    assert torch.equal(y1[rows], y)


def test_what_a_reset_changes() -> None:
    pixels = Study(Knobs(change="pixels"), CPU)
    (a, labels), (b, same) = pixels.task(0, 0), pixels.task(0, 1)
    assert torch.equal(labels, same)
    assert not torch.equal(a, b)
    torch.testing.assert_close(a.sort(1).values, b.sort(1).values)
    classes = Study(Knobs(change="classes"), CPU)
    y0, y1 = classes.task(0, 0)[1], classes.task(0, 1)[1]
    assert len(torch.unique(10 * y0 + y1)) == 10, "a renaming"
    stationary = Study(Knobs(task="stationary"), CPU)
    assert torch.equal(stationary.task(0, 0)[1], stationary.task(0, 5)[1])
    assert len(stationary.split(0).x) > 1300


def test_penalty_is_the_loss_with_the_penalty_added() -> None:
    """One step of the L2 arm under SGD by hand: theta - lr (grad + 2 strength theta)."""
    knobs = Knobs(optimizer="sgd", remedies=("l2",), arms=("layer",), **SHORT)
    study = Study(knobs, CPU)
    arm = study._arm(study.variants["LayerNorm, L2"])
    from normviz.training import build_member

    member = build_member(arm, 0, CPU)
    x, y = study._batch(0, 0)
    before = {n: p.detach().clone() for n, p in member.model.named_parameters()}
    cross_entropy(member.model(x), y).backward()
    grads = {n: p.grad.clone() for n, p in member.model.named_parameters() if p.grad is not None}
    member.update()
    pulled = {"layers.0.weight", "layers.3.weight", "layers.6.weight", "layers.6.bias"}
    for name, p in member.model.named_parameters():
        pull = 2 * 1e-4 * before[name] if name in pulled else 0.0
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * (grads[name] + pull))


def test_equivalence_is_exact_and_the_rest_is_not() -> None:
    run = elr.run(Knobs(task="equivalence", period=40, phases=2, seeds=1), device="cpu")
    largest = run.log.scalars("difference").groupby("arm")["value"].max()
    assert largest["Layer-wise"] < 1e-11
    assert largest[REPLAY] < 1e-11
    assert largest["Global"] > 1e-3
    assert largest["LayerNorm"] > 1e-3
    verdicts = run.verdicts()
    for claim in (
        "layerwise-equals-nap",
        "replay-equals-unprojected",
        "gradient-is-orthogonal",
        "norm-growth",
    ):
        assert verdicts[claim].outcome == "reproduced", claim
    losses = run.log.scalars("loss").pivot_table(index="step", columns="arm", values="value")
    np.testing.assert_allclose(losses["Layer-wise"], losses[NAP], rtol=1e-9)
    np.testing.assert_allclose(losses[REPLAY], losses["LayerNorm"], rtol=1e-9)
    assert (losses[NAP] - losses["LayerNorm"]).abs().max() > 1e-3


def test_equivalence_ends_where_it_must() -> None:
    for options in ({"every": 7}, {"project_output": True}):
        run = elr.run(Knobs(task="equivalence", period=40, phases=1, seeds=1, **options), device="cpu")
        assert run.log.scalars("difference").groupby("arm")["value"].max()["Layer-wise"] > 1e-6
        assert run.verdicts()["layerwise-equals-nap"].per_seed == {}


def test_replay_follows_the_recorded_rates() -> None:
    run = elr.run(Knobs(replay=True, adam_lr=1e-2, remedies=(), **SHORT), device="cpu")
    for layer in (1, 2):
        rates = run.log.scalars(f"elr/{layer}").pivot_table(index="step", columns="arm", values="value")
        rates = rates.loc[:39]  # at step 40 nothing more is trained; the schedule has moved on
        np.testing.assert_allclose(rates[REPLAY], rates["LayerNorm"], rtol=1e-5)
        assert rates["LayerNorm"].iloc[-1] < 0.97
        np.testing.assert_allclose(rates[NAP], 1, rtol=1e-5)


def test_a_network_that_diverges_ends_alone() -> None:
    knobs = Knobs(arms=("none", "nap"), remedies=(), **SHORT)
    study = Study(knobs, CPU)
    whole = study.split(0)
    broken = whole._replace(x=whole.x * torch.tensor(float("nan")))
    study.split = lambda seed: broken
    log = FrameLog(study.frames())
    assert {event.arm for event in log.events} == {NONE, NAP}
    assert all(event.text.startswith("diverged at step 0: the training loss is nan") for event in log.events)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_lengths_and_effective_rates_by_hand() -> None:
    model = insert_normalization(NaPMLP(6, 3, (5, 4), norm=None))
    optimizer = make_optimizer("sgd", 0.5, model.parameters())
    lengths = {law: Lengths(model, law, 0.25, scale_invariant=True) for law in ("sgd", "adam")}
    first, second = (model.get_parameter(f"layers.{i}.weight") for i in (0, 3))
    a, b = float(first.detach().norm()), float(second.detach().norm())
    with torch.no_grad():
        first.mul_(2)
        second.mul_(0.5)
    values = lengths["sgd"].values(optimizer)
    assert values["length"] == pytest.approx(math.sqrt((4 * a * a + 0.25 * b * b) / (a * a + b * b)))
    assert values["elr/1"] == pytest.approx(2 * 0.5**2)  # twice the rate that was set, at twice the length
    assert values["elr/2"] == pytest.approx(2 * 2**2)
    assert values["rate/1"] == values["rate/2"] == 0.5
    assert lengths["adam"].values(optimizer)["elr/1"] == pytest.approx(2 * 0.5)
    effective = lengths["sgd"].effective_rates(optimizer)
    assert effective == pytest.approx({"layers.0.weight": 0.5 / 4, "layers.3.weight": 0.5 * 4})
    assert "elr/1" not in Lengths(model, "sgd", 0.5, scale_invariant=False).values(optimizer)
    with torch.no_grad():
        first.fill_(float("nan"))
    assert lengths["sgd"].effective_rates(optimizer).keys() == {"layers.3.weight"}


def test_growth_law_finds_what_breaks_it() -> None:
    x, y = torch.randn(16, 6, dtype=torch.float64), torch.randint(3, (16,))

    def measured(norm: bool, momentum: float) -> dict[str, Any]:
        torch.manual_seed(0)
        plain = NaPMLP(6, 3, (8,), norm=None)
        model = (insert_normalization(plain, eps=1e-30) if norm else plain).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        law = GrowthLaw(model, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        values = law.values()
        assert law.values() == {"law/cosine": 0.0, "law/growth": 0.0}
        return values

    holds = measured(norm=True, momentum=0.0)
    assert holds["law/cosine"] < 1e-12
    assert holds["law/growth"] < 1e-12
    assert measured(norm=True, momentum=0.9)["law/growth"] > 1e-6
    assert measured(norm=False, momentum=0.0)["law/cosine"] > 1e-3


def test_dormant_units_is_the_mean_over_layers() -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model[0].bias.copy_(torch.tensor([1.0, 1.0, -1.0, -1.0]))
        model[2].bias.copy_(torch.tensor([1.0, 1e-3]))
    assert dormant_units(model, torch.zeros(5, 1)) == pytest.approx((0.5 + 0.5) / 2)
    assert not model[1]._forward_hooks


def test_dead_units_hear_behind_a_norm_only() -> None:
    run = elr.run(Knobs(remedies=(), **{**SHORT, "phases": 1}), device="cpu")
    table = run.log.scalars("dead_unit_gradient").set_index("arm")["value"]
    assert table[NONE] == 0
    assert table["LayerNorm"] > 1e-3
    verdicts = run.verdicts()
    assert verdicts["dead-unit-hears"].outcome == verdicts["dead-unit-is-deaf"].outcome == "reproduced"


# --- the games -------------------------------------------------------------------------------------------------------


def test_every_agent_plays_every_game() -> None:
    knobs = Knobs(agents=tuple(AGENTS), replay=True, learn_every=4, **GAMES)
    run = elr.run(knobs, device="cpu")
    names = [variant.name for variant in variants(knobs)]
    assert run.log.arms == names
    assert names[-1] == REPLAY
    assert not run.log.events
    steps = pd.Series([f.arm for f in run.log.frames if 0 < f.step < 400 and "game_return" not in f.values])
    assert (steps.value_counts() == 399).all()
    scores = run.log.scalars("game_return")
    assert scores.groupby("arm")["step"].apply(list).tolist() == [[200, 400]] * len(names)
    assert scores["value"].between(-1, 1).all()
    rates = run.log.scalars("rate/1").pivot_table(index="step", columns="arm", values="value")
    assert (rates[NAP] == knobs.adam_lr).all()
    whole = updates_per_game(knobs)
    assert whole == len([s for s in range(1, 201) if s >= LEARN_START and s % 4 == 0])
    done = whole + len(
        [s for s in range(1, 151) if s >= LEARN_START and s % 4 == 0]
    )  # at the last measurement
    assert rates["NaP + decay"].iloc[-1] == pytest.approx(knobs.adam_lr * (1 - 0.99 * done / (2 * whole)))
    cyclic = rates["NaP + cyclic"].to_numpy()
    restart = list(rates.index).index(200)
    assert cyclic[restart] == knobs.adam_lr > cyclic[restart - 1], "restarts with the second game"
    length = run.log.scalars("length").pivot_table(index="step", columns="arm", values="value")
    np.testing.assert_allclose(length[NAP], 1, rtol=1e-5)
    assert length["Fresh net"].loc[200] == 1
    assert length["LayerNorm"].loc[200] > 1.0001


def test_same_seed_same_game() -> None:
    first, second = (
        elr.run(Knobs(agents=("nap",), **GAMES), device="cpu").log.scalars("return")["value"].to_numpy()
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


def test_an_agent_that_diverges_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    observe = games_module.DQNAgent.observe

    def broken(self: Any, *args: Any, **kwargs: Any) -> float | None:
        loss = observe(self, *args, **kwargs)
        return math.nan if loss is not None and self.projector is not None else loss

    monkeypatch.setattr(games_module.DQNAgent, "observe", broken)
    log = elr.run(Knobs(agents=("layer", "nap"), **GAMES), device="cpu").log
    assert [(e.arm, e.text) for e in log.events] == [(NAP, "diverged at action 99: the loss is nan")]
    assert max(f.step for f in log.frames if f.arm == "LayerNorm") == 400


class TinyScreens:
    """Stands for an Atari game: the same shapes, types and actions, an episode of seven steps."""

    observation_shape = (4, 84, 84)
    num_actions = 18

    def __init__(self, game: str, seed: int = 0) -> None:
        self._random, self._left = np.random.default_rng(seed), 0
        assert game in games_module.ATARI_GAMES

    def _screen(self) -> NDArray[np.uint8]:
        return self._random.integers(0, 256, self.observation_shape, dtype=np.uint8)

    def reset(self, seed: int | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        self._left = 7
        return self._screen(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        assert 0 <= action < 18
        self._left -= 1
        return self._screen(), 1.0, self._left == 0, False, {}


def test_screens_are_played_with_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(games_module, "AtariEnv", TinyScreens)
    monkeypatch.setattr(games_module, "LEARN_START", 195)
    knobs = Knobs(environment="atari", agents=("nap",), **{**GAMES, "tasks": 1, "learn_every": 4})
    log = elr.run(knobs, device="cpu").log
    assert log.scalars("game_return")["value"].tolist() == [7.0]
    assert {f"elr/{layer}" for layer in range(1, 6)} <= set(log.scalar_names)
    assert "elr/6" not in log.scalar_names
    assert len(log.scalars("loss")) == 0 or log.scalars("loss")["value"].notna().all()


def test_atari_without_its_packages_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"gymnasium is missing.*normviz\[atari\]"):
        elr.run(Knobs(environment="atari", **GAMES), device="cpu")


@pytest.mark.skipif(not ATARI, reason="needs the extra atari")
def test_real_atari_is_played() -> None:
    knobs = Knobs(environment="atari", agents=("nap",), **{**GAMES, "tasks": 1, "learn_every": 8})
    player = games_module.Player(knobs, variants(knobs)[0], 0, CPU, {})
    assert isinstance(player.games, TaskSequence)
    for at in range(120):
        player.step(at)
    assert player.agent.updates > 0
    assert player.agent.buffer.sample(4)[0].float().std() > 1, "screens show something"


# --- claims ----------------------------------------------------------------------------------------------------------

PHASES = Knobs(phases=7, period=20)
SEVEN = {NAP: {0: [80, 70, 80.0, 82, 84, 86, 88], 1: [90, 1, 70.0, 70, 70, 70, 70]}}


def test_late_phases() -> None:
    log = log_of_series("phase_accuracy", SEVEN, first=20, every=20)
    assert late(NAP)(log, PHASES) == {0: 84.0, 1: 70.0}
    stopped = merged(
        log_of_series("phase_accuracy", {**SEVEN, NONE: {0: [50.0] * 5, 1: [50.0] * 7}}, first=20, every=20),
        FrameLog([Frame.diverged(110, NONE, 0, "the training loss is nan")]),
    )
    assert late(NONE)(stopped, PHASES) == {0: -math.inf, 1: 50.0}, "diverged: the worst there is"
    unfinished = log_of_series("phase_accuracy", {NAP: {0: [80.0] * 5, 1: [80.0] * 5}}, first=20, every=20)
    assert all(map(math.isnan, late(NAP)(unfinished, PHASES).values()))


def test_plasticity_claims() -> None:
    runs = {**SEVEN, "LayerNorm": {s: [80.0, 70] + [end] * 5 for s, end in ((0, 78.0), (1, 66.0))}}
    log = log_of_series("phase_accuracy", runs, first=20, every=20)
    assert CLAIM["nap-keeps-learning"].verdict(log, PHASES).per_seed == pytest.approx(
        {0: 84 / 80, 1: 70 / 90}
    )
    assert CLAIM["nap-over-norm"].verdict(log, PHASES).per_seed == pytest.approx({0: 6.0, 1: 4.0})
    assert not CLAIM["nap-over-norm"].verdict(log, Knobs(task="stationary")).measured
    assert not CLAIM["nap-over-norm"].verdict(log, Knobs(phases=5)).measured
    assert not CLAIM["norm-free-degrades"].verdict(log, PHASES).measured, "no such arm"
    assert not CLAIM["nap-over-norm-at-best"].verdict(log, PHASES).measured
    two = Knobs(phases=7, period=20, arms=("layer", "nap"))
    assert CLAIM["nap-over-norm-at-best"].verdict(log, two).per_seed == pytest.approx({0: 6.0, 1: 4.0})


def test_claims_about_the_resnet() -> None:
    runs = {
        RESNET: {0: [80.0, 70] + [60.0] * 5},
        RESNET_NAP: {0: [80.0, 90] + [72.0] * 5},
        NAP: {0: [50.0] * 7},
        "LayerNorm": {0: [40.0] * 7},
    }
    log = log_of_series("phase_accuracy", runs, first=20, every=20)
    knobs = Knobs(phases=7, period=20, seeds=1, arms=("layer", "nap", "resnet", "resnet_nap"))
    assert CLAIM["resnet-nap-over-norm"].verdict(log, knobs).per_seed == pytest.approx({0: 12.0})
    assert CLAIM["resnet-nap-keeps-learning"].verdict(log, knobs).per_seed == pytest.approx({0: 0.9})
    assert not CLAIM["resnet-nap-over-norm"].verdict(log, PHASES).measured


def test_spread_of_remedies() -> None:
    ends = {"NaP": 80.0, "NaP, L2": 82.0, "NaP, ReDo": 84.0}
    ends |= {"LayerNorm": 60.0, "LayerNorm, L2": 68.0, "LayerNorm, ReDo": 76.0}
    log = log_of_series(
        "phase_accuracy", {arm: {0: [50.0] + [v] * 5} for arm, v in ends.items()}, first=20, every=20
    )
    knobs = Knobs(remedies=("l2", "redo"), remedies_with_nap=True, phases=6, period=20, seeds=1)
    claim = CLAIM["remedies-become-alike"]
    assert claim.verdict(log, knobs).per_seed == pytest.approx({0: 0.25})
    assert not claim.verdict(log, Knobs(phases=6, period=20)).measured
    lost = merged(log, FrameLog([Frame.diverged(9, "NaP, L2", 0, "the training loss is nan")]))
    assert claim.verdict(lost, knobs).per_seed == {}, "a remedy that diverged has no accuracy to spread"


def test_rate_claims() -> None:
    logs = [
        log_of_series("elr/1", {"LayerNorm": {0: [1.0, 0.9, 0.5]}, NAP: {0: [1.0, 1.001, 1.0]}}, every=10),
        log_of_series("elr/2", {"LayerNorm": {0: [1.0, 0.9, 0.125]}, NAP: {0: [1.0, 1.0, 1.0]}}, every=10),
    ]
    log, knobs = merged(*logs), Knobs(period=20, phases=1, seeds=1)
    assert CLAIM["implicit-decay"].verdict(log, knobs).per_seed == pytest.approx({0: 4.0})  # sqrt(2 * 8)
    constant = CLAIM["constant-rate"].verdict(log, knobs)
    assert constant.per_seed == pytest.approx({0: 1e-3})
    assert constant.outcome == "opposite"
    assert not CLAIM["constant-rate"].verdict(log, Knobs(every=2, period=20, phases=1)).measured


def test_difference_claims() -> None:
    runs = {
        "Layer-wise": {0: [0.0, 1e-12, 1e-13]},
        "Global": {0: [0.0, 1.0, 3.0]},
        "LayerNorm": {0: [0.0, 4, 4.0]},
    }
    log = log_of_series("difference", runs, every=30)
    knobs = Knobs(task="equivalence", period=20, phases=3, seeds=1)
    assert CLAIM["layerwise-equals-nap"].verdict(log, knobs).per_seed == {0: 1e-12}
    for other in ({"task": "memorisation"}, {"every": 2}, {"project_output": True}):
        assert not CLAIM["layerwise-equals-nap"].verdict(log, knobs.model_copy(update=other)).measured
    accuracies = {NAP: {0: [50.0, 60, 70]}, "Global": {0: [51.0, 58, 70]}, "LayerNorm": {0: [46.0, 68, 70]}}
    log = log_of_series("phase_accuracy", accuracies, first=20, every=20)
    assert CLAIM["global-nearly"].verdict(log, knobs).per_seed == pytest.approx({0: 0.25})  # 3 / 12


def test_dormant_and_control_claims() -> None:
    log = log_of_series("dormant", {"LayerNorm": {0: [9.0, 1, 3]}, NONE: {0: [0.0, 10, 20]}}, every=1250)
    assert CLAIM["norm-wakes-units"].verdict(log, Knobs(seeds=1)).per_seed == pytest.approx({0: -13.0})
    runs = {"LayerNorm": {0: [0.0, 96, 97, 98]}, NAP: {0: [0.0, 95, 96, 97.5]}}
    log = log_of_series("accuracy", runs, every=10)
    control = CLAIM["stationary-control"].verdict(log, Knobs(task="stationary", period=30, phases=1, seeds=1))
    assert control.per_seed == pytest.approx({0: 97 - 288.5 / 3})


def test_game_claims_compare_the_last_cycle() -> None:
    knobs = Knobs(task="games", tasks=2, cycles=2, task_steps=500, seeds=1)
    runs = {
        NAP: {0: [1.0, 1.0, 0.2, 0.4]},
        "NaP + decay": {0: [0.0, 0.0, 0.6, 0.6]},
        "Fresh net": {0: [0.0, 0.0, 0.5, 0.3]},
        "LayerNorm": {0: [0.0, 0.0, 0.0, 0.2]},
    }
    log = log_of_series("game_return", runs, first=500, every=500)
    assert CLAIM["games-need-decay"].verdict(log, knobs).per_seed == pytest.approx({0: 0.3})
    assert CLAIM["games-like-fresh"].verdict(log, knobs).per_seed == pytest.approx({0: -0.1})
    assert CLAIM["games-nap-over-norm"].verdict(log, knobs).per_seed == pytest.approx({0: 0.2})
    once = Knobs(task="games", tasks=4, cycles=1, task_steps=500, seeds=1)
    assert CLAIM["games-need-decay"].verdict(log, once).per_seed == pytest.approx({0: -0.35})
    assert not CLAIM["games-nap-over-norm"].verdict(log, once).measured
    lost = merged(log, FrameLog([Frame.diverged(1700, NAP, 0, "the loss is nan")]))
    assert CLAIM["games-nap-over-norm"].verdict(lost, knobs).per_seed == {0: -math.inf}
    first = log_of_series(
        "game_return/0", {"NaP + cyclic": {0: [0.5]}, "LayerNorm": {0: [0.75]}}, first=500, every=500
    )
    assert CLAIM["single-game"].verdict(first, knobs).per_seed == {0: -0.25}


# --- figures ---------------------------------------------------------------------------------------------------------


def test_sweep_and_remedies_are_drawn_against_rate_and_remedy() -> None:
    knobs = Knobs(sweep=True, remedies=("l2",), arms=("layer", "nap"), phases=6, seeds=1)
    ends = {v.name: {0: [50.0] + [60.0 + i] * 5} for i, v in enumerate(variants(knobs))}
    figures = elr.EXPERIMENT.figures(log_of_series("phase_accuracy", ends, first=250, every=250), knobs)
    sweep = figures["sweep"].data
    assert sweep is not None
    names = ["LayerNorm, lr 0.0003", "LayerNorm", "LayerNorm, lr 0.003"]
    expected = [ends[name][0][-1] for name in names]
    assert sweep[sweep["arm"] == "LayerNorm"]["mean"].tolist() == expected
    assert sweep[sweep["arm"] == NAP]["x"].tolist() == pytest.approx(np.log10([3e-4, 1e-3, 3e-3]))
    remedies = figures["remedies"].data
    assert remedies is not None
    assert set(remedies["place"]) == {"none", "L2"}
    drawn = remedies[(remedies["place"] == "L2") & (remedies["arm"] == "LayerNorm")]["mean"].item()
    assert drawn == ends["LayerNorm, L2"][0][-1]


@pytest.mark.parametrize("law", EXPRESSIONS)
@pytest.mark.parametrize(("lr", "size"), [(0.1, 1.0), (0.02, 5.0)])
def test_growth_expressions_equal_the_recursion(law: str, lr: float, size: float) -> None:
    steps = 4000
    r2 = 1.0
    for _ in range(steps):
        r2 += (lr * size) ** 2 / r2 if law == "SGD" else (lr * size) ** 2 if law == "Adam" else 0.0
    expected = lr / r2 if law == "SGD" else lr / math.sqrt(r2)
    formula = EXPRESSIONS[law].replace("datum.n", "n")
    value = eval(formula, {"sqrt": math.sqrt, "pow": pow, "lr": lr, "size": size, "n": steps})
    assert value == pytest.approx(expected, rel=2e-3)


def test_growth_figure_is_valid_and_covers_all_laws() -> None:
    figure = growth_figure()
    assert figure.data is not None
    assert set(figure.data["law"]) == set(EXPRESSIONS)
    assert (figure.data.groupby(["law", "rate"]).size() == figure.data["n"].nunique()).all()
    assert isinstance(figure.chart, alt.Chart)
    assert "svg" in figure.to_svg()


def weight_lengths(model: nn.Module) -> list[float]:
    return [float(m.weight.detach().norm()) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_the_resnets_differ_in_nothing_but_the_projection() -> None:
    knobs = Knobs(arms=("resnet", "resnet_nap"), **SHORT)
    study = Study(knobs, CPU)
    members = {v.name: build_member(study._arm(v), 0, CPU) for v in variants(knobs)}
    x, y = study._batch(0, 0)
    start = {name: member.model(x) for name, member in members.items()}
    torch.testing.assert_close(start[RESNET], start[RESNET_NAP])
    lengths = {}
    for name, member in members.items():
        for _ in range(5):
            cross_entropy(member.model(x), y).backward()
            member.update()
        lengths[name] = weight_lengths(member.model)
    fresh = build_member(study._arm(variants(knobs)[0]), 0, CPU).model
    at_start = weight_lengths(fresh)
    assert len(at_start) == 7
    assert lengths[RESNET_NAP][:-1] == pytest.approx(at_start[:-1], rel=1e-6)
    assert lengths[RESNET_NAP][-1] != pytest.approx(at_start[-1], rel=1e-6), "the output layer is free"
    assert all(
        now != pytest.approx(then, rel=1e-6) for now, then in zip(lengths[RESNET], at_start, strict=True)
    )


# --- knobs -----------------------------------------------------------------------------------------------------------


def test_variants_follow_the_knobs() -> None:
    names = [v.name for v in variants(Knobs(replay=True, norm="rms", remedies=("l2",)))]
    assert names == ["No norm", "RMSNorm", "NaP", "RMSNorm, L2", "NaP replay"]
    assert REPLAY not in [v.name for v in variants(Knobs(replay=True, arms=("nap",)))], "nothing to replay"
    assert [v.name for v in variants(Knobs(arms=("none",)))] == ["No norm"]
    assert variants(Knobs(task="games", agents=("fresh",))) == [Variant("Fresh net", fresh=True)]
    residual = variants(Knobs(arms=("resnet", "resnet_nap"), sweep=True, remedies=("l2",)))
    assert [(v.name, v.projected, v.residual, v.factor) for v in residual[:3]] == [
        (RESNET, False, True, 1.0),
        (RESNET_NAP, True, True, 1.0),
        ("ResNet, lr 0.0003", False, True, 0.3),
    ]
    swept = variants(Knobs(sweep=True, arms=("nap",), remedies=()))
    assert [(v.name, v.factor) for v in swept] == [
        ("NaP", 1.0),
        ("NaP, lr 0.0003", 0.3),
        ("NaP, lr 0.003", 3.0),
    ]


def test_learning_rate_and_law_of_each_task() -> None:
    def of(**options: Any) -> tuple[float, str]:
        knobs = Knobs(adam_lr=0.1, sgd_lr=0.1, **options)
        return knobs.learning_rate(), knobs.law()

    assert of() == (0.1, "adam")
    assert of(optimizer="momentum") == (0.1, "sgd")
    assert of(task="equivalence") == (0.1, "sgd")
    assert of(task="games", optimizer="sgd") == (0.1, "adam")
    assert Knobs(optimizer="sgd", sgd_lr=0.5).learning_rate() == 0.5


def test_too_much_work_is_refused_with_what_fits() -> None:
    big = {"period": 600, "phases": 30, "seeds": 10, "batch_size": 256, "depth": 4}
    with pytest.raises(KnobError, match=r"period = \d+") as refused:
        Knobs.parse(big)
    fits = int(str(refused.value).split("period = ")[1].split(",")[0])
    Knobs.parse({**big, "period": fits})
    with pytest.raises(KnobError, match=r"task_steps = \d+"):
        Knobs.parse({"task": "games", "environment": "atari", "task_steps": 5000})


def test_the_total_is_what_is_done() -> None:
    assert Knobs(period=30, phases=4).total_steps() == 120
    assert Knobs(task="games", tasks=2, cycles=3, task_steps=200).total_steps() == 1200


def test_looks_of_remedies_and_rates() -> None:
    arms = Knobs(arms=("layer", "nap"), remedies=("l2",), remedies_with_nap=True).shown_arms()
    assert list(arms) == ["LayerNorm", NAP, "LayerNorm, L2", "NaP, L2"]
    assert arms["LayerNorm"].colour == arms["LayerNorm, L2"].colour != arms["NaP, L2"].colour
    assert arms["LayerNorm, L2"].dash == arms["NaP, L2"].dash != arms[NAP].dash
    assert arms["NaP, L2"].variant == "L2"
    assert all(look.variant == "" for look in Knobs().shown_arms().looks)

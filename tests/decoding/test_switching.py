"""The switch rule: the scripted case, a stateless replay of the whole history, its state, and the random comparator."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from normviz.decoding import EntropySwitchController, RandomSwitchController, SwitchController, SwitchDecision
from tests.decoding.references import naive_rule


def owners_of(controller: SwitchController, entropies: list[float]) -> list[str]:
    owners = []
    for entropy in entropies:
        owners.append(controller.model)
        controller.push(entropy)
    return owners


def runs(owners: list[str]) -> list[tuple[str, int]]:
    return [(name, len(list(group))) for name, group in itertools.groupby(owners)]


def test_check_5_scripted_entropies() -> None:
    controller = EntropySwitchController(1.0, window=3, min_tokens=2)
    decisions = [controller.push(entropy) for entropy in [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    assert decisions[:2] == [SwitchDecision(2.0, "small", False), SwitchDecision(2.0, "large", True)]
    assert [d.mean_entropy for d in decisions] == pytest.approx([2, 2, 2, 4 / 3, 2 / 3, 0, 0, 0])
    controller.reset()
    owners = owners_of(controller, [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert [owner[0].upper() for owner in owners] == list("SSLLLSSS")
    assert (controller.switches, controller.model) == (2, "small")


@pytest.mark.parametrize("start", ["small", "large"])
@pytest.mark.parametrize("hysteresis", [0.0, 0.4])
@pytest.mark.parametrize(("window", "min_tokens"), [(1, 1), (5, 10), (3, 4), (8, 2)])
def test_equals_a_replay_of_the_whole_history(
    window: int, min_tokens: int, hysteresis: float, start: str
) -> None:
    rng = np.random.default_rng(window * 10 + min_tokens)
    for threshold in (0.7, 1.0, 1.5):
        entropies = np.abs(1 + np.cumsum(rng.normal(0, 0.3, 60)) % 1.5 - 0.75).tolist()
        controller = EntropySwitchController(
            threshold, window, min_tokens, start=start, hysteresis=hysteresis
        )
        for t, entropy in enumerate(entropies):
            assert controller.push(entropy).model == naive_rule(
                entropies[: t + 1], threshold, window, min_tokens, start, hysteresis
            )


def test_check_6_completed_runs_have_the_minimum_length() -> None:
    rng = np.random.default_rng(0)
    for min_tokens in (1, 3, 10):
        for start in ("small", "large"):
            controller = EntropySwitchController(1.0, window=2, min_tokens=min_tokens, start=start)
            completed = runs(owners_of(controller, rng.uniform(0, 2, 300).tolist()))[:-1]
            assert len(completed) > 5
            assert min(length for _, length in completed) >= min_tokens
    assert min(length for _, length in completed) == min_tokens, "the rule does not wait longer than it must"


def test_equality_stays_small_and_leads_back_to_it() -> None:
    controller = EntropySwitchController(1.0, window=1, min_tokens=1)
    assert controller.push(1.0).model == "small"
    assert controller.push(1.0 + 1e-9).model == "large"
    assert controller.push(1.0).model == "small"


def test_hysteresis_keeps_the_model_in_between() -> None:
    controller = EntropySwitchController(1.0, window=1, min_tokens=1, hysteresis=0.5)
    assert [controller.push(h).model for h in (0.8, 1.1, 0.8, 0.51, 0.5, 0.8)] == [
        "small",
        "large",
        "large",
        "large",
        "small",
        "small",
    ]


def test_the_window_is_kept_over_a_change_unless_asked() -> None:
    kept = EntropySwitchController(1.0, window=4, min_tokens=1)
    emptied = EntropySwitchController(1.0, window=4, min_tokens=1, reset_window_on_switch=True)
    for controller, following in ((kept, 1.5), (emptied, 0.0)):
        decision = controller.push(3.0)
        assert (decision.mean_entropy, decision.switched) == (3.0, True)
        assert controller.push(0.0).mean_entropy == following


def test_thresholds_beyond_all_entropies() -> None:
    entropies = [0.0, 3.0] * 10
    assert set(owners_of(EntropySwitchController(-1.0, start="large"), entropies)) == {"large"}
    assert runs(owners_of(EntropySwitchController(-1.0, min_tokens=4), entropies)) == [
        ("small", 4),
        ("large", 16),
    ]
    assert set(owners_of(EntropySwitchController(3.0), entropies)) == {"small"}


def test_check_12_state_round_trip_mid_run() -> None:
    entropies = np.random.default_rng(4).uniform(0, 2, 60).tolist()
    controller = EntropySwitchController(1.0, window=3, min_tokens=4)
    for cut in range(0, 40, 7):
        controller.reset()
        owners_of(controller, entropies[:cut])
        other = EntropySwitchController(1.0, window=3, min_tokens=4)
        other.load_state_dict(controller.state_dict())
        assert other.switches == controller.switches
        for entropy in entropies[cut:]:
            assert other.push(entropy) == controller.push(entropy)
        assert other.state_dict() == controller.state_dict()


def test_saved_state_is_not_shared_and_bad_states_are_refused() -> None:
    controller = EntropySwitchController(1.0)
    state = controller.state_dict()
    controller.push(2.0)
    assert state == {"window": [], "counter": 0, "model": "small", "switches": 0}
    for change in ({"model": "medium"}, {"counter": -1}, {"switches": 1.5}, {"window": [math.nan]}):
        with pytest.raises(ValueError, match=next(iter(change)).replace("window", "entropy")):
            controller.load_state_dict({**state, **change})
    assert controller.state_dict() == {"window": [2.0], "counter": 1, "model": "small", "switches": 0}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"threshold": math.nan}, "threshold"),
        ({"window": 0}, "window"),
        ({"min_tokens": 0}, "min_tokens"),
        ({"start": "medium"}, "start"),
        ({"hysteresis": -0.1}, "hysteresis"),
        ({"hysteresis": math.nan}, "hysteresis"),
    ],
)
def test_refusals(options: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EntropySwitchController(**{"threshold": 1.0, **options})


def test_defaults_and_repr() -> None:
    controller = EntropySwitchController(0.5)
    assert (controller.window, controller.min_tokens, controller.start, controller.model) == (
        5,
        10,
        "small",
        "small",
    )
    assert "threshold=0.5" in repr(controller)
    assert isinstance(controller, SwitchController)
    with pytest.raises(ValueError, match="entropy"):
        controller.push(math.nan)


@pytest.mark.parametrize(("share", "min_tokens"), [(0.25, 1), (0.5, 4), (0.7, 10), (0.1, 3)])
def test_random_switching_has_the_share_asked_for(share: float, min_tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    controller = RandomSwitchController(share, min_tokens=min_tokens, generator=generator)
    owners = owners_of(controller, [1.0] * 20_000)
    lengths = runs(owners)[:-1]
    assert min(length for _, length in lengths) >= min_tokens
    # Mean run lengths T/(1-f) and T/f, with four standard errors of the sample.
    for name, mean in (("large", min_tokens / (1 - share)), ("small", min_tokens / share)):
        sample = [length for owner, length in lengths if owner == name]
        assert np.mean(sample) == pytest.approx(mean, abs=4 * np.std(sample) / math.sqrt(len(sample)))


def test_random_switching_at_the_ends_never_changes() -> None:
    for share, name in ((0.0, "small"), (1.0, "large")):
        controller = RandomSwitchController(share, min_tokens=1)
        assert set(owners_of(controller, [1.0] * 50)) == {name}
        assert controller.switches == 0


def test_random_switching_repeats_with_its_generator() -> None:
    def owners() -> list[str]:
        return owners_of(
            RandomSwitchController(0.5, min_tokens=1, generator=torch.Generator().manual_seed(3)), [1.0] * 40
        )

    assert owners() == owners()
    assert set(owners()) == {"small", "large"}
    controller = RandomSwitchController(0.5, window=2)
    assert [controller.push(h).mean_entropy for h in (1.0, 2.0, 4.0)] == [1.0, 1.5, 3.0]
    for options in (
        {"large_fraction": 1.1},
        {"large_fraction": 0.5, "window": 0},
        {"large_fraction": 0.5, "min_tokens": 0},
    ):
        with pytest.raises(ValueError, match=list(options)[-1]):
            RandomSwitchController(**options)

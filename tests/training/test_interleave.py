"""The one loop: turns, evaluations, strides of different length, divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normviz.frame import Frame, Value
from normviz.progress import SAMPLES
from normviz.training import Diverged, interleave


@dataclass
class Counter:
    """Counts its steps; fails at one of them."""

    arm: str
    seed: int = 0
    size: int = 1
    fails_at: float = math.inf
    calls: list[int] = field(default_factory=list)

    def step(self, at: int) -> dict[str, Value]:
        self.calls.append(at)
        if at >= self.fails_at:
            raise Diverged("the training loss is inf", lost=["loss", "error"])
        return {"loss": float(len(self.calls))}


def moments(frames: list[Frame], arm: str, name: str) -> list[int]:
    return [f.step for f in frames if f.arm == arm and name in f.values]


def test_all_advance_in_turn_and_are_evaluated_before_the_step_of_their_position() -> None:
    a, b = Counter("a"), Counter("b")
    frames = list(interleave([a, b], until=5, evaluate=lambda t, at: {"score": float(at)}, eval_every=2))
    assert a.calls == b.calls == [0, 1, 2, 3, 4]
    assert moments(frames, "a", "score") == [0, 2, 4, 5]
    assert [(f.arm, *f.values) for f in frames[:4]] == [
        ("a", "score"),
        ("a", "loss"),
        ("b", "score"),
        ("b", "loss"),
    ]
    steps = [f.step for f in frames]
    assert steps == sorted(steps), "curves grow together"


def test_all_can_be_evaluated_before_the_first_steps() -> None:
    frames = list(
        interleave(
            [Counter("a"), Counter("b")],
            until=1,
            evaluate=lambda t, at: {"score": 0.0},
            evaluate_all_first=True,
        )
    )
    assert [(f.arm, *f.values) for f in frames] == [
        ("a", "score"),
        ("b", "score"),
        ("a", "loss"),
        ("b", "loss"),
        ("a", "score"),
        ("b", "score"),
    ]


def test_a_trainee_that_diverges_ends_and_the_others_go_on() -> None:
    good, bad = Counter("good"), Counter("bad", fails_at=2)
    frames = list(interleave([good, bad], until=4, progress=SAMPLES))
    assert bad.calls == [0, 1, 2]
    assert good.calls == [0, 1, 2, 3]
    (last,) = [f for f in frames if f.event]
    assert (last.step, last.arm, last.kind) == (2, "bad", "diverged")
    assert last.event == "diverged at sample 2: the training loss is inf"
    assert dict(last.values) == {"loss": math.inf, "error": math.inf}


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), until=st.integers(1, 60))
def test_strides_of_different_length_end_together(sizes: list[int], until: int) -> None:
    trainees = [Counter(f"arm {i}", size=size) for i, size in enumerate(sizes)]
    frames = list(
        interleave(
            trainees,
            until=until,
            stride=lambda t: t.size,  # type: ignore[attr-defined]
            evaluate=lambda t, at: {"score": float(at)},
            eval_every=7,
        )
    )
    for trainee in trainees:
        assert trainee.calls == list(range(0, until, trainee.size))
        assert moments(frames, trainee.arm, "score")[-1] == until
        own = [f.step for f in frames if f.arm == trainee.arm]
        assert own == sorted(own)
    positions = [f.step for f in frames if "loss" in f.values]
    assert positions == sorted(positions), "the one furthest behind goes next"


def test_nothing_to_train_yields_nothing() -> None:
    assert list(interleave([], until=3)) == []
    assert list(interleave([Counter("a")], until=0)) == []


def test_an_error_of_the_program_is_no_divergence() -> None:
    class Broken(Counter):
        def step(self, at: int) -> dict[str, Value]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(interleave([Broken("a")], until=1))

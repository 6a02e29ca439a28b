"""Catch and sequences of tasks: the rules played out by hand, switching, and Atari without and with its packages."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.experiments.effective_learning_rate.environments import (
    AtariEnv,
    CatchEnv,
    GridTaskSequence,
    TaskSequence,
)

ATARI = all(importlib.util.find_spec(name) for name in ("gymnasium", "ale_py", "cv2"))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 100), actions=st.lists(st.integers(0, 2), min_size=5, max_size=5), flip=st.booleans()
)
def test_catch_by_its_rules(seed: int, actions: list[int], flip: bool) -> None:
    env = CatchEnv(6, 4, flip_reward=flip)
    board, _ = env.reset(seed)
    assert board.shape == env.observation_shape == (6, 4)
    assert board.dtype == np.float32
    (ball,) = np.flatnonzero(board[0])
    paddle = 2
    for t, action in enumerate(actions, start=1):
        paddle = min(max(paddle + action - 1, 0), 3)
        board, reward, terminated, truncated, _ = env.step(action)
        expected = np.zeros((6, 4))
        expected[t, ball] = expected[5, paddle] = 1
        np.testing.assert_array_equal(board, expected)
        assert terminated == (t == 5)
        assert not truncated
        assert reward == ((1 if paddle == ball else -1) * (-1 if flip else 1) if t == 5 else 0)


def test_catch_is_seeded_and_uses_every_column() -> None:
    def columns(env: CatchEnv) -> list[int]:
        return [int(env.reset()[0][0].argmax()) for _ in range(60)]

    assert columns(CatchEnv(seed=3)) == columns(CatchEnv(seed=3)) != columns(CatchEnv(seed=4))
    assert set(columns(CatchEnv())) == {0, 1, 2, 3, 4}


def test_permutation_reorders_pixels() -> None:
    order = np.random.default_rng(0).permutation(50)
    plain, permuted = CatchEnv(seed=1), CatchEnv(seed=1, permutation=order)
    a, b = plain.reset()[0], permuted.reset()[0]
    np.testing.assert_array_equal(b.reshape(-1), a.reshape(-1)[order])
    np.testing.assert_array_equal(permuted.step(2)[0].reshape(-1), plain.step(2)[0].reshape(-1)[order])


def test_catch_errors() -> None:
    env = CatchEnv(3, 3)
    with pytest.raises(ValueError, match="call reset"):
        env.step(1)
    env.reset()
    for action in (3, -1, 1.0):
        with pytest.raises(ValueError, match="action must be"):
            env.step(action)  # type: ignore[arg-type]
    env.step(1), env.step(1)
    with pytest.raises(ValueError, match="call reset"):
        env.step(1)
    for wrong in ({"rows": 1}, {"columns": 1}, {"permutation": [0] * 50}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            CatchEnv(**wrong)  # type: ignore[arg-type]


def play(tasks: TaskSequence, steps: int) -> list[tuple[int, int, bool, bool]]:
    tasks.reset()
    seen = []
    for _ in range(steps):
        _, _, terminated, truncated, info = tasks.step(1)
        seen.append((info["task"], info["cycle"], terminated, truncated))
        if terminated or truncated:
            tasks.reset()
    return seen


def test_tasks_follow_each_other_and_begin_again() -> None:
    seen = play(
        GridTaskSequence(2, 7, rows=4, columns=3), 30
    )  # episodes of 3 steps, so a task ends in mid-episode
    for t, (task, cycle, terminated, truncated) in enumerate(seen):
        assert task == t // 7 % 2
        assert cycle == t // 14
        step = t % 7
        assert truncated == (step == 6)
        assert terminated == (step in (2, 5))


def test_a_terminal_last_step_is_not_truncated() -> None:
    seen = play(GridTaskSequence(2, 3, rows=4, columns=3), 6)
    assert [(terminated, truncated) for _, _, terminated, truncated in seen] == [
        (t % 3 == 2, False) for t in range(6)
    ]


def test_grid_tasks_differ_as_promised() -> None:
    tasks = GridTaskSequence(4, 10, seed=3)
    environments: list[Any] = tasks.environments
    assert [env.flip_reward for env in environments] == [False, True, False, True]
    orders = [tuple(env._order) for env in environments]
    assert orders[0] == tuple(range(50))
    assert len(set(orders)) == 4
    assert [tuple(e._order) for e in GridTaskSequence(4, 10, seed=3).environments] == orders  # type: ignore[attr-defined]
    plain: list[Any] = GridTaskSequence(4, 10, permute=False, flip=False).environments
    assert {tuple(env._order) for env in plain} == {orders[0]}
    assert not any(env.flip_reward for env in plain)


def test_sequence_errors() -> None:
    with pytest.raises(ValueError, match="environments must hold"):
        TaskSequence([], 5)
    with pytest.raises(ValueError, match="environments must agree"):
        TaskSequence([CatchEnv(), CatchEnv(4, 4)], 5)
    for wrong in ({"num_tasks": 0}, {"steps_per_task": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            GridTaskSequence(**wrong)  # type: ignore[arg-type]
    tasks = GridTaskSequence(2, 1)
    with pytest.raises(ValueError, match="call reset"):
        tasks.step(1)
    tasks.reset()
    tasks.step(1)
    with pytest.raises(ValueError, match="call reset"):
        tasks.step(1)


@pytest.mark.parametrize("missing", ["gymnasium", "ale_py", "cv2"])
def test_atari_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in ("gymnasium", "ale_py", "cv2"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else np)  # None: not importable
    with pytest.raises(ImportError, match=rf"{missing} is missing.*normviz\[atari\]"):
        AtariEnv("Pong")


@pytest.mark.skipif(not ATARI, reason="needs the extra atari")
def test_atari_games_in_turn() -> None:
    tasks = TaskSequence([AtariEnv("Pong"), AtariEnv("Breakout")], 5)
    observation, info = tasks.reset()
    assert observation.shape == tasks.observation_shape == (4, 84, 84)
    assert observation.dtype == np.uint8
    assert tasks.num_actions == 18
    for _ in range(5):
        _, reward, _, truncated, info = tasks.step(0)
        assert reward in (-1.0, 0.0, 1.0)
    assert truncated
    assert (info["task"], tasks.reset()[1]["task"]) == (0, 1)

"""Environments for reinforcement learning on a sequence of tasks: Catch, its variants in turn, Atari games.

The sequential setting of Lyle et al., "Normalization and effective learning rates in reinforcement learning", arXiv
2407.01800 (there ten Atari games, the cycle played twice), at a size that needs no download: tasks are games of Catch
that differ in the order of the pixels and in the sign of the reward. Calls follow gymnasium: ``reset() ->
(observation, info)``, ``step(action) -> (observation, reward, terminated, truncated, info)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normviz.validation import check_integer, check_real

__all__ = ["AtariEnv", "CatchEnv", "Environment", "GridTaskSequence", "TaskSequence"]

Observation = NDArray[Any]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]


class Environment(Protocol):
    """What a task must have."""

    observation_shape: tuple[int, ...]
    num_actions: int

    def reset(self, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; a seed restarts the random numbers too."""
        ...

    def step(self, action: int) -> Step:
        """Act once: observation, reward, terminated, truncated, info."""
        ...


class CatchEnv:
    """A ball falls through a grid, a paddle in the bottom row moves left or right to be under it when it lands.

    Each step the paddle moves by ``action - 1`` (held by the walls) and the ball falls one row. When the ball is in the
    bottom row the episode ends, with reward 1 if it is on the paddle and -1 otherwise; all other rewards are 0. After
    bsuite's Catch (Osband et al., arXiv 1908.03568).

    Args:
        rows: height of the grid; an episode has ``rows - 1`` steps. Default 10 (bsuite).
        columns: width. Default 5 (bsuite).
        permutation: order in which the pixels, row by row, are shown; default None: as they are.
        flip_reward: negate the reward, so that the ball is to be avoided. Default False.
        seed: of the ball's column. Default 0.

    Raises:
        ValueError: fewer than 2 rows or columns; ``permutation`` is none of ``rows * columns`` pixels; an action
            outside [0, 2]; a step before the first reset or after the end.

    Example:
        >>> env = CatchEnv()
        >>> observation, info = env.reset()
        >>> observation.shape, float(observation.sum())
        ((10, 5), 2.0)
    """

    num_actions = 3

    def __init__(
        self,
        rows: int = 10,
        columns: int = 5,
        *,
        permutation: Sequence[int] | NDArray[np.integer[Any]] | None = None,
        flip_reward: bool = False,
        seed: int = 0,
    ) -> None:
        self.rows = check_integer("rows", rows, 2)
        self.columns = check_integer("columns", columns, 2)
        self.observation_shape: tuple[int, ...] = (rows, columns)
        pixels = np.arange(rows * columns)
        self._order = pixels if permutation is None else np.asarray(permutation)
        if not np.array_equal(np.sort(self._order), pixels):
            raise ValueError(
                f"permutation must hold each of 0 … {rows * columns - 1} once, got {permutation!r}."
            )
        self.flip_reward = bool(flip_reward)
        self._random = np.random.default_rng(check_integer("seed", seed, 0))
        self._row, self._ball, self._paddle = rows - 1, 0, 0

    def reset(self, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Put the ball into a random column of the top row and the paddle into the middle."""
        if seed is not None:
            self._random = np.random.default_rng(check_integer("seed", seed, 0))
        self._row, self._ball = 0, int(self._random.integers(self.columns))
        self._paddle = self.columns // 2
        return self._observe(), {}

    def step(self, action: int) -> Step:
        """Move the paddle by ``action - 1``, let the ball fall by one row."""
        check_integer("action", action, 0, self.num_actions - 1)
        if self._row == self.rows - 1:
            raise ValueError("the episode is over: call reset() before step().")
        self._paddle = min(max(self._paddle + int(action) - 1, 0), self.columns - 1)
        self._row += 1
        landed = self._row == self.rows - 1
        reward = (1.0 if self._paddle == self._ball else -1.0) if landed else 0.0
        return self._observe(), -reward if self.flip_reward else reward, landed, False, {}

    def _observe(self) -> Observation:
        board = np.zeros((self.rows, self.columns), dtype=np.float32)
        board[self._row, self._ball] = 1.0
        board[-1, self._paddle] = 1.0
        return board.reshape(-1)[self._order].reshape(board.shape)


class TaskSequence:
    """Environments in turn, each for a fixed number of steps, again from the first after the last, without end.

    The last step of a task is truncated (an episode in progress ends there), and the next ``reset`` starts the next
    task. ``info`` has "task" (index) and "cycle" (how often the sequence was completed before).

    Args:
        environments: tasks, with equal ``observation_shape`` and ``num_actions``.
        steps_per_task: steps before the next task, >= 1.

    Raises:
        ValueError: no environments, or of different shapes or numbers of actions; ``steps_per_task`` < 1; a step where
            a reset is due.
    """

    def __init__(self, environments: Sequence[Environment], steps_per_task: int) -> None:
        if not environments:
            raise ValueError("environments must hold at least one environment, got none.")
        kinds = {(env.observation_shape, env.num_actions) for env in environments}
        if len(kinds) > 1:
            raise ValueError(
                f"environments must agree in observation_shape and num_actions, got {sorted(kinds)}."
            )
        self.environments = list(environments)
        self.steps_per_task = check_integer("steps_per_task", steps_per_task, 1)
        self.observation_shape, self.num_actions = next(iter(kinds))
        self.steps = 0
        self._must_reset = True

    @property
    def task(self) -> int:
        """Index of the task that the next step belongs to."""
        return self.steps // self.steps_per_task % len(self.environments)

    @property
    def cycle(self) -> int:
        """How often all tasks have been completed."""
        return self.steps // (self.steps_per_task * len(self.environments))

    def reset(self, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode of the task that is due."""
        observation, info = self.environments[self.task].reset(seed)
        self._must_reset = False
        return observation, {**info, "task": self.task, "cycle": self.cycle}

    def step(self, action: int) -> Step:
        """One step of the present task."""
        if self._must_reset:
            raise ValueError("the episode is over: call reset() before step().")
        place = {"task": self.task, "cycle": self.cycle}
        observation, reward, terminated, truncated, info = self.environments[self.task].step(action)
        self.steps += 1
        truncated = truncated or (not terminated and self.steps % self.steps_per_task == 0)
        self._must_reset = terminated or truncated
        return observation, reward, terminated, truncated, {**info, **place}


class GridTaskSequence(TaskSequence):
    """Games of Catch in turn: each task has its own order of pixels, every second one the reward's sign turned over.

    The first task is plain Catch.

    Args:
        num_tasks: length of the cycle. Default 3.
        steps_per_task: steps before the next task. Default 2000.
        rows, columns: of the grid. Default 10 and 5.
        permute: tasks after the first have a random order of pixels. Default True.
        flip: every second task has the reward negated. Default True.
        seed: of the orders and of the balls. Default 0.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> tasks = GridTaskSequence(num_tasks=2, steps_per_task=9)
        >>> _ = tasks.reset()
        >>> rewards = [tasks.step(1)[1] for _ in range(9)]  # one episode
        >>> tasks.reset()[1]
        {'task': 1, 'cycle': 0}
    """

    def __init__(
        self,
        num_tasks: int = 3,
        steps_per_task: int = 2000,
        *,
        rows: int = 10,
        columns: int = 5,
        permute: bool = True,
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        check_integer("num_tasks", num_tasks, 1)
        random = np.random.default_rng(check_integer("seed", seed, 0))
        tasks = []
        for task in range(num_tasks):
            order = random.permutation(rows * columns) if permute and task > 0 else None
            flipped = flip and task % 2 == 1
            ball_seed = int(random.integers(2**31))
            tasks.append(CatchEnv(rows, columns, permutation=order, flip_reward=flipped, seed=ball_seed))
        super().__init__(tasks, steps_per_task)


class AtariEnv:
    """An Atari game with the usual preprocessing: grey frames of 84 x 84, four stacked, every action held four frames.

    Needs the packages of the extra ``atari`` (gymnasium, ale_py, opencv). All games have the full set of 18 actions, so
    that they can follow each other in a :class:`TaskSequence`.

    Args:
        game: its name in the Arcade Learning Environment, e.g. "Breakout".
        stack: number of stacked frames. Default 4 (Mnih et al., 2015).
        frame_skip: frames per step. Default 4 (same).
        sticky: probability that the emulator repeats the last action. Default 0.25 (Machado et al., arXiv 1709.06009).
        clip_rewards: rewards are replaced by their sign. Default True (Mnih et al.).
        seed: of the first reset. Default 0.

    Raises:
        ImportError: the extra ``atari`` is not installed.
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        game: str,
        *,
        stack: int = 4,
        frame_skip: int = 4,
        sticky: float = 0.25,
        clip_rewards: bool = True,
        seed: int = 0,
    ) -> None:
        check_integer("stack", stack, 1)
        check_integer("frame_skip", frame_skip, 1)
        check_real("sticky", sticky, 0, 1)
        self.clip_rewards = bool(clip_rewards)
        self._seed: int | None = check_integer("seed", seed, 0)
        gymnasium = _import_atari()
        emulator = gymnasium.make(
            f"ALE/{game}-v5", frameskip=1, repeat_action_probability=sticky, full_action_space=True
        )
        frames = gymnasium.wrappers.AtariPreprocessing(emulator, frame_skip=frame_skip)
        self._env = gymnasium.wrappers.FrameStackObservation(frames, stack)
        self.observation_shape: tuple[int, ...] = tuple(self._env.observation_space.shape)
        self.num_actions = int(self._env.action_space.n)

    def reset(self, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: frames (stack, 84, 84) of bytes."""
        if seed is None:
            seed, self._seed = self._seed, None
        observation, info = self._env.reset(seed=seed)
        return np.asarray(observation), info

    def step(self, action: int) -> Step:
        """One action, held for ``frame_skip`` frames."""
        check_integer("action", action, 0, self.num_actions - 1)
        observation, reward, terminated, truncated, info = self._env.step(action)
        reward = float(np.sign(reward)) if self.clip_rewards else float(reward)
        return np.asarray(observation), reward, bool(terminated), bool(truncated), info


def _import_atari() -> Any:
    """gymnasium, with the Atari games registered."""
    try:
        gymnasium, ale, _ = (import_module(name) for name in ("gymnasium", "ale_py", "cv2"))
    except ImportError as error:
        raise ImportError(
            f"AtariEnv needs gymnasium, ale_py and cv2 ({error.name} is missing): pip install 'normviz[atari]'."
        ) from error
    gymnasium.register_envs(ale)
    return gymnasium

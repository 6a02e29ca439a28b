"""The games of the page *Effective learning rate*: one small Q network meets one game after the other, twice.

Agents of a seed play the same sequence of tasks with the same falling balls from the same initial weights. Exploration
starts anew with every game, for all of them, so that the agent that gets a fresh network has no advantage from it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler

from normviz.data import seeded_generator
from normviz.experiments.effective_learning_rate.environments import AtariEnv, GridTaskSequence, TaskSequence
from normviz.experiments.effective_learning_rate.knobs import REPLAY, Knobs, Variant, normed, variants
from normviz.experiments.effective_learning_rate.measures import Lengths, dormant_units
from normviz.frame import Frame, Value
from normviz.models import DQNAgent
from normviz.norms import FeatureNorm, NormProjector
from normviz.schedules import ImplicitScheduleReplay
from normviz.training import Diverged, Trainee, interleave

__all__ = ["play"]

ATARI_GAMES = ("Pong", "Breakout", "Freeway", "Boxing", "Seaquest")
ATARI_CHANNELS = (16, 32, 32)
CAPACITY = 1000
"""Transitions that an agent remembers: less than one game."""

LEARN_START = 100
FINAL_RATE = 0.01
"""Where a decaying learning rate ends, as a share of its start."""

RECENT = 20
"""Episodes over which a running return is averaged."""

MEASURE = 50
"""Actions between two measurements."""


def play(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Let every agent play the sequence of games and yield what the page shows."""
    recorded: dict[int, list[dict[str, float]]] = {}
    chosen = variants(knobs)
    for stage in ([v for v in chosen if v.name != REPLAY], [v for v in chosen if v.name == REPLAY]):
        players = [
            Player(knobs, variant, seed, device, recorded) for seed in knobs.seed_range() for variant in stage
        ]
        yield from interleave(
            players,
            until=knobs.total_steps(),
            evaluate=_game_over,
            eval_every=knobs.task_steps,
            progress=knobs.progress(),
        )


def _game_over(trainee: Trainee, at: int) -> Mapping[str, Value] | None:
    assert isinstance(trainee, Player)
    return trainee.game_over() if at else None


class Player:
    """One agent with its own copy of the games.

    Args:
        knobs: of the run.
        variant: the agent's arm.
        seed: of games, weights, actions.
        device: of the networks.
        recorded: by seed, the effective rates of each update of the normalized agent: filled by it, read by the agent
            that replays them.
    """

    def __init__(
        self,
        knobs: Knobs,
        variant: Variant,
        seed: int,
        device: torch.device,
        recorded: dict[int, list[dict[str, float]]],
    ) -> None:
        self.knobs, self.variant, self.seed, self.device = knobs, variant, seed, device
        self.arm, self.recorded = variant.name, recorded
        self.steps = 0
        self.games = make_games(knobs, seed)
        self.observation, _ = self.games.reset()
        self._new_agent()
        self._new_game()

    def _new_agent(self) -> None:
        knobs, variant = self.knobs, self.variant
        images = knobs.environment == "atari"
        build = partial(
            DQNAgent,
            self.games.observation_shape,
            self.games.num_actions,
            channels=ATARI_CHANNELS if images else (),
            observation_dtype=torch.uint8 if images else torch.float32,
            norm=partial(FeatureNorm, kind=knobs.norm, affine=False) if variant.norm else None,
            conv_norm=partial(FeatureNorm, kind=knobs.norm, spatial=True, affine=False)
            if variant.norm
            else None,
            lr=knobs.adam_lr,
            capacity=CAPACITY,
            learn_start=LEARN_START,
            learn_every=knobs.learn_every,
            epsilon_steps=max(1, knobs.task_steps // 2),
            device=self.device,
            seed=self.seed + 1000 * (self.steps // knobs.task_steps),
        )
        projector = partial(
            NormProjector, every=knobs.every, project_output=knobs.project_output, scale_offset="none"
        )
        replayed = variant.rates == "replay"
        names = [name for name, _ in build().network.named_parameters()] if replayed else []
        self.agent: DQNAgent = build(
            nap=variant.projected,
            projector=projector if variant.projected else None,
            optimizer=partial(_named_adam, names, knobs.adam_lr) if replayed else None,
            schedule=self._schedule(),
        )
        network, optimizer = self.agent.network, self.agent.optimizer
        self.lengths = Lengths(network, "adam", knobs.adam_lr, scale_invariant=variant.norm)
        if variant.name == normed(knobs):
            kept = self.recorded.setdefault(self.seed, [])
            optimizer.register_step_pre_hook(lambda *_: kept.append(self.lengths.effective_rates(optimizer)))

    def _schedule(self) -> Callable[[Optimizer], LRScheduler] | None:
        knobs, rates = self.knobs, self.variant.rates
        if rates == "replay":
            return partial(ImplicitScheduleReplay, recorded=self.recorded[self.seed])
        if rates in ("decay", "cyclic"):
            updates = updates_per_game(knobs) * (knobs.tasks * knobs.cycles if rates == "decay" else 1)
            return partial(LinearLR, start_factor=1.0, end_factor=FINAL_RATE, total_iters=updates)
        return None

    def _new_game(self) -> None:
        self.episode = 0.0
        self.returns: list[float] = []
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.agent.steps = 0  # exploration starts anew

    def step(self, at: int) -> dict[str, Value]:
        """One action and what follows from it.

        Raises:
            Diverged: the loss or a weight is not finite.
        """
        knobs = self.knobs
        if at and at % knobs.task_steps == 0:
            if self.variant.fresh:
                self._new_agent()
            if self.variant.rates == "cyclic":
                self.agent.restart_schedule()
            self._new_game()
        values: dict[str, Value] = {}
        if at % MEASURE == 0:
            values |= self.lengths.values(self.agent.optimizer)
            if len(self.agent.buffer):
                seen = self.agent.buffer.sample(64, seeded_generator(self.seed, at))[0]
                values["dormant"] = 100 * dormant_units(self.agent.network, seen)
        action = self.agent.act(self.observation)
        following, reward, terminated, truncated, _ = self.games.step(action)
        self.steps = at + 1
        try:
            loss = self.agent.observe(self.observation, action, reward, following, terminated)
        except FloatingPointError as error:
            raise Diverged(str(error)) from error
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the loss is {loss}")
        if loss is not None and self.agent.updates % 10 == 0:
            values["loss"] = loss
        self.observation = following
        self.episode += reward
        if terminated or truncated:
            if terminated:
                self.returns.append(self.episode)
                self.recent.append(self.episode)
                values["return"] = sum(self.recent) / len(self.recent)
            self.episode = 0.0
            self.observation, _ = self.games.reset()
        return values

    def game_over(self) -> dict[str, Value] | None:
        """Mean return over the second half of the last game's finished episodes, when exploration has ended."""
        later = self.returns[len(self.returns) // 2 :]
        if not later:
            return None
        score = sum(later) / len(later)
        visit = self.steps // self.knobs.task_steps - 1
        return {"game_return": score, f"game_return/{visit}": score}


def updates_per_game(knobs: Knobs) -> int:
    """Updates in one game: every ``learn_every`` actions once ``LEARN_START`` were taken."""
    return knobs.task_steps // knobs.learn_every - (LEARN_START - 1) // knobs.learn_every


def make_games(knobs: Knobs, seed: int) -> TaskSequence:
    """The sequence of tasks of a seed."""
    if knobs.environment == "atari":
        games = [AtariEnv(game, seed=seed) for game in ATARI_GAMES[: knobs.tasks]]
        return TaskSequence(games, knobs.task_steps)
    return GridTaskSequence(knobs.tasks, knobs.task_steps, seed=seed)


def _named_adam(names: list[str], lr: float, params: Any) -> Optimizer:
    """Adam with a named group for each parameter, so that each can have its own rate."""
    groups: list[dict[str, Any]] = [
        {"params": [p], "lr": lr, "name": name} for name, p in zip(names, params, strict=True)
    ]
    return torch.optim.Adam(groups, lr=lr)

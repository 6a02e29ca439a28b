"""A replay buffer: the memory of a Q-learning agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from normviz.models import _checks

__all__ = ["ReplayBuffer"]


class ReplayBuffer:
    """The last ``capacity`` transitions, sampled uniformly with replacement.

    Args:
        capacity: transitions kept.
        observation_shape: of one observation.
        dtype: of stored observations. Default float32.
        device: where they are stored. Default "cpu".

    Raises:
        ValueError: a size below 1, sampling from an empty buffer.
    """

    def __init__(
        self,
        capacity: int,
        observation_shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = _checks.size("capacity", capacity)
        shape = _checks.sizes("observation_shape", observation_shape)
        self._observations = torch.zeros(capacity, *shape, dtype=dtype, device=device)
        self._next_observations = torch.zeros(capacity, *shape, dtype=dtype, device=device)
        self._actions = torch.zeros(capacity, dtype=torch.long, device=device)
        self._rewards = torch.zeros(capacity, device=device)
        self._terminated = torch.zeros(capacity, device=device)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(
        self, observation: Any, action: int, reward: float, next_observation: Any, terminated: bool
    ) -> None:
        """Store a transition in the place of the oldest."""
        at = self._added % self.capacity
        self._observations[at] = torch.as_tensor(observation)
        self._next_observations[at] = torch.as_tensor(next_observation)
        self._actions[at] = action
        self._rewards[at] = reward
        self._terminated[at] = terminated
        self._added += 1

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> tuple[Tensor, ...]:
        """Observations, actions, rewards, next observations, terminated (1 or 0) of ``batch_size`` transitions.

        Args:
            batch_size: number of transitions N.
            generator: on the CPU; default: torch's global one.
        """
        if len(self) == 0:
            raise ValueError("the buffer must hold a transition before it is sampled, got none.")
        chosen = torch.randint(len(self), (batch_size,), generator=generator).to(self._actions.device)
        fields = (
            self._observations,  # (N, *observation_shape)
            self._actions,
            self._rewards,
            self._next_observations,  # (N, *observation_shape)
            self._terminated,
        )
        return tuple(field[chosen] for field in fields)

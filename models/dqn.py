"""Deep Q-learning: a small Q network and an agent, with or without Normalize-and-Project.

The agent is that of Mnih et al. (2015) with the double target of van Hasselt et al. (arXiv 1509.06461):

    y = r + gamma (1 - terminated) Q_target(s', argmax_a Q(s', a)),     loss = Huber(Q(s, a) - y)

With ``nap=True`` (Lyle et al., arXiv 2407.01800) a norm stands before every nonlinearity and each weight tensor but the
head's is rescaled to its initial Frobenius norm after every update. Only the learning rate can anneal then, so give
a ``schedule`` that decays: the paper found that un-projected agents rely on the hidden decay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from normviz.models import _checks
from normviz.models._layers import Activation, NormFactory, build, conv2d, make_activation
from normviz.models.mlp import MLP
from normviz.models.replay_buffer import ReplayBuffer

__all__ = ["DQNAgent", "QNetwork"]


class Projector(Protocol):
    """What rescales a network's weights in place after an update; ``normviz.norms.NormProjector`` is one."""

    def project_(self, lr: Any = None) -> None:
        """Project; ``lr`` is the learning rate of the update."""
        ...


class QNetwork(nn.Module):
    """Convolutions, then fully connected layers, to one value per action; a norm before every nonlinearity if given.

    Observations (N, *observation_shape) -> (N, num_actions). Bytes are divided by 255. Convolutions are 3 x 3 with
    stride 2, ``convs.<i>``; the rest is the :class:`normviz.models.MLP` ``mlp``. Layers before a norm have no bias.

    Args:
        observation_shape: of one observation; (C, H, W) where ``channels`` are given, else any.
        num_actions: number of values.
        hidden: widths of the fully connected hidden layers. Default (64, 64).
        channels: output channels of the convolutions. Default (): none.
        norm: width -> norm layer of the fully connected layers. Default None: no norm.
        conv_norm: channels -> norm layer on (N, C, H, W). Default None: no norm.
        activation: name or factory, "relu" by default.

    Raises:
        ValueError: a size below 1, ``channels`` without an observation of three axes, an unknown activation.

    Example:
        >>> QNetwork((10, 5), 3, norm=nn.LayerNorm)(torch.zeros(2, 10, 5)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        hidden: Sequence[int] = (64, 64),
        channels: Sequence[int] = (),
        norm: NormFactory | None = None,
        conv_norm: NormFactory | None = None,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        shape = _checks.sizes("observation_shape", observation_shape)
        _checks.size("num_actions", num_actions)
        widths = _checks.sizes("channels", channels, may_be_empty=True)
        if widths and len(shape) != 3:
            raise ValueError(f"observation_shape must be (C, H, W) for convolutions, got {shape}.")
        self.convs = nn.Sequential()
        for width in widths:
            layer = conv2d(shape[0], width, 3, stride=2, bias=conv_norm is None)
            self.convs.append(
                nn.Sequential(layer, build("conv_norm", conv_norm, width), make_activation(activation))
            )
            shape = (width, math.ceil(shape[1] / 2), math.ceil(shape[2] / 2))
        self.mlp = MLP(
            math.prod(shape), hidden, num_actions, norm=norm, activation=activation, bias=norm is None
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations (N, *observation_shape) to values (N, num_actions)."""
        weight = self.mlp.head.weight
        x = observations.to(weight.dtype)
        if observations.dtype == torch.uint8:
            x = x / 255
        values: Tensor = self.mlp(self.convs(x).flatten(1))
        return values


class DQNAgent:
    """Epsilon-greedy double deep Q-learning; one call of :meth:`observe` per environment step learns as it goes.

    Networks, actions and samples follow from ``seed``; the global random state stays as it was. ``network``,
    ``target``, ``optimizer``, ``scheduler`` and ``projector`` are there to be measured or hooked.

    Args:
        observation_shape: of one observation.
        num_actions: number of actions.
        nap: Normalize-and-Project. Default False: neither norms nor projection, unless ``norm`` is given.
        norm, conv_norm: width -> norm layer, see :class:`QNetwork`. Default None: with ``nap`` layer norm without scale
            and offset (over channels and pixels in convolutions), else no norm.
        projector: network -> :class:`Projector`, with ``nap`` only, e.g. ``normviz.norms.NormProjector`` for norms with
            scale and offset. Default None: every weight but the head's is projected, scales and offsets are free.
        hidden, channels, activation: see :class:`QNetwork`.
        lr: learning rate of Adam. Default 1e-3.
        optimizer: parameters -> optimizer, instead of Adam with ``lr``.
        schedule: optimizer -> learning-rate schedule, stepped after every update. Default None: constant. A linear
            decay is ``lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.01, total_iters=updates)``.
        gamma: discount, in [0, 1]. Default 0.99.
        batch_size: transitions per update. Default 32.
        capacity: of the replay buffer. Default 10000.
        learn_start: steps before the first update. Default 200.
        learn_every: steps per update. Default 1.
        target_every: updates between two copies of the network into the target. Default 100.
        epsilon: probability of a random action at the start and at the end. Default (1.0, 0.05).
        epsilon_steps: steps of its linear decay. Default 2000.
        double: the next action is the network's choice rather than the target's. Default True.
        observation_dtype: of the replay buffer; ``torch.uint8`` for images. Default float32.
        device: of network and buffer. Default "cpu".
        seed: of everything random here. Default 0.

    Raises:
        ValueError: an argument out of range, ``projector`` without ``nap``.

    Example:
        >>> agent = DQNAgent((4,), 2, nap=True, learn_start=1, batch_size=4)
        >>> observation = torch.ones(4)
        >>> action = agent.act(observation)
        >>> loss = agent.observe(observation, action, 1.0, observation, terminated=False)
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        num_actions: int,
        *,
        nap: bool = False,
        norm: NormFactory | None = None,
        conv_norm: NormFactory | None = None,
        projector: Callable[[nn.Module], Projector] | None = None,
        hidden: Sequence[int] = (64, 64),
        channels: Sequence[int] = (),
        activation: Activation = "relu",
        lr: float = 1e-3,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        schedule: Callable[[Optimizer], LRScheduler] | None = None,
        gamma: float = 0.99,
        batch_size: int = 32,
        capacity: int = 10_000,
        learn_start: int = 200,
        learn_every: int = 1,
        target_every: int = 100,
        epsilon: tuple[float, float] = (1.0, 0.05),
        epsilon_steps: int = 2000,
        double: bool = True,
        observation_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if projector is not None and not nap:
            raise ValueError("projector is used with nap=True only, got nap=False.")
        self.num_actions = _checks.size("num_actions", num_actions)
        self.gamma = _fraction("gamma", gamma)
        self.epsilon = (_fraction("epsilon[0]", epsilon[0]), _fraction("epsilon[1]", epsilon[1]))
        self.epsilon_steps = _checks.size("epsilon_steps", epsilon_steps)
        self.batch_size = _checks.size("batch_size", batch_size)
        self.learn_start = _checks.size("learn_start", learn_start)
        self.learn_every = _checks.size("learn_every", learn_every)
        self.target_every = _checks.size("target_every", target_every)
        self.double = bool(double)
        self.device = torch.device(device)
        if nap:
            norm = norm or _layer_norm
            conv_norm = conv_norm or _image_layer_norm

        def make_network() -> QNetwork:
            return QNetwork(
                observation_shape,
                num_actions,
                hidden=hidden,
                channels=channels,
                norm=norm,
                conv_norm=conv_norm,
                activation=activation,
            ).to(self.device)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_checks.size("seed", seed, 0))
            self.network, self.target = make_network(), make_network()
        self.target.load_state_dict(self.network.state_dict())
        self.target.requires_grad_(False)
        self.optimizer = (
            torch.optim.Adam(self.network.parameters(), lr=_checks.real("lr", lr))
            if optimizer is None
            else optimizer(self.network.parameters())
        )
        self._initial_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self._schedule = schedule
        self.scheduler = schedule(self.optimizer) if schedule else None
        self.projector: Projector | None = (projector or _FrobeniusProjector)(self.network) if nap else None
        self.buffer = ReplayBuffer(capacity, observation_shape, dtype=observation_dtype, device=self.device)
        self._generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self.updates = 0

    @property
    def exploration(self) -> float:
        """The present probability of a random action."""
        start, end = self.epsilon
        return start + (end - start) * min(self.steps / self.epsilon_steps, 1.0)

    @torch.no_grad()
    def values(self, observations: Any) -> Tensor:
        """Action values (N, num_actions) of observations (N, *observation_shape)."""
        values: Tensor = self.network(torch.as_tensor(observations, device=self.device))
        return values

    def act(self, observation: Any, *, greedy: bool = False) -> int:
        """Choose an action for one observation: random with probability ``exploration``, unless ``greedy``."""
        if not greedy and float(torch.rand((), generator=self._generator)) < self.exploration:
            return int(torch.randint(self.num_actions, (), generator=self._generator))
        return int(self.values(torch.as_tensor(observation)[None]).argmax())

    def observe(
        self, observation: Any, action: int, reward: float, next_observation: Any, terminated: bool
    ) -> float | None:
        """Remember one step of the environment; update every ``learn_every`` steps once ``learn_start`` were seen.

        A truncated episode is no terminated one: its last state still has a value.

        Returns:
            The loss of the update, None without one.
        """
        self.buffer.add(observation, action, reward, next_observation, terminated)
        self.steps += 1
        if self.steps >= self.learn_start and self.steps % self.learn_every == 0:
            return self.learn()
        return None

    def learn(self) -> float:
        """One update on a sampled batch: optimizer, projection, schedule; returns the loss."""
        loss = self.loss(*self.buffer.sample(self.batch_size, self._generator))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.projector is not None:
            self.projector.project_(self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None:
            self.scheduler.step()
        self.updates += 1
        if self.updates % self.target_every == 0:
            self.target.load_state_dict(self.network.state_dict())
        return float(loss.detach())

    def loss(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        next_observations: Tensor,
        terminated: Tensor,
    ) -> Tensor:
        """Mean Huber loss of the temporal differences of a batch (first axis N)."""
        with torch.no_grad():
            of_target = self.target(next_observations)  # (N, actions)
            chooser = self.network(next_observations) if self.double else of_target
            best = of_target.gather(1, chooser.argmax(1, keepdim=True)).squeeze(1)
            y = rewards + self.gamma * (1 - terminated) * best
        q = self.network(observations).gather(1, actions[:, None]).squeeze(1)
        return F.smooth_l1_loss(q, y)

    def restart_schedule(self) -> None:
        """Start the learning-rate schedule anew, e.g. at the start of each task (cyclic schedule)."""
        if self._schedule is None:
            return
        for group, lr in zip(self.optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = lr
        self.scheduler = self._schedule(self.optimizer)


def _fraction(name: str, value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    raise ValueError(f"{name} must be a number in [0, 1], got {value!r}.")


def _layer_norm(width: int) -> nn.Module:
    return nn.LayerNorm(width, elementwise_affine=False)


def _image_layer_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels, affine=False)


class _FrobeniusProjector:
    """Keeps the Frobenius norm of every weight but the head's.

    This package imports torch only, so it has the few lines of ``normviz.norms.NormProjector`` that norms without scale
    and offset need.
    """

    def __init__(self, network: nn.Module) -> None:
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        self._weights = [layer.weight for layer in layers[:-1]]
        with torch.no_grad():
            self._radii = torch._foreach_norm(self._weights) if self._weights else ()

    @torch.no_grad()
    def project_(self, lr: Any = None) -> None:  # noqa: ARG002
        if self._weights:
            factors = torch._foreach_div(self._radii, torch._foreach_norm(self._weights))
            torch._foreach_mul_(self._weights, factors)

"""Deep Q-learning: the target by hand, the replay buffer, Normalize-and-Project inside the agent, Catch learnt."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.optim.lr_scheduler import LinearLR

from normviz import models
from normviz.experiments.effective_learning_rate.environments import CatchEnv
from normviz.models import DQNAgent, QNetwork, ReplayBuffer
from normviz.norms import FeatureNorm, NormProjector


def agent(**options: Any) -> DQNAgent:
    options = {"hidden": (6, 5), "batch_size": 8, "learn_start": 8, "capacity": 50, **options}
    return DQNAgent((4,), 3, **options)


def experience(a: DQNAgent, steps: int, seed: int = 0) -> list[float | None]:
    random = np.random.default_rng(seed)
    shape = tuple(a.buffer._observations.shape[1:])
    return [
        a.observe(
            random.normal(size=shape).astype(np.float32),
            int(random.integers(3)),
            float(random.normal()),
            random.normal(size=shape).astype(np.float32),
            bool(random.random() < 0.2),
        )
        for _ in range(steps)
    ]


# ----------------------------------------------------------------------------------------------------------- network


def test_network_by_hand() -> None:
    torch.manual_seed(0)
    net = QNetwork((2, 2), 3, hidden=(5,), norm=lambda d: nn.LayerNorm(d, elementwise_affine=False)).double()
    x = torch.randn(4, 2, 2, dtype=torch.float64)
    linear, head = net.mlp.blocks[0].linear, net.mlp.head
    assert linear.bias is None
    a = x.reshape(4, 4).numpy() @ linear.weight.detach().numpy().T
    a = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    expected = np.maximum(a, 0) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("norm", "conv_norm"), [(None, None), (nn.LayerNorm, lambda c: nn.GroupNorm(1, c))])
def test_convolutional_network(norm: Any, conv_norm: Any) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    nets = [
        QNetwork((2, 9, 6), 3, channels=(4, 5), hidden=(7,), norm=norm, conv_norm=conv_norm) for _ in range(2)
    ]
    assert nets[0].mlp.blocks[0].linear.in_features == 5 * 3 * 2
    assert all((conv[0].bias is None) == (norm is not None) for conv in nets[0].convs)
    x = torch.randint(256, (3, 2, 9, 6), dtype=torch.uint8)
    out = nets[0](x)
    assert out.shape == (3, 3)
    torch.testing.assert_close(out, nets[0](x.float() / 255))
    torch.testing.assert_close(torch.compile(nets[0], fullgraph=True, backend="aot_eager")(x), out)
    params, buffers = stack_module_state(nets)
    stacked = vmap(lambda p, b: functional_call(nets[0], (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(stacked, torch.stack([net(x) for net in nets]))


def test_same_weights_with_and_without_norm() -> None:
    for options in ({"hidden": (6, 5)}, {"channels": (4,), "hidden": (5,)}):
        shape = (1, 8, 8)
        plain, nap = (DQNAgent(shape, 3, nap=nap, **options).network for nap in (False, True))
        for a, b in zip(weights(plain), weights(nap), strict=True):
            assert torch.equal(a, b)


def weights(net: nn.Module) -> list[Tensor]:
    return [m.weight for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


# ------------------------------------------------------------------------------------------------------------ buffer


def test_buffer_keeps_the_last_transitions_together() -> None:
    buffer = ReplayBuffer(4, (2,))
    for t in range(7):
        buffer.add(torch.full((2,), float(t)), t, 10.0 * t, torch.full((2,), t + 0.5), t % 2 == 1)
        assert len(buffer) == min(t + 1, 4)
    fields = buffer.sample(200, torch.Generator().manual_seed(0))
    observations, actions, rewards, following, terminated = fields
    assert set(actions.tolist()) == {3, 4, 5, 6}
    for i, t in enumerate(actions.tolist()):
        assert observations[i].tolist() == [t, t]
        assert following[i].tolist() == [t + 0.5, t + 0.5]
        assert (float(rewards[i]), float(terminated[i])) == (10.0 * t, float(t % 2))


def test_buffer_keeps_bytes() -> None:
    buffer = ReplayBuffer(2, (2,), dtype=torch.uint8)
    buffer.add(np.array([0, 255], dtype=np.uint8), 0, 0.0, np.array([1, 2], dtype=np.uint8), False)
    observations, _, _, following, _ = buffer.sample(1)
    assert observations.dtype == torch.uint8
    assert (observations[0].tolist(), following[0].tolist()) == ([0, 255], [1, 2])


# ------------------------------------------------------------------------------------------------------------- agent


@pytest.mark.parametrize("double", [True, False])
def test_loss_by_hand(double: bool) -> None:
    a = agent(double=double, gamma=0.9)
    for p in a.target.parameters():
        p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    experience(a, 7)
    batch = a.buffer.sample(30, torch.Generator().manual_seed(0))
    observations, actions, rewards, following, terminated = batch
    q, q_next, q_target = (
        net(x).detach().double().numpy()
        for net, x in ((a.network, observations), (a.network, following), (a.target, following))
    )
    losses, choices_differ = [], False
    for i in range(30):
        best = int((q_next if double else q_target)[i].argmax())
        choices_differ |= int(q_next[i].argmax()) != int(q_target[i].argmax())
        y = float(rewards[i]) + 0.9 * (1 - float(terminated[i])) * q_target[i, best]
        delta = abs(q[i, int(actions[i])] - y)
        losses.append(0.5 * delta**2 if delta < 1 else delta - 0.5)
    assert choices_differ
    assert float(a.loss(*batch).detach()) == pytest.approx(np.mean(losses), rel=1e-5)


def test_exploration() -> None:
    a = agent(epsilon=(0.9, 0.1), epsilon_steps=10, learn_start=100)
    seen = []
    for _ in range(13):
        seen.append(a.exploration)
        experience(a, 1)
    assert seen == pytest.approx([0.9 - 0.08 * t for t in range(10)] + [0.1] * 3)
    observation = torch.randn(4, generator=torch.Generator().manual_seed(0))
    best = int(a.network(observation[None]).argmax())
    assert {a.act(observation, greedy=True) for _ in range(20)} == {best}
    a.epsilon = (1.0, 1.0)
    counts = np.bincount([a.act(observation) for _ in range(600)], minlength=3)
    assert counts.min() > 150
    a.epsilon = (0.3, 0.3)
    share = np.mean([a.act(observation) == best for _ in range(600)])
    assert share == pytest.approx(0.7 + 0.1, abs=0.07)


def test_when_it_learns_and_copies() -> None:
    a = agent(learn_start=8, learn_every=3, target_every=2)
    start = copy.deepcopy(a.network.state_dict())
    losses = experience(a, 14)
    assert [i + 1 for i, loss in enumerate(losses) if loss is not None] == [9, 12]
    assert (a.steps, a.updates) == (14, 2)
    torch.testing.assert_close(a.target.state_dict(), a.network.state_dict(), rtol=0, atol=0)
    assert any(not torch.equal(p, start[n]) for n, p in a.network.state_dict().items())
    updated = copy.deepcopy(a.target.state_dict())
    experience(a, 1)  # the third update is not copied
    torch.testing.assert_close(a.target.state_dict(), updated, rtol=0, atol=0)
    assert all(p.grad is None for p in a.target.parameters())


def test_seed_decides_everything_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    first, again, other = (agent(nap=True, seed=seed) for seed in (1, 1, 2))
    losses = [experience(a, 20) for a in (first, again, other)]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]


# --------------------------------------------------------------------------------------------- Normalize-and-Project


def test_nap_has_a_norm_before_every_nonlinearity() -> None:
    net = DQNAgent((1, 8, 8), 3, nap=True, channels=(4, 4), hidden=(5, 5)).network
    blocks = [list(conv) for conv in net.convs] + [list(block)[:3] for block in net.mlp.blocks]
    assert len(blocks) == 4
    for layer, norm, activation in blocks:
        assert layer.bias is None
        assert isinstance(norm, nn.LayerNorm | nn.GroupNorm)
        assert isinstance(activation, nn.ReLU)
    assert agent().projector is None


@pytest.mark.parametrize("channels", [(), (4,)])
def test_nap_equals_the_norm_projector(channels: tuple[int, ...]) -> None:
    """The projection that this package has of its own against the library's, through training."""
    agents = [
        DQNAgent(
            (1, 6, 6),
            3,
            nap=True,
            channels=channels,
            hidden=(6, 5),
            learn_start=8,
            batch_size=8,
            lr=0.05,
            **other,
        )
        for other in ({}, {"projector": lambda net: NormProjector(net, scale_offset="none")})
    ]
    radii = [float(w.detach().norm()) for w in weights(agents[0].network)]
    assert isinstance(agents[1].projector, NormProjector)
    for a in agents:
        experience(a, 20)
        norms = [float(w.detach().norm()) for w in weights(a.network)]
        assert norms[:-1] == pytest.approx(radii[:-1], rel=1e-5)
        assert norms[-1] != pytest.approx(radii[-1], rel=1e-3)
    for p, q in zip(agents[0].network.parameters(), agents[1].network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_nap_with_scale_and_offset() -> None:
    a = agent(nap=True, norm=FeatureNorm, projector=NormProjector, lr=0.05)
    experience(a, 20)
    assert isinstance(a.projector, NormProjector)
    assert "mlp.blocks.0.norm" in a.projector.radii
    assert a.projector.norms() == pytest.approx(a.projector.radii, rel=1e-5)
    pulled = agent(
        nap=True, norm=FeatureNorm, projector=lambda net: NormProjector(net, scale_offset="regularize")
    )
    experience(pulled, 20)  # needs the learning rate of the update
    assert pulled.projector is not None


def test_without_nap_the_norms_grow() -> None:
    """For plain SGD the norm of a scale-invariant weight never falls; the head's is another matter."""
    a = agent(norm=nn.LayerNorm, optimizer=lambda params: torch.optim.SGD(params, lr=0.3))
    radii = [float(w.detach().norm()) for w in weights(a.network)]
    experience(a, 20)
    norms = [float(w.detach().norm()) for w in weights(a.network)]
    assert all(norm > radius for norm, radius in zip(norms[:-1], radii[:-1], strict=True))


def test_schedule_and_its_restart() -> None:
    a = agent(lr=0.1, nap=True, schedule=lambda o: LinearLR(o, 1.0, 0.01, total_iters=10))
    rates = []
    for _ in range(2):
        for _ in range(30):
            before = a.optimizer.param_groups[0]["lr"]
            if experience(a, 1) != [None]:
                rates.append(before)
        a.restart_schedule()
    expected = [0.1 * (1 - 0.99 * min(t, 10) / 10) for t in [*range(23), *range(30)]]
    assert rates == pytest.approx(expected)
    constant = agent(lr=0.1, optimizer=lambda params: torch.optim.SGD(params, lr=0.2))
    experience(constant, 12)
    constant.restart_schedule()
    assert constant.optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: QNetwork((), 3), "observation_shape"),
        (lambda: QNetwork((4,), 0), "num_actions"),
        (lambda: QNetwork((4,), 3, channels=(8,)), "observation_shape"),
        (lambda: QNetwork((4,), 3, activation="rleu"), "activation"),
        (lambda: ReplayBuffer(0, (4,)), "capacity"),
        (lambda: ReplayBuffer(2, (4,)).sample(1), "buffer"),
        (lambda: agent(gamma=1.1), "gamma"),
        (lambda: agent(epsilon=(1.0, -0.1)), r"epsilon\[1\]"),
        (lambda: agent(batch_size=0), "batch_size"),
        (lambda: agent(target_every=0), "target_every"),
        (lambda: agent(lr=-1.0), "lr"),
        (lambda: agent(seed=-1), "seed"),
    ],
)
def test_arguments(make: Any, argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must"):
        make()


def test_projector_needs_nap() -> None:
    with pytest.raises(ValueError, match="nap=True only"):
        agent(projector=NormProjector)


# ------------------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(("nap", "seed"), [(False, 0), (True, 0), (True, 1)])
def test_learns_catch(nap: bool, seed: int) -> None:
    """A random policy returns -0.6 on this grid; the ball can always be caught."""
    steps = 1200
    env = CatchEnv(6, 5, seed=seed)
    a = DQNAgent(
        env.observation_shape,
        env.num_actions,
        nap=nap,
        hidden=(32, 32),
        lr=3e-3,
        schedule=(lambda o: LinearLR(o, 1.0, 0.01, total_iters=steps // 2)) if nap else None,
        gamma=0.95,
        learn_start=100,
        learn_every=2,
        target_every=25,
        epsilon_steps=steps // 2,
        seed=seed,
    )
    observation, _ = env.reset()
    for _ in range(steps):
        action = a.act(observation)
        following, reward, terminated, _, _ = env.step(action)
        a.observe(observation, action, reward, following, terminated)
        observation = env.reset()[0] if terminated else following
    returns = []
    for episode in range(30):
        observation, _ = env.reset(1000 + episode)
        terminated = False
        while not terminated:
            observation, reward, terminated, _, _ = env.step(a.act(observation, greedy=True))
        returns.append(reward)
    assert np.mean(returns) > 0.5


def test_every_public_name_is_exported() -> None:
    assert {"DQNAgent", "QNetwork", "ReplayBuffer"} <= set(models.__all__)

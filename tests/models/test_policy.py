from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from normviz.models import TokenPolicy

P, T, A, V = 3, 2, 4, 6


def policy(seed: int = 0, **options: object) -> TokenPolicy:
    torch.manual_seed(seed)
    arguments = {"prompt_length": P, "response_length": T, "num_actions": A, "hidden": [8]} | options
    return TokenPolicy(V, **arguments).double()  # type: ignore[arg-type]


def all_responses() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(A), repeat=T)))


def sequences(prompt: list[int]) -> torch.Tensor:
    responses = all_responses()
    return torch.cat([torch.tensor([prompt]).expand(len(responses), P), responses], 1)


def test_logits_equal_numpy() -> None:
    net = policy(activation="tanh")
    state = {name: p.detach().numpy() for name, p in net.named_parameters()}
    tokens = torch.tensor([[5, 4, 1, 2, 3]])
    for t, seen in enumerate([[5, 4, 1, V], [5, 4, 1, 2]]):
        x = np.concatenate([state["embedding.weight"][token] for token in seen])
        h = np.tanh(state["network.blocks.0.linear.weight"] @ x + state["network.blocks.0.linear.bias"])
        expected = state["network.head.weight"] @ h + state["network.head.bias"]
        np.testing.assert_allclose(net(tokens)[0, t].detach().numpy(), expected, rtol=1e-12)


def test_responses_are_a_distribution() -> None:
    net = policy()
    total = net.log_probs(sequences([0, 5, 3])).sum(1).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-12)


def test_no_position_sees_the_tokens_at_or_behind_it() -> None:
    net = policy(response_length=3)
    tokens = torch.randint(A, (5, P + 3))
    for t in range(3):
        other = tokens.clone()
        other[:, P + t :] = (other[:, P + t :] + 1) % A
        torch.testing.assert_close(net(tokens)[:, : t + 1], net(other)[:, : t + 1], rtol=0, atol=0)
        if t < 2:
            assert not torch.equal(net(tokens)[:, t + 1], net(other)[:, t + 1])


def test_sampling_follows_the_distribution() -> None:
    net = policy()
    n = 40_000
    prompts = torch.tensor([[1, 2, 5]]).expand(n, P)
    drawn = net.sample(prompts, torch.rand(n, T, generator=torch.Generator().manual_seed(1)))[:, P:]
    counts = np.bincount((drawn[:, 0] * A + drawn[:, 1]).numpy(), minlength=A**T)
    p = net.log_probs(sequences([1, 2, 5])).sum(1).exp().detach().numpy()
    z = (counts - n * p) / np.sqrt(n * p * (1 - p))
    assert np.abs(z).max() < 4


def test_sampling_inverts_the_distribution_function() -> None:
    net = policy(response_length=1)
    prompt = torch.tensor([[0, 1, 2]])
    p = net.logits_at(torch.cat([prompt, torch.zeros(1, 1, dtype=torch.long)], 1), 0).softmax(-1)[0]
    edges = torch.cat([torch.zeros(1), p.cumsum(0)]).tolist()
    for action in range(A):
        middle = torch.tensor([[(edges[action] + edges[action + 1]) / 2]], dtype=torch.float64)
        assert net.sample(prompt, middle)[0, P].item() == action
    assert net.sample(prompt, torch.tensor([[0.0]]))[0, P].item() == 0
    # Rounding may leave the last edge below the largest uniform number.
    assert net.sample(prompt, torch.tensor([[1.0]]))[0, P].item() == A - 1


def test_equal_numbers_give_equal_responses() -> None:
    prompts, u = torch.randint(V, (20, P)), torch.rand(20, T)
    assert torch.equal(policy(3).sample(prompts, u), policy(3).sample(prompts, u))
    assert torch.equal(policy(3).sample(prompts, u)[:, :P], prompts)


def test_greedy_takes_the_most_probable_token_at_each_position() -> None:
    net = policy(5)
    greedy = net.greedy(torch.tensor([[2, 2, 2]]))[0, P:].tolist()
    logits = net(torch.tensor([[2, 2, 2, *greedy]]))[0]
    assert greedy == logits.argmax(-1).tolist()


def test_sampling_carries_no_gradient() -> None:
    net = policy()
    u = torch.rand(4, T, requires_grad=True)
    assert not net.sample(torch.zeros(4, P, dtype=torch.long), u).requires_grad
    assert net.log_probs(sequences([0, 0, 0])).requires_grad


def test_score_function_has_mean_zero() -> None:
    net = policy()
    logp = net.log_probs(sequences([4, 0, 1])).sum(1)
    (logp.exp().detach() * logp).sum().backward()
    for p in net.parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, torch.zeros_like(p), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_actions": V + 1}, "num_actions"),
        ({"num_actions": 0}, "num_actions"),
        ({"prompt_length": 0}, "prompt_length"),
        ({"response_length": 0}, "response_length"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"activation": "swish"}, "activation"),
        ({"norm": 3}, "norm"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        policy(**arguments)


def test_shape_errors() -> None:
    net = policy()
    for call, name in (
        (lambda: net(torch.zeros(2, P, dtype=torch.long)), "tokens"),
        (lambda: net.greedy(torch.zeros(P, dtype=torch.long)), "prompts"),
        (lambda: net.sample(torch.zeros(2, P, dtype=torch.long), torch.rand(2, T + 1)), "uniforms"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_default_actions_and_norm() -> None:
    net = TokenPolicy(V, prompt_length=1, response_length=1, norm=nn.LayerNorm)
    assert net.num_actions == V
    assert sum(isinstance(m, nn.LayerNorm) for m in net.modules()) == 2
    assert net(torch.zeros(3, 2, dtype=torch.long)).shape == (3, 1, V)

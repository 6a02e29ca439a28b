from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from normviz.models import GPT, SelfAttention


def small(**kwargs: object) -> GPT:
    torch.manual_seed(0)
    return GPT(11, **({"dim": 8, "num_heads": 2, "max_length": 6, "init_std": 0.3} | kwargs))  # type: ignore[arg-type]


@pytest.mark.parametrize("norm_first", [True, False])
def test_causal(norm_first: bool) -> None:
    net = small(norm_first=norm_first).double()
    tokens = torch.randint(11, (3, 6))
    out = net(tokens)
    for t in range(6):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % 11
        other = net(changed)
        torch.testing.assert_close(other[:, :t], out[:, :t], rtol=1e-12, atol=1e-12)
        assert (other[:, t] - out[:, t]).abs().amax() > 1e-3


def test_shorter_sequences_are_prefixes() -> None:
    net = small().double()
    tokens = torch.randint(11, (3, 6))
    torch.testing.assert_close(net(tokens[:, :4]), net(tokens)[:, :4])


def test_forward_written_out() -> None:
    net = small(num_layers=1, norm=nn.LayerNorm).double()
    tokens = torch.randint(11, (3, 6))

    def norm(v: Tensor) -> Tensor:
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()

    block = net.blocks[0]
    x = net.token_embedding.weight[tokens] + net.position_embedding.weight
    x = x + block.attn(norm(x))
    hidden = norm(x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    x = x + gelu @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    assert net.head is not None
    torch.testing.assert_close(net(tokens), norm(x) @ net.head.weight.T)


def test_norm_names() -> None:
    pre = [n for n, m in small().named_modules() if isinstance(m, nn.LayerNorm)]
    assert pre == [f"blocks.{i}.norm{k}" for i in range(2) for k in (1, 2)] + ["norm_out"]
    post = [n for n, m in small(norm_first=False).named_modules() if isinstance(m, nn.LayerNorm)]
    assert post == [f"blocks.{i}.norm{k}" for i in range(2) for k in (1, 2)]


def test_names_that_fusion_expects() -> None:
    block = small().blocks[0]
    assert block.norm_first is True
    for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        assert isinstance(block.get_submodule(path), nn.Linear)


def test_tied_weights_are_one_parameter() -> None:
    net = small(tie_weights=True)
    assert net.head is None
    assert [n for n, _ in net.named_parameters(remove_duplicate=False)] == [
        n for n, _ in net.named_parameters()
    ]
    tokens = torch.randint(11, (3, 6))
    torch.testing.assert_close(net(tokens), net.features(tokens) @ net.token_embedding.weight.T)
    net(tokens).square().sum().backward()
    unused = next(t for t in range(11) if not (tokens == t).any())
    assert net.token_embedding.weight.grad is not None
    assert net.token_embedding.weight.grad[unused].abs().sum() > 0  # as output row, though never an input
    params = {name: p.detach() * 0 for name, p in net.named_parameters()}
    assert not functional_call(net, params, (tokens,)).any()


@pytest.mark.parametrize(("init_std", "std"), [(0.02, 0.02), (None, 0.02 * 12**0.5)])
def test_gpt2_initialisation(init_std: float | None, std: float) -> None:
    torch.manual_seed(0)
    net = GPT(100, dim=64, num_layers=8, max_length=64, init_std=init_std)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        elif "norm" not in name:
            into_stream = name.endswith(("attn.proj.weight", "fc2.weight"))
            assert p.std().item() == pytest.approx(std / (4 if into_stream else 1), rel=0.05), name


def test_matrix_parameters_of_the_demonstration() -> None:
    net = GPT(103, dim=64, num_layers=2, num_heads=4, max_length=64)
    matrices = sum(p.numel() for n, p in net.named_parameters() if "blocks" in n and p.ndim == 2)
    assert matrices == 2 * (4 * 64 * 64 + 2 * 64 * 256)


def test_padding() -> None:
    net = small().double()
    tokens = torch.randint(11, (2, 6))
    mask = torch.zeros(2, 6, dtype=torch.bool)
    mask[0, :2] = True
    changed = torch.where(mask, (tokens + 1) % 11, tokens)
    torch.testing.assert_close(net(tokens, mask)[~mask], net(changed, mask)[~mask])
    assert not torch.allclose(net(tokens)[~mask], net(changed)[~mask])


def test_factories_and_what_they_leave_alone() -> None:
    calls: list[tuple[int, ...]] = []

    def attention(dim: int, heads: int) -> nn.Module:
        calls.append((dim, heads))
        return nn.Linear(dim, dim)

    def mlp(dim: int) -> nn.Module:
        calls.append((dim,))
        return nn.Linear(dim, dim)

    net, plain = small(attention=attention, mlp=mlp), small()
    assert calls == [(8, 2), (8,)] * 2
    assert isinstance(net.get_submodule("blocks.1.attn"), nn.Linear)
    for name in ("token_embedding.weight", "position_embedding.weight", "head.weight"):
        assert torch.equal(net.get_parameter(name), plain.get_parameter(name))
    kernel = small(attention=lambda d, h: SelfAttention(d, h, causal=True, kernel=lambda q, k, v: v))
    tokens = torch.randint(11, (3, 6))
    assert kernel(tokens).shape == (3, 6, 11)


def test_dropout_only_in_training() -> None:
    net, tokens = small(dropout=0.3), torch.randint(11, (3, 6))
    assert not torch.equal(net(tokens), net(tokens))
    net.eval()
    assert torch.equal(net(tokens), net(tokens))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"dim": 0}, "dim"),
        ({"num_heads": 3}, "divisible"),
        ({"num_layers": 0}, "num_layers"),
        ({"max_length": 0}, "max_length"),
        ({"mlp_ratio": -1}, "mlp_ratio"),
        ({"init_std": -1}, "init_std"),
        ({"dropout": 1}, "dropout"),
        ({"norm": 1}, "norm"),
        ({"attention": 1}, "attention"),
        ({"mlp": 1}, "mlp"),
        ({"activation": "relu6"}, "activation"),
    ],
)
def test_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GPT(**({"vocab_size": 11, "dim": 8, "num_heads": 2} | arguments))  # type: ignore[arg-type]


def test_too_long() -> None:
    with pytest.raises(ValueError, match="max_length=6"):
        small()(torch.zeros(1, 7, dtype=torch.long))

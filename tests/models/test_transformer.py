from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normviz.models import FeedForward, SelfAttention, TransformerBlock


def attention(dim: int = 6, heads: int = 2, **kwargs: object) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(dim, heads, std=0.5, **kwargs).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_numpy_loops(causal: bool) -> None:
    layer = attention(causal=causal)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    w, b = layer.qkv.weight.detach().numpy(), layer.qkv.bias.detach().numpy()
    expected = np.zeros((2, 5, 6))
    maps = np.zeros((2, 2, 5, 5))
    for batch in range(2):
        q, k, v = np.split(x[batch].numpy() @ w.T + b, 3, axis=1)
        for head in range(2):
            part = slice(3 * head, 3 * head + 3)
            for i in range(5):
                last = i + 1 if causal else 5
                scores = np.array([q[i, part] @ k[j, part] / np.sqrt(3) for j in range(last)])
                weights = np.exp(scores) / np.exp(scores).sum()
                maps[batch, head, i, :last] = weights
                expected[batch, i, part] = weights @ v[:last, part]
    expected = expected @ layer.proj.weight.detach().numpy().T + layer.proj.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10)
    np.testing.assert_allclose(layer.weights(x).detach().numpy(), maps, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("causal", [False, True])
def test_fused_equals_unfused(causal: bool) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 3:] = True
    plain, fused = attention(causal=causal), attention(causal=causal, fused=True)
    torch.testing.assert_close(plain(x), fused(x))
    torch.testing.assert_close(plain(x, mask), fused(x, mask))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_unfused_has_forward_mode_derivatives() -> None:
    layer = attention(causal=True)
    x, v = torch.randn(2, 2, 5, 6, dtype=torch.float64)
    _, tangent = torch.func.jvp(layer, (x,), (v,))
    step = 1e-6
    torch.testing.assert_close(
        tangent, (layer(x + step * v) - layer(x - step * v)) / (2 * step), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_seen(causal: bool) -> None:
    layer = attention(causal=causal)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, False, False], [False, False, False, False, True]])
    changed = torch.where(mask[..., None], torch.randn_like(x) * 100, x)
    torch.testing.assert_close(layer(x, mask)[~mask], layer(changed, mask)[~mask])
    assert layer(x, mask).isfinite().all()
    alone = layer(x[1:, :4])
    torch.testing.assert_close(layer(x, mask)[1, :4], alone[0])
    weights = layer.weights(x, mask)
    assert not weights[0, :, 2:, :2].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_heads_are_what_the_kernel_gets() -> None:
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append((q, k, v))
        return v * 2

    layer = attention(kernel=kernel)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    out = layer(x)
    q, k, v = layer.heads(x)
    assert q.shape == k.shape == v.shape == (2, 2, 5, 3)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], (q, k, v), strict=True))
    torch.testing.assert_close(out, layer.proj((2 * v).transpose(1, 2).reshape(2, 5, 6)))
    with pytest.raises(ValueError, match="pad_mask"):
        layer(x, torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="kernel"):
        layer.weights(x)


def test_kernel_keeps_the_start_and_a_module_is_registered() -> None:
    class Kernel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.gain * v

    plain, other = attention(), attention(kernel=Kernel())
    assert torch.equal(plain.qkv.weight, other.qkv.weight)
    assert torch.equal(plain.proj.weight, other.proj.weight)
    assert "kernel.gain" in dict(other.named_parameters())


def test_standard_deviations() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(64, 4, std=0.1, proj_std=0.01)
    assert layer.qkv.weight.std().item() == pytest.approx(0.1, rel=0.03)
    assert layer.proj.weight.std().item() == pytest.approx(0.01, rel=0.03)
    mlp = FeedForward(64, 256, std=0.1, proj_std=0.01)
    assert mlp.fc1.weight.std().item() == pytest.approx(0.1, rel=0.03)
    assert mlp.fc2.weight.std().item() == pytest.approx(0.01, rel=0.03)


@pytest.mark.parametrize("norm_first", [True, False])
def test_block_formula(norm_first: bool) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(
        6, attention(), FeedForward(6, 12, std=0.5).double(), norm=nn.RMSNorm, norm_first=norm_first
    ).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)

    def norm(v: Tensor) -> Tensor:
        return v / (v.square().mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt()

    if norm_first:
        h = x + block.attn(norm(x))
        expected = h + block.mlp(norm(h))
    else:
        h = norm(x + block.attn(x))
        expected = norm(h + block.mlp(h))
    torch.testing.assert_close(block(x), expected)


class MaskedNorm(nn.Module):
    """Stands for a norm over the real tokens of the batch; remembers the masks it was given."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.masks: list[Tensor | None] = []

    def forward(self, x: Tensor, pad_mask: Tensor | None = None) -> Tensor:
        self.masks.append(pad_mask)
        return x


@pytest.mark.parametrize("norm_first", [True, False])
def test_norms_get_the_mask_only_if_they_take_it(norm_first: bool) -> None:
    x, mask = torch.randn(2, 5, 6).double(), torch.zeros(2, 5, dtype=torch.bool)
    block = TransformerBlock(
        6, attention(), FeedForward(6, 12).double(), norm=MaskedNorm, norm_first=norm_first
    )
    block(x, mask)
    block(x)
    assert isinstance(block.norm1, MaskedNorm)
    assert isinstance(block.norm2, MaskedNorm)
    assert block.norm1.masks == [mask, None]
    assert block.norm2.masks == [mask, None]
    # A norm folded away later leaves a module without the argument in its place.
    block.norm1 = nn.Identity()
    block(x, mask)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    block.norm2 = nn.LayerNorm(6).double()
    torch.testing.assert_close(compiled(x, mask), block(x, mask))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"dim": 0}, "dim"),
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 4}, "divisible"),
        ({"std": -1.0}, "std"),
        ({"proj_std": float("nan")}, "proj_std"),
        ({"kernel": 3}, "kernel"),
    ],
)
def test_attention_errors(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SelfAttention(**({"dim": 6, "num_heads": 2} | arguments))  # type: ignore[arg-type]


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="hidden"):
        FeedForward(6, 0)
    with pytest.raises(ValueError, match="activation"):
        FeedForward(6, 6, activation="glu")
    with pytest.raises(ValueError, match="std"):
        FeedForward(6, 6, std=-0.1)
    with pytest.raises(ValueError, match="dropout"):
        TransformerBlock(6, nn.Identity(), nn.Identity(), norm=None, dropout=1.0)
    with pytest.raises(ValueError, match="norm"):
        TransformerBlock(6, nn.Identity(), nn.Identity(), norm=nn.Identity())  # type: ignore[arg-type]

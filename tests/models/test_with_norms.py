"""The networks with the library's own layers in their slots."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from normviz.models import GPT, ConvNet, ResNet, RNNClassifier, RNNLanguageModel, ViT
from normviz.norms import (
    EvoNorm2dB0,
    EvoNorm2dS0,
    LayerNormGRU,
    LayerNormLSTM,
    PowerNorm,
    UnifiedNorm1d,
    fuse_transformer_block,
)


def power_norm(dim: int) -> nn.Module:
    return PowerNorm(dim, batch_first=True, warmup_iters=2, groups=2)


def unified_norm(dim: int) -> nn.Module:
    return UnifiedNorm1d(dim, warmup_iters=4)


@pytest.mark.parametrize("norm", [power_norm, unified_norm])
def test_token_norms_ignore_padding(norm: type[nn.Module]) -> None:
    torch.manual_seed(0)
    tokens, mask = torch.randint(11, (4, 6)), torch.zeros(4, 6, dtype=torch.bool)
    mask[0, 4:] = True
    changed = torch.where(mask, (tokens + 1) % 11, tokens)
    statistics = []
    for text in (tokens, changed):
        torch.manual_seed(0)
        net = GPT(11, dim=8, num_heads=2, max_length=6, norm=norm)
        statistics.append((net(text, mask)[~mask], [b.clone() for b in net.buffers()]))
    torch.testing.assert_close(statistics[0], statistics[1])


@pytest.mark.parametrize("norm_first", [True, False])
def test_fused_blocks_of_a_trained_vit(norm_first: bool) -> None:
    torch.manual_seed(0)
    net = ViT(dim=8, num_heads=2, norm=unified_norm, norm_first=norm_first)
    for _ in range(6):
        net(torch.randn(16, 1, 8, 8)).square().mean().backward()
    net.eval()
    x = torch.randn(4, 1, 8, 8)
    expected = net(x)
    for i, block in enumerate(net.blocks):
        net.blocks[i] = fuse_transformer_block(block)
    assert not any(isinstance(m, UnifiedNorm1d) for m in net.blocks.modules())
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [EvoNorm2dB0, partial(EvoNorm2dS0, groups=2)])
def test_joint_layers_in_conv_nets(kind: type[nn.Module]) -> None:
    x = torch.randn(4, 1, 8, 8)
    for net in (ConvNet(1, (4, 6), 10, norm_act=kind), ResNet(1, (4, 6), 10, norm_act=kind)):
        out = net(x)
        out.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("normalize", [True, False])
def test_recurrent_layers_compile_and_vmap(normalize: bool) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    factory = partial(LayerNormLSTM, normalize=normalize)
    nets = [RNNLanguageModel(11, rnn=factory, embedding_dim=4, hidden=5) for _ in range(2)]
    tokens = torch.randint(11, (3, 4))
    compiled = torch.compile(nets[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), nets[0](tokens), rtol=1e-5, atol=1e-6)
    stacked = vmap(lambda p, b: functional_call(nets[0], (p, b), (tokens,)))(*stack_module_state(nets))
    torch.testing.assert_close(stacked, torch.stack([net(tokens) for net in nets]), rtol=1e-5, atol=1e-6)


def test_recurrent_classifier_with_either_layout() -> None:
    outputs = []
    for batch_first in (True, False):
        torch.manual_seed(0)
        net = RNNClassifier(1, 10, rnn=partial(LayerNormGRU, batch_first=batch_first), hidden=5)
        outputs.append(net(torch.arange(24.0).reshape(2, 12, 1)))
    torch.testing.assert_close(*outputs)

"""One row per network: how to build it with a norm factory, and an input. The contract tests run over this table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normviz.models import (
    GPT,
    MLP,
    BilinearMap,
    ConvNet,
    FiLMDenoiser,
    NormedRecurrent,
    PerWorker,
    ResNet,
    RNNClassifier,
    RNNLanguageModel,
    TokenPolicy,
    ViT,
)

Factory = Callable[[int], nn.Module] | None


class LoopRNN(nn.Module):
    """A recurrent layer as a loop over steps: h_t = tanh(W x_t + U h_{t-1})."""

    def __init__(self, input_size: int, hidden_size: int, batch_first: bool = True) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.w = nn.Linear(input_size, hidden_size)
        self.u = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x if self.batch_first else x.transpose(0, 1)
        h = x.new_zeros(x.shape[0], self.u.in_features) if state is None else state[0]
        outputs = []
        for t in range(x.shape[1]):
            h = torch.tanh(self.w(x[:, t]) + self.u(h))
            outputs.append(h)
        y = torch.stack(outputs, dim=1)
        return (y if self.batch_first else y.transpose(0, 1)), h[None]


class Denoised(nn.Module):
    """A denoiser of which row i of the input is at time i."""

    def __init__(self, net: FiLMDenoiser) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x, torch.arange(x.shape[0], device=x.device))
        return out


class Between(nn.Module):
    """A bilinear map between its input and the input's transpose: x W x^T."""

    def __init__(self, net: BilinearMap) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x, x.mT)
        return out


@dataclass(frozen=True)
class Case:
    build: Callable[[Factory], nn.Module]
    inputs: Callable[[], Tensor]
    norm: Callable[[int], nn.Module]
    output: tuple[int, ...]


def _tokens() -> Tensor:
    return torch.randint(11, (3, 6))


def _images() -> Tensor:
    return torch.randn(3, 1, 8, 8)


CASES: dict[str, Case] = {
    "mlp": Case(lambda norm: MLP(5, [7, 6], 4, norm=norm), lambda: torch.randn(3, 5), nn.BatchNorm1d, (3, 4)),
    "mlp-empty": Case(lambda norm: MLP(5, [], 4, norm=norm), lambda: torch.randn(3, 5), nn.LayerNorm, (3, 4)),
    "convnet": Case(lambda norm: ConvNet(1, (4, 6), 5, norm=norm), _images, nn.BatchNorm2d, (3, 5)),
    "convnet-depthwise": Case(
        lambda norm: ConvNet(1, (4, 6), 5, norm=norm, depthwise=True), _images, nn.BatchNorm2d, (3, 5)
    ),
    "resnet": Case(
        lambda norm: ResNet(1, (4, 6), 5, depths=(1, 2), norm=norm),
        _images,
        lambda c: nn.GroupNorm(2, c),
        (3, 5),
    ),
    "gpt": Case(
        lambda norm: GPT(11, dim=8, num_heads=2, max_length=6, norm=norm), _tokens, nn.LayerNorm, (3, 6, 11)
    ),
    "gpt-post-tied": Case(
        lambda norm: GPT(
            11, dim=8, num_heads=2, max_length=6, norm=norm, norm_first=False, tie_weights=True, bias=False
        ),
        _tokens,
        nn.RMSNorm,
        (3, 6, 11),
    ),
    "policy": Case(
        lambda norm: TokenPolicy(
            11, prompt_length=4, response_length=2, num_actions=7, hidden=[8], norm=norm
        ),
        lambda: torch.randint(7, (3, 6)),
        nn.LayerNorm,
        (3, 2, 7),
    ),
    "film-denoiser": Case(
        lambda norm: Denoised(FiLMDenoiser(2, [7, 6], token_features=5, time_features=4, norm=norm)),
        lambda: torch.randn(3, 2),
        nn.LayerNorm,
        (3, 2),
    ),
    "per-worker": Case(
        lambda norm: ConvNet(1, (4, 6), 5, norm=None if norm is None else lambda c: PerWorker(norm(c), 2)),
        _images,
        nn.BatchNorm2d,
        (3, 5),
    ),
    "normed-recurrent": Case(
        lambda norm: RNNLanguageModel(
            11,
            rnn=lambda i, h: NormedRecurrent(LoopRNN(i, h), None if norm is None else norm(h)),
            embedding_dim=5,
            hidden=7,
        ),
        _tokens,
        nn.LayerNorm,
        (3, 6, 11),
    ),
    "vit": Case(lambda norm: ViT(dim=8, num_heads=2, norm=norm), _images, nn.LayerNorm, (3, 10)),
    "vit-cls": Case(
        lambda norm: ViT(patch_size=4, dim=8, num_heads=2, norm=norm, pool="cls"),
        _images,
        nn.LayerNorm,
        (3, 10),
    ),
}

WITHOUT_NORM: dict[str, Case] = {
    "bilinear": Case(
        lambda _: Between(BilinearMap(5, 5, std=1.0)), lambda: torch.randn(3, 5), nn.LayerNorm, (3, 3)
    ),
    "rnn-lm": Case(
        lambda _: RNNLanguageModel(11, rnn=LoopRNN, embedding_dim=5, hidden=7, num_layers=2),
        _tokens,
        nn.LayerNorm,
        (3, 6, 11),
    ),
    "rnn-classifier": Case(
        lambda _: RNNClassifier(2, 4, rnn=LoopRNN, hidden=7),
        lambda: torch.randn(3, 5, 2),
        nn.LayerNorm,
        (3, 4),
    ),
}

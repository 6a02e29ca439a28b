"""Rows of :mod:`normviz.decoding`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from normviz import decoding
from normviz.testing.assertions import Bad
from normviz.testing.contracts import Contract, FunctionContract, LayerContract, ObjectContract

__all__ = ["ROWS"]

VOCAB = 6


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Entropies are never narrower than float32."""
    return torch.promote_types(dtype, torch.float32)


class Logits(nn.Module):
    """A language model's logits alone; its cache is no tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of a text from its beginning."""
        logits: Tensor = self.model(tokens)[0]
        return logits


def logits_of(model: Callable[..., nn.Module]) -> Callable[..., Logits]:
    """Builds the model, then only its logits."""
    return lambda **options: Logits(model(**options))


class Decoding:
    """A sampling decoder with what it must resume: its random stream, and a controller's state if it has one."""

    def __init__(self, decoder: Any, generator: torch.Generator) -> None:
        self.decoder = decoder
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Random stream and controller."""
        state: dict[str, Any] = {"generator": self.generator.get_state()}
        if hasattr(self.decoder, "controller"):
            state["controller"] = self.decoder.controller.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.generator.set_state(state["generator"])
        if "controller" in state:
            self.decoder.controller.load_state_dict(state["controller"])

    def step(self, i: int) -> list[Any]:
        """Continue the i-th text: tokens, and what else the result says that is no time."""
        result = self.decoder.generate(torch.tensor([i % VOCAB, 1]), 10)
        return [
            getattr(result, name, None) for name in ("tokens", "owner", "entropy", "accepted", "proposed")
        ]


def models() -> tuple[decoding.ByteLSTM, decoding.CharTransformer]:
    """The same pair every time, a small LSTM and a larger transformer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return decoding.ByteLSTM(VOCAB, 3), decoding.CharTransformer(VOCAB, 8, 1, 2, 16)


def entropy_adaptive(**options: Any) -> Decoding:
    """Two models in turns, sampling."""
    generator = torch.Generator().manual_seed(0)
    controller = decoding.EntropySwitchController(2.4, window=2, min_tokens=2)
    options = {"temperature": 1.0, "generator": generator, **options}
    return Decoding(decoding.EntropyAdaptiveDecoder(*models(), controller, **options), generator)


def speculative(**options: Any) -> Decoding:
    """Draft and verification, sampling."""
    generator = torch.Generator().manual_seed(0)
    return Decoding(decoding.SpeculativeDecoder(*models(), generator=generator, **options), generator)


def push(controller: Any, i: int) -> Any:
    """Step i of a controller: one entropy, now low, now high."""
    return controller.push(float(i % 7) / 2)


SAMPLING = [Bad({"temperature": -1.0}), Bad({"top_k": 0}), Bad({"top_p": 0.0}), Bad({"top_p": 1.5})]

ROWS: list[Contract] = [
    ObjectContract(
        method="normviz.decoding.EntropyAdaptiveDecoder",
        make=entropy_adaptive,
        step=Decoding.step,
        bad=[*SAMPLING, Bad({"cache_policy": "eager"})],
    ),
    ObjectContract(
        method="normviz.decoding.SpeculativeDecoder",
        make=speculative,
        step=Decoding.step,
        bad=[*SAMPLING, Bad({"gamma": 0})],
    ),
    ObjectContract(
        method="normviz.decoding.EntropySwitchController",
        make=lambda **options: decoding.EntropySwitchController(
            **{"threshold": 1.0, "window": 2, "min_tokens": 2, **options}
        ),
        step=push,
        bad=[
            Bad({"threshold": float("nan")}),
            Bad({"window": 0}),
            Bad({"min_tokens": 0}),
            Bad({"start": "medium"}),
            Bad({"hysteresis": -1.0}),
        ],
    ),
    FunctionContract(
        method="normviz.decoding.token_entropy",
        inputs=lambda: (torch.randn(3, 5),),
        output_dtype=at_least_float32,
        bad=[
            Bad({"base": 1.0}),
            Bad(inputs=lambda: (torch.tensor(1.0),), names="logits"),
            Bad(inputs=lambda: (torch.full((2, 3), float("nan")),), names="logits", error=FloatingPointError),
        ],
    ),
    LayerContract(
        method="normviz.decoding.CharTransformer",
        make=logits_of(partial(decoding.CharTransformer, vocab=VOCAB, width=4, depth=1, heads=2, context=8)),
        inputs=lambda: (torch.randint(VOCAB, (2, 5)),),
        bad=[
            *(Bad({name: 0}) for name in ("vocab", "width", "depth", "heads", "context")),
            Bad(inputs=lambda: (torch.zeros(5, dtype=torch.long),), names="tokens"),
            Bad(inputs=lambda: (torch.zeros(1, 9, dtype=torch.long),), names="context"),
        ],
    ),
    LayerContract(
        method="normviz.decoding.ByteLSTM",
        make=logits_of(partial(decoding.ByteLSTM, vocab=VOCAB, width=3)),
        inputs=lambda: (torch.randint(VOCAB, (2, 4)),),
        bad=[
            *(Bad({name: 0}) for name in ("vocab", "width", "depth")),
            Bad(inputs=lambda: (torch.zeros(5, dtype=torch.long),), names="tokens"),
        ],
    ),
]

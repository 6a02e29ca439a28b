"""The language models of the page *Vision modulation*: one host trained on text, and an arm for each way to see."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from normviz.adapters import (
    LaViDecoder,
    concat_flops,
    cross_attention_flops,
    decoder_flops,
    freeze_host,
    lavi_flops,
)
from normviz.experiments.vision_modulation.knobs import Knobs
from normviz.experiments.vision_modulation.recorded import TOKENS
from normviz.experiments.vision_modulation.world import TEXT_LENGTH, World
from normviz.training.seeding import seeded

__all__ = [
    "build_arm",
    "build_decoder",
    "build_host",
    "flops",
    "milliseconds_by_tokens",
    "optimizer_of",
    "saved_at_7b",
    "text_loss",
]

LONGEST = max(TEXT_LENGTH, 16)
"""Positions of the language model."""
FFN_MULT = 4
TIMED = 3
"""Forward passes of which the shortest is kept."""

FUSION: dict[str, dict[str, Any]] = {
    "attention": {},
    "frozen": {},
    "mlp": {"conditioner": "mlp"},
    "conv": {"conditioner": "conv"},
    "pooled": {"conditioner": "pooled"},
    "concat": {"fusion": "concat"},
    "concat_frozen": {"fusion": "concat"},
    "cross": {"fusion": "cross_attention"},
}
"""Arguments of :class:`LaViDecoder` by arm."""


def build_decoder(kind: str, knobs: Knobs, cells: int | None = None) -> LaViDecoder:
    """An untrained decoder that sees as an arm does; ``"none"`` is the host. Drawn from torch's random state.

    Args:
        kind: the arm's key in the knobs, or ``"none"``.
        knobs: the setting.
        cells: visual tokens of a picture. None: as in the setting.
    """
    M = knobs.cells if cells is None else cells
    options = {"fusion": "none"} if kind == "none" else FUSION[kind]
    return LaViDecoder(
        len(knobs.vocabulary().words),
        knobs.width,
        knobs.depth,
        knobs.heads,
        FFN_MULT,
        modulate_every=knobs.modulate_every,
        vision_dim=knobs.colours + knobs.cells,
        cond_dim=knobs.cond_dim,
        cond_heads=knobs.cond_heads,
        sublayers=knobs.sublayers,
        modulate=knobs.modulate,
        num_visual_tokens=M,
        max_len=LONGEST,
        **options,
    )


def optimizer_of(model: LaViDecoder, knobs: Knobs) -> AdamW:
    """AdamW for everything that is trainable."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return AdamW(trained, lr=knobs.learning_rate, fused=True)


def build_host(world: World) -> LaViDecoder:
    """The language model of a seed, trained on text alone; leaves torch's random state as it was."""
    knobs = world.knobs
    with seeded(world.seed):
        host = build_decoder("none", knobs).to(world.device)
    optimizer = optimizer_of(host, knobs)
    for step in range(knobs.host_steps):
        optimizer.zero_grad()
        texts, guesses = world.pretraining(step)
        loss = text_loss(host, texts) + cross_entropy(host(guesses.tokens)[:, -1], guesses.answer)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return host


def build_arm(kind: str, world: World, host: LaViDecoder) -> LaViDecoder:
    """An arm that starts from a host's weights."""
    with seeded(world.seed):
        model = build_decoder(kind, world.knobs).to(world.device)
    model.load_state_dict(host.state_dict(), strict=False)
    if kind.endswith("frozen"):
        freeze_host(model)
    return model


def text_loss(model: LaViDecoder, texts: Tensor) -> Tensor:
    """Mean loss of the next word in nats, without a picture."""
    logits = model(texts[:, :-1])
    return cross_entropy(logits.flatten(0, 1), texts[:, 1:].flatten())


def flops(kind: str, knobs: Knobs, cells: int) -> int:
    """Floating-point operations of a forward pass for one question about a picture of so many cells.

    By the formulas of :mod:`normviz.adapters.lavi_flops`: blocks and conditioners, without projector and embeddings.

    Args:
        kind: the arm's key in the knobs, or ``"none"``.
        knobs: the setting.
        cells: M.
    """
    d, T = knobs.width, knobs.text_length
    shape: dict[str, Any] = {"layers": knobs.depth, "dim": d, "ffn": FFN_MULT * d, "ffn_mats": 2}
    if kind == "none":
        return decoder_flops(T, **shape)
    options = FUSION[kind]
    if options.get("fusion") == "concat":
        return concat_flops(T, cells, **shape)
    if options.get("fusion") == "cross_attention":
        return cross_attention_flops(T, cells, n_mod=math.ceil(knobs.depth / knobs.modulate_every), **shape)
    conditioner = options.get("conditioner", "attention")
    norms = len(knobs.modulated_norms())
    return lavi_flops(T, cells, n_mod=norms, cond_dim=knobs.cond_dim, conditioner=conditioner, **shape)


def saved_at_7b() -> float:
    """Operations that LaVi saves over concatenation for Qwen2-7B's shape with the most tokens of LLaVA-OV, in percent.

    64 words, 7,290 visual tokens, every fourth of 28 blocks modulated (7), r = 896.
    """
    shape: dict[str, Any] = {"T": 64, "M": 7290, "layers": 28, "dim": 3584, "ffn": 18944, "kv_dim": 512}
    return 100 * (1 - lavi_flops(**shape, n_mod=14, cond_dim=896) / concat_flops(**shape))


def milliseconds_by_tokens(kind: str, knobs: Knobs, device: torch.device) -> list[float]:
    """Time of a forward pass for one question, by the number of visual tokens of :data:`TOKENS`; untrained decoders."""
    found = []
    tokens = torch.zeros(1, knobs.text_length, dtype=torch.long, device=device)
    with seeded(0), torch.no_grad():
        for M in TOKENS:
            model = build_decoder(kind, knobs, M).to(device).eval()
            vision = torch.zeros(1, M, knobs.colours + knobs.cells, device=device)
            model(tokens, vision)
            found.append(min(_milliseconds(model, tokens, vision, device) for _ in range(TIMED)))
    return found


def _milliseconds(model: LaViDecoder, tokens: Tensor, vision: Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    out = model(tokens, vision)
    if device.type != "cpu":
        out.sum().item()  # waits for the device
    return 1e3 * (time.perf_counter() - start)

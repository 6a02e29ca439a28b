"""What is trained on the page *Vision modulation*: every way to see on the same questions, one step each in turn.

First a language model learns a little text. Every arm starts from it and learns to answer questions about a picture:
which colour has the cell that the question names? The loss is that of the answer alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from normviz.adapters import LaViDecoder
from normviz.experiments.vision_modulation.decoders import (
    build_arm,
    build_host,
    flops,
    milliseconds_by_tokens,
    optimizer_of,
    saved_at_7b,
    text_loss,
)
from normviz.experiments.vision_modulation.glimpses import glimpses
from normviz.experiments.vision_modulation.knobs import ARM_NAMES, LAVI, Knobs
from normviz.experiments.vision_modulation.recorded import LINES, TOKENS
from normviz.experiments.vision_modulation.world import World
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["frames"]

EVALUATIONS = 32
PROBED = 128
"""Test questions whose words are compared."""


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, ARM_NAMES[kinds[0]], seed) for seed in knobs.seed_range())
    members: list[Seer] = []
    for seed in knobs.seed_range():
        world = World(knobs, seed, where)
        host = build_host(world)
        with torch.no_grad():
            blind = host(world.test.tokens)
        members += [Seer(kind, world, build_arm(kind, world, host), blind) for kind in kinds]
    yield from interleave(
        members,
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=max(5, knobs.steps // EVALUATIONS),
        evaluate_all_first=True,
    )


class Seer:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        kind: the arm's key in the knobs.
        world: of its seed.
        model: what is trained.
        blind: logits of the language model without a picture for the test's questions.
    """

    def __init__(self, kind: str, world: World, model: LaViDecoder, blind: Tensor) -> None:
        self.kind, self.world, self.seed = kind, world, world.seed
        self.arm = ARM_NAMES[kind]
        self.model = model
        self.blind = blind
        self.optimizer = optimizer_of(model, world.knobs)

    def step(self, at: int) -> dict[str, Value]:
        """One update: its loss."""
        batch = self.world.batch(at)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(batch.tokens, batch.vision)[:, -1], batch.answer)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the training loss is {value}", lost=("loss",))
        return {"loss": value}


@torch.no_grad()
def _evaluate(trainee: Trainee, step: int) -> dict[str, Value]:
    """Right answers, loss on text alone, what the norms do; at the start also what a picture costs."""
    assert isinstance(trainee, Seer)
    world, model, knobs = trainee.world, trainee.model, trainee.world.knobs
    test = world.test
    logits = model(test.tokens, test.vision)
    values: dict[str, Value] = {
        "accuracy": float((logits[:, -1].argmax(-1) == test.answer).float().mean()),
        "text_loss": float(text_loss(model, world.texts)),
    }
    if not step:
        values |= _costs(trainee.kind, knobs, test.tokens.device)
        if trainee.kind == "attention":
            values["saved_at_7b"] = saved_at_7b()
        values["start_change"] = float((logits - trainee.blind).abs().max())
        values["parameters"] = float(sum(p.numel() for p in model.parameters()))
    if trainee.kind in LAVI:
        values |= _modulation(trainee)
    if trainee.seed == knobs.first_seed:
        values |= _picture(trainee)
    return values


def _costs(kind: str, knobs: Knobs, device: torch.device) -> dict[str, Value]:
    """Operations of a forward pass, operations and time by the number of visual tokens, tokens in self-attention."""
    return {
        "flops": float(flops(kind, knobs, knobs.cells)),
        "flops_by_tokens": np.array([flops(kind, knobs, M) for M in TOKENS], dtype=np.float32),
        "ms_by_tokens": np.array(milliseconds_by_tokens(kind, knobs, device), dtype=np.float32),
        "sequence": float(knobs.text_length + (0 if kind in LAVI or kind == "cross" else knobs.cells)),
    }


def _modulation(seer: Seer) -> dict[str, Value]:
    """Sizes of the change of gain and bias, and how much more the question's words get than those before it."""
    test, filler = seer.world.test, seer.world.knobs.filler
    found = glimpses(seer.model, test.tokens[:PROBED], test.vision[:PROBED])
    scale = torch.stack([glimpse.dgamma.norm(dim=-1) for glimpse in found])  # (norms, B, T)
    shift = torch.stack([glimpse.dbeta.norm(dim=-1) for glimpse in found])
    values: dict[str, Value] = {"gain_change": float(scale.mean()), "bias_change": float(shift.mean())}
    if filler:
        size = (scale.square() + shift.square()).sqrt().mean((0, 1))  # (T,)
        values["question_words"] = float(size[filler:].mean())
        values["words_before"] = float(size[:filler].mean())
    return values


def _picture(seer: Seer) -> dict[str, Value]:
    """One picture, asked for every cell: answers (cells, colours), what is read (cells, norms, cells), words."""
    picture, knobs = seer.world.picture, seer.world.knobs
    first = seer.world.words.first_colour
    logits = seer.model(picture.tokens, picture.vision)[:, -1]
    values: dict[str, Value] = {
        "colours": picture.colours[0].cpu().numpy(),
        "answers": logits.softmax(-1)[:, first : first + knobs.colours].cpu().numpy(),
    }
    if seer.kind in LAVI:
        found = glimpses(seer.model, picture.tokens, picture.vision)
        sizes = [torch.cat([glimpse.dgamma, glimpse.dbeta], -1).norm(dim=-1)[:LINES] for glimpse in found]
        values["word_change"] = torch.stack(sizes, -1).cpu().numpy()  # (lines, T, norms)
        values["word_tokens"] = picture.tokens[:LINES].cpu().numpy()
        looked = [glimpse.weights[:, -1] for glimpse in found if glimpse.weights is not None]
        if looked:
            values["read"] = torch.stack(looked, 1).cpu().numpy()  # (cells, norms, cells)
    return values

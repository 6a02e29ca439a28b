"""What runs on the page *Context adapters*: one trained network, adapted to a new task from several starts at once."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from normviz.adapters import LoRALinear
from normviz.digit_sources import digit_source
from normviz.experiments.context_adapters.decomposition import decomposition, weight_of
from normviz.experiments.context_adapters.knobs import ARMS, Knobs
from normviz.experiments.context_adapters.recorded import LAYERS
from normviz.experiments.context_adapters.starts import merged, started
from normviz.experiments.context_adapters.tasks import Task, World
from normviz.frame import Frame, Value
from normviz.training import Diverged, Trainee, interleave, resolve_device

__all__ = ["Adapted", "frames"]


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    kinds = knobs.kinds()
    yield from (Frame(0, ARMS[kinds[0]], seed) for seed in knobs.seed_range())
    members: list[Adapted] = []
    for seed in knobs.seed_range():
        world = World(knobs, seed, where)
        values = decomposition(world)
        note = _few_samples(knobs) if seed == knobs.first_seed else None
        yield Frame(0, ARMS[kinds[0]], seed, values, note)
        members += [Adapted(kind, world) for kind in kinds]
    yield from interleave(
        members,
        until=knobs.steps,
        evaluate=_evaluate,
        eval_every=knobs.stride(),
        evaluate_all_first=True,
    )


def _few_samples(knobs: Knobs) -> str | None:
    """What to tell a reader who calibrates on fewer pictures than there are directions."""
    directions = digit_source(knobs.data).values
    if knobs.samples >= directions:
        return None
    return (
        f"{knobs.samples} samples excite at most {knobs.samples} of the {directions} directions of the first layer: in "
        "the others the covariance is only its damping"
    )


class Adapted:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        kind: the arm's key in the knobs.
        world: what all arms of its seed share.
    """

    def __init__(self, kind: str, world: World) -> None:
        self.kind, self.world, self.seed = kind, world, world.seed
        self.arm = ARMS[kind]
        self.model = started(kind, world)
        self.batches = world.batches()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.trained = sum(p.numel() for p in trained)
        self.optimizer = torch.optim.Adam(trained, lr=world.knobs.learning_rate)

    def step(self, at: int) -> dict[str, Value]:
        """One update on the new task: its loss."""
        x, y = self.batches(self.seed, at)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the training loss is {value}", lost=("loss", "new_loss"))
        return {"loss": value}

    def weight(self, name: str) -> Tensor:
        """The layer's weight as it acts now, adapter included, [out, in]."""
        layer = self.model.get_submodule(name)
        if isinstance(layer, LoRALinear):
            return (layer.weight + layer.delta_weight()).detach()
        return weight_of(self.model, name)

    def adapter(self, name: str) -> Tensor:
        """What the adapter holds, s B A; without an adapter what was trained so far, [out, in]."""
        layer = self.model.get_submodule(name)
        if isinstance(layer, LoRALinear):
            return layer.delta_weight().detach()
        return self.weight(name) - weight_of(self.world.base, name)


@torch.no_grad()
def _evaluate(trainee: Trainee, step: int) -> dict[str, Value]:
    """Accuracy and loss on both tasks, how far the weights went, and which pixels the adapter reads."""
    assert isinstance(trainee, Adapted)
    world, model = trainee.world, trainee.model
    values: dict[str, Value] = {
        **_tested(model, world.new, "new"),
        **_tested(model, world.first, "kept"),
        **_moved(trainee),
    }
    if step == 0:
        values["start_change"] = difference(model, world.base, world.first.x_test)
        values["trained"] = float(trainee.trained)
    if step >= world.knobs.steps:
        values["merge_change"] = difference(merged(model), model, world.new.x_test)
    if trainee.seed == world.knobs.first_seed:
        values["read"] = trainee.adapter(LAYERS[0]).norm(dim=0).cpu().numpy()  # (pixels,)
    return values


def _tested(model: nn.Module, task: Task, name: str) -> dict[str, Value]:
    logits = model(task.x_test)
    right = (logits.argmax(-1) == task.y_test).float().mean()
    return {
        f"{name}_accuracy": 100 * float(right),
        f"{name}_loss": float(cross_entropy(logits, task.y_test)),
    }


def _moved(trainee: Adapted) -> dict[str, Value]:
    """Change of the weights since the start, over their size: as it is, and as the first task's inputs feel it."""
    plain, felt = [], []
    for name in LAYERS:
        W = weight_of(trainee.world.base, name)
        fixed = trainee.world.damped[name]
        moved = trainee.weight(name) - W
        plain.append(float(moved.norm() / W.norm()))
        felt.append(float((moved @ fixed).norm() / (W @ fixed).norm()))
    return {"moved": sum(plain) / len(plain), "moved_as_felt": sum(felt) / len(felt)}


def difference(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    """Largest difference of two networks' outputs over the largest output."""
    expected = other(x)
    return float((model(x) - expected).abs().max() / expected.abs().max())

"""Networks that forecast fire from maps and weather: LOAN and its rivals, trained on the same batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import nll_loss

from normviz.experiments.conditional_normalization.fire_world import (
    CHANNELS,
    INSIDE,
    FireWorld,
    Patches,
    dryness_map,
    response_map,
)
from normviz.experiments.conditional_normalization.knobs import MODELS, Knobs
from normviz.experiments.conditional_normalization.recorded import DAYS_SHOWN, PAPER_PARAMETERS
from normviz.frame import Frame, Value
from normviz.norms import LOAN, LOANFireNet
from normviz.training import Diverged, Trainee, interleave
from normviz.training.seeding import seeded

__all__ = ["Forecaster", "best_channel", "build_model", "forecast_fire", "modulation_maps"]

HIDDEN = (64,)
"""Width of the head's hidden layer."""
L2 = 1e-4
"""Weight decay in the gradient, as in the official recipe; theirs is 0.02 for a network 40 times as large."""
PROBED = 64
"""Training patches on which the channel is chosen, and as many test patches on which its γ is judged."""
PICTURES_PER_EPOCH = 4


def forecast_fire(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    """Train every model on every seed's patches, one step each in turn."""
    members: list[Forecaster] = []
    for seed in knobs.seed_range():
        world = FireWorld(knobs, seed, device)
        members += [Forecaster(kind, world, build_model(kind, knobs, seed, device)) for kind in knobs.kinds()]
    yield from interleave(
        members,
        until=knobs.total_steps(),
        evaluate=_evaluate,
        eval_every=max(1, knobs.steps_per_epoch() // PICTURES_PER_EPOCH),
        evaluate_all_first=True,
    )


def build_model(kind: str, knobs: Knobs, seed: int, device: torch.device) -> LOANFireNet:
    """An arm's network; with the same seed LOAN and late fusion start from the same convolutions and head."""
    fusion = kind.removesuffix("_day")
    with seeded(seed):
        net = LOANFireNet(
            *CHANNELS,
            widths=knobs.widths,
            hidden=HIDDEN,
            dropout=0.0,
            fusion=fusion,
            time_encoding=kind.endswith("_day"),
        )
        if net.loan1 is not None and not (knobs.kernel == "3" and knobs.normalize):
            net.loan1 = LOAN(knobs.width, knobs.width, kernel_size=int(knobs.kernel), norm=knobs.normalize)
    return net.to(device)


class Forecaster:
    """One arm with one seed, as :func:`interleave` sees it.

    Args:
        kind: the arm's key in the knobs.
        world: of its seed.
        model: what is trained.
    """

    def __init__(self, kind: str, world: FireWorld, model: LOANFireNet) -> None:
        self.kind, self.world, self.seed = kind, world, world.seed
        self.arm = MODELS[kind]
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=world.knobs.fire_rate, weight_decay=L2)

    def step(self, at: int) -> dict[str, Value]:
        """One update: its loss."""
        batch = self.world.batch(at)
        self.model.train()
        self.optimizer.zero_grad()
        loss = nll_loss(self.log_probs(batch), batch.label)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the training loss is {value}", lost=("loss",))
        return {"loss": value}

    def log_probs(self, patches: Patches) -> Tensor:
        """Log-probabilities of no fire and of fire, (N, 2)."""
        out: Tensor = self.model(patches.dynamic, patches.static, patches.landcover, patches.day)
        return out

    def fire(self, patches: Patches) -> Tensor:
        """Probability of fire, (N,)."""
        return self.log_probs(patches)[:, 1].exp()


@torch.no_grad()
def _evaluate(trainee: Trainee, step: int) -> dict[str, Value] | None:
    """Once an epoch the scores on all test patches; the first seed's maps and forecasts more often."""
    assert isinstance(trainee, Forecaster)
    world, model, knobs = trainee.world, trainee.model, trainee.world.knobs
    model.eval()
    values: dict[str, Value] = {}
    if step % knobs.steps_per_epoch() == 0:
        values |= _scores(trainee)
    if not step and trainee.kind == "loan":
        values["size_difference"] = float(abs(paper_parameters() - PAPER_PARAMETERS))
    if world.seed == knobs.first_seed:
        values |= _pictures(trainee, step)
    return values or None


def _scores(trainee: Forecaster) -> dict[str, Value]:
    """AUROC and loss on the test patches, and how far LOAN's scale follows the true response."""
    test = trainee.world.test
    log_probs = trainee.log_probs(test)
    fire = log_probs[:, 1].cpu().numpy()
    labels = test.label.cpu().numpy()
    values: dict[str, Value] = {"test_loss": float(nll_loss(log_probs, test.label))}
    if 0 < labels.sum() < len(labels) and np.isfinite(fire).all():
        values["auroc"] = float(roc_auc_score(labels, fire))
    if trainee.model.loan1 is not None:
        channel, sign = best_channel(trainee.model, trainee.world.train.at(slice(PROBED)))
        on_test = response_correlations(trainee.model, test.at(slice(PROBED)))
        values["gamma_response"] = float(sign * on_test[channel])
    return values


def paper_parameters() -> int:
    """Trainable parameters of the network at the paper's sizes; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in LOANFireNet().parameters())


def modulation_maps(model: LOANFireNet, patches: Patches) -> tuple[Tensor, Tensor]:
    """Scale and shift of the first LOAN layer, (N, channels, 13, 13) each; in eval mode."""
    assert model.loan1 is not None
    assert model.static_convs is not None
    maps = torch.cat([patches.static, patches.landcover], 1)
    return model.loan1.modulation(model.static_convs[0](maps))


def response_correlations(model: LOANFireNet, patches: Patches) -> NDArray[np.float64]:
    """Correlation of each channel's scale with the true response over all pixels; 0 where one is constant."""
    gamma, _ = modulation_maps(model, patches)
    truth = response_map(patches.landcover)[:, INSIDE, INSIDE].double().flatten()
    found = gamma.double().movedim(1, 0).flatten(1)  # (channels, pixels of all patches)
    truth, found = truth - truth.mean(), found - found.mean(1, keepdim=True)
    size = found.norm(dim=1) * truth.norm()
    ratio = torch.where(size > 0, (found @ truth) / size.clamp(min=1e-300), 0.0)
    values: NDArray[np.float64] = ratio.cpu().numpy()
    return values


def best_channel(model: LOANFireNet, patches: Patches) -> tuple[int, float]:
    """The channel whose scale follows the true response most closely on some patches, and its sign."""
    found = response_correlations(model, patches)
    channel = int(np.abs(found).argmax())
    return channel, 1.0 if found[channel] >= 0 else -1.0


def _pictures(trainee: Forecaster, step: int) -> dict[str, Value]:
    """Maps of three patches, forecasts of a hundred, and the year of the three."""
    world, model = trainee.world, trainee.model
    values: dict[str, Value] = {"forecast": trainee.fire(world.points).cpu().numpy()}
    if not step:
        shown = world.shown
        values["truth"] = world.points.prob.cpu().numpy()
        values["response"] = response_map(shown.landcover)[:, INSIDE, INSIDE].cpu().numpy()
        values["dryness"] = dryness_map(shown.dynamic)[:, INSIDE, INSIDE].cpu().numpy()
        values["danger"] = shown.prob.cpu().numpy()
    if model.loan1 is not None:
        channel, _ = best_channel(model, world.train.at(slice(PROBED)))
        gamma, beta = modulation_maps(model, world.shown)
        values["modulation"] = torch.stack([gamma[:, channel], beta[:, channel]], 1).cpu().numpy()
        values["all_scales"] = gamma[1].cpu().numpy()  # (channels, 13, 13) of the middle patch
    if world.knobs.has_day:
        values["year"] = _year(trainee).cpu().numpy()
        if not step:
            values["true_year"] = world.true_year().cpu().numpy()
    return values


def _year(trainee: Forecaster) -> Tensor:
    """Forecasts of the three patches for the days that are drawn, (3, days)."""
    shown = trainee.world.shown
    days = torch.tensor(DAYS_SHOWN, device=shown.day.device)
    if trainee.model.time is None:
        return trainee.fire(shown)[:, None].expand(-1, len(days))
    repeated = shown.at(torch.arange(len(shown.day), device=days.device).repeat_interleave(len(days)))
    on_days = Patches(
        repeated.dynamic,
        repeated.static,
        repeated.landcover,
        days.repeat(len(shown.day)),
        repeated.label,
        repeated.prob,
    )
    return trainee.fire(on_days).view(len(shown.day), len(days))

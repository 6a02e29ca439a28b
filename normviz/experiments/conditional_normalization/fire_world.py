"""The fire world: patches of land with weather, and whether they burn; a law of ours that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from normviz.experiments.conditional_normalization.knobs import Knobs
from normviz.experiments.conditional_normalization.recorded import DAYS_SHOWN, FORECASTS, TESTED
from normviz.norms import make_synthetic_firecube

__all__ = ["CHANNELS", "INSIDE", "FireWorld", "Patches", "dryness_map", "response_map"]

CHANNELS = (4, 2, 6)
"""Weather variables, static maps, land-cover classes."""
SIZE, DAYS = 15, 8
"""Pixels per side of a patch, days of weather."""
INSIDE = slice(1, SIZE - 1)
"""Pixels that the first convolution keeps, so that maps lie on what it gives."""
HOTTEST = 213
"""The day of the year on which the season adds most."""
DANGER = (0.1, 0.5, 0.9)
"""Shares of the test patches with less danger than the three that are drawn."""


@dataclass(frozen=True, eq=False)
class Patches:
    """Some patches: inputs, day, label and the true probability.

    Args:
        dynamic: weather (N, 4, 8, 15, 15), the latest day first.
        static: maps (N, 2, 15, 15).
        landcover: shares of the classes (N, 6, 15, 15).
        day: (N,), 1 to 366.
        label: (N,), 1 for fire.
        prob: (N,), the true probability of fire.
    """

    dynamic: Tensor
    static: Tensor
    landcover: Tensor
    day: Tensor
    label: Tensor
    prob: Tensor

    def at(self, index: Tensor | slice) -> Patches:
        """Those at some positions."""
        return Patches(
            self.dynamic[index],
            self.static[index],
            self.landcover[index],
            self.day[index],
            self.label[index],
            self.prob[index],
        )


class FireWorld:
    """The patches of one seed: one draw, split into training and test.

    Args:
        knobs: the setting.
        seed: of the draw.
        device: where the tensors lie.
    """

    def __init__(self, knobs: Knobs, seed: int, device: torch.device) -> None:
        cube = make_synthetic_firecube(
            knobs.patches + TESTED,
            seed=seed,
            size=SIZE,
            days=DAYS,
            season=knobs.season,
            response=knobs.response,
            channels=CHANNELS,
            knots=knobs.knots,
            contrast=knobs.contrast,
        )
        drawn = Patches(**{name: values.to(device) for name, values in cube.items()})
        self.knobs, self.seed = knobs, seed
        self.train, self.test = drawn.at(slice(knobs.patches)), drawn.at(slice(knobs.patches, None))
        self.shown = self.test.at(self._shown())
        self.points = self.test.at(slice(FORECASTS))

    def _shown(self) -> Tensor:
        """Test patches at three levels of danger, whatever their day."""
        danger = without_season(self.test.prob, self.test.day, self.knobs.season)
        order = danger.argsort()
        places = [int(share * (len(order) - 1)) for share in DANGER]
        return order[places]

    def batch(self, step: int) -> Patches:
        """The training patches of a step: a fresh order in every epoch, of the seed alone."""
        each = self.knobs.steps_per_epoch()
        epoch, place = divmod(step, each)
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        order = torch.randperm(len(self.train.label), generator=draw)
        index = order[place * len(order) // each : (place + 1) * len(order) // each]
        return self.train.at(index.to(self.train.label.device))

    def true_year(self) -> Tensor:
        """True probability of the three patches on the days that are drawn, (3, days)."""
        base = without_season(self.shown.prob, self.shown.day, self.knobs.season)
        days = torch.tensor(DAYS_SHOWN, device=base.device)
        return (base[:, None] + season_term(days, self.knobs.season)).sigmoid()


def season_term(day: Tensor, season: float) -> Tensor:
    """What the day adds to the logit of fire."""
    return season * 1.5 * (2 * math.pi * (day.double() - HOTTEST) / 366).cos()


def without_season(prob: Tensor, day: Tensor, season: float) -> Tensor:
    """The logit of fire without the day's part; probabilities that are 0 or 1 after rounding stay finite."""
    return prob.double().clamp(1e-9, 1 - 1e-9).logit() - season_term(day, season)


def response_map(landcover: Tensor) -> Tensor:
    """What dryness does at each pixel, from −1 to 1: shares of the classes that burn minus those that do not.

    Args:
        landcover: (N, classes, H, W), the first half of which burns.
    """
    half = landcover.shape[1] // 2
    return landcover[:, :half].sum(1) - landcover[:, half:].sum(1)


def dryness_map(dynamic: Tensor) -> Tensor:
    """Dryness of the latest three days at each pixel (N, H, W), from the weather (N, variables, days, H, W)."""
    return dynamic[:, 0, :3].mean(1) + 0.5

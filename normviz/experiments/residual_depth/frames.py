"""What is trained and taken apart on the page *Residual depth*.

Training: scikit-learn's digits (64 pixels), MNIST-1D, MNIST or own data, Linear(values, width), n branches of two
layers, Linear(width, classes); SGD with momentum 0.9. All methods but Fixup start from the same weights. Fixup's
scalars learn at a tenth of the rate.

Taking apart: no training. A tower of random modules grows; at each depth its expansion is computed in float64 on the
CPU and compared with the tower itself.

Sweep: the plain tower with one scale per arm.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache, partial, reduce
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import vjp
from torch.nn.functional import cross_entropy

from normviz.data import SupervisedData, by_seed, load_rows, seeded_generator
from normviz.experiments.residual_depth.knobs import SMALL, Knobs, arm_name, scaled, sweep_name
from normviz.experiments.residual_depth.recorded import SLOPES
from normviz.frame import Frame, Value
from normviz.probes import GradientNorm, ResidualStream
from normviz.residual import (
    MLPBlock,
    ResidualTower,
    SkipInit,
    build_tower,
    expansion_terms,
    fixup_param_groups,
    geometric_complexity,
    level_contributions,
    remainder_slope,
)
from normviz.training import Arm, Batch, Member, Trainee, interleave, resolve_device, train
from normviz.training.seeding import seeded

__all__ = ["depths", "frames"]

MOMENTUM = 0.9
SNAPSHOTS = 40
"""Measurements of the stream in a run."""
EVALUATIONS = 8
PROBED = 32
"""Held-out examples on which levels and geometric complexity are measured."""
TAKEN_APART = 40
"""Depths at which a growing tower is taken apart."""
CHECK_MODULES, CHECK_WIDTH = 6, 4
"""The tower whose 64 paths are enumerated, and whose remainders are measured, before every run."""
CHECK_SCALES = (0.02, 0.01)
CHECK_ORDER = SLOPES - 1


def frames(knobs: Knobs, device: str = "auto") -> Iterator[Frame]:
    """Train or take apart every arm and yield what the page shows; see :class:`Knobs` for what can be set."""
    where = resolve_device(device)
    first = knobs.shown_arms().names[0]
    for seed in knobs.seed_range():
        yield Frame(0, first, seed)
    for seed in knobs.seed_range():
        yield Frame(0, first, seed, theorem_values(seed))
    if knobs.task == "expansion":
        yield from _taken_apart(knobs)
    else:
        yield from _trained(knobs, where)


# ---------------------------------------------------------------------------------------------------- the theorem


def theorem_values(seed: int) -> dict[str, Value]:
    """Two checks of the theorem on small towers in float64.

    ``theorem/level_error``: greatest relative difference between a level of six affine modules and the sum over all its
    paths, enumerated. ``theorem/slope_error``: greatest distance from K + 1 of the power of lambda with which the
    expansion up to level K misses a tower of six tanh branches, K = 0..4.
    """
    with seeded(seed):
        affine = [nn.Linear(CHECK_WIDTH, CHECK_WIDTH).double() for _ in range(CHECK_MODULES)]
        curved = [MLPBlock(CHECK_WIDTH, activation="tanh").double() for _ in range(CHECK_MODULES)]
        x = torch.randn(3, CHECK_WIDTH, dtype=torch.float64)
    with torch.no_grad():
        levels = expansion_terms(ResidualTower(affine), x, CHECK_MODULES, "linear")
        errors = [
            float((level - _all_paths(affine, x, k)).norm() / level.norm()) for k, level in enumerate(levels)
        ]
    tower = ResidualTower(curved)
    slopes = [remainder_slope(tower, x, K, CHECK_SCALES) for K in range(CHECK_ORDER + 1)]
    return {
        "theorem/level_error": max(errors),
        "theorem/slope_error": max(abs(slope - K - 1) for K, slope in enumerate(slopes)),
    }


def _all_paths(modules: list[nn.Linear], x: Tensor, k: int) -> Tensor:
    """The sum over every choice of k modules, one path after the other."""
    if k == 0:
        return x
    paths = itertools.combinations(modules, k)
    return torch.stack([reduce(lambda h, m: h @ m.weight.T, path[1:], path[0](x)) for path in paths]).sum(0)


# ---------------------------------------------------------------------------------------------------- training


def _trained(knobs: Knobs, device: torch.device) -> Iterator[Frame]:
    data = cache(lambda seed: load_rows(knobs.data_name(), seed=seed).to(device))
    some = data(knobs.first_seed)
    batch_size = min(knobs.batch_size, len(some.x_train))
    yield from train(
        _arms(knobs, some),
        knobs.seed_range(),
        batches=by_seed(lambda seed: data(seed).train_batches(batch_size)),
        steps=knobs.steps,
        device=device,
        probes=[
            ResidualStream(_points, max(1, knobs.steps // SNAPSHOTS)),
            GradientNorm(max(1, knobs.steps // SNAPSHOTS)),
        ],
        evaluate=partial(_evaluate, data=data, order=min(knobs.order, knobs.depth)),
        eval_every=max(5, knobs.steps // EVALUATIONS),
    )


def _arms(knobs: Knobs, data: SupervisedData) -> list[Arm]:
    if knobs.task == "sweep":
        rate = float(knobs.learning_rates[0])
        return [_arm(sweep_name(lam), "plain", rate, knobs, data, lam) for lam in knobs.lambdas()]
    return [
        _arm(arm_name(method, knobs.rate_suffix(rate)), method, float(rate), knobs, data)
        for rate in knobs.learning_rates
        for method in knobs.methods
    ]


def _arm(
    name: str, method: str, rate: float, knobs: Knobs, data: SupervisedData, lam: float | None = None
) -> Arm:
    fixed = knobs.scale if method == "custom" else lam

    def model() -> nn.Module:
        tower = build_tower(
            knobs.depth,
            dim=knobs.width,
            method="plain" if method == "custom" else method,
            activation=knobs.activation,
            in_dim=data.input_shape[0],
            num_classes=data.num_classes,
            seed=torch.initial_seed(),
        )
        if fixed is not None:
            tower.scales.fill_(fixed)
        return tower

    optimizer = partial(torch.optim.SGD, lr=rate, momentum=MOMENTUM)

    def slow_scalars(member: Member) -> None:
        member.optimizer = torch.optim.SGD(fixup_param_groups(member.model, rate), lr=rate, momentum=MOMENTUM)

    return Arm(name, model, optimizer, _loss, prepare=slow_scalars if method == "fixup" else None)


def _loss(call: Callable[..., Tensor], batch: Batch) -> Tensor:
    pixels, labels = batch
    return cross_entropy(call(pixels), labels)


def _points(model: nn.Module) -> list[nn.Module]:
    """The modules whose inputs are the stream h_0..h_n."""
    assert isinstance(model, ResidualTower)
    assert model.decoder is not None
    return [*model.blocks, model.decoder]


def _evaluate(member: Member, *, data: Callable[[int], SupervisedData], order: int) -> Mapping[str, Value]:
    tower, held_out = member.model, data(member.seed)
    assert isinstance(tower, ResidualTower)
    probed = held_out.x_test[:PROBED]
    values: dict[str, Value] = {}
    with torch.no_grad(), _kinks_known():
        # Batch norms use the batch here, as in training: their running statistics mean nothing at the start.
        levels = level_contributions(tower, probed, order)
        values["levels"] = (levels / levels[0]).cpu().numpy()
    tower.eval()
    with torch.no_grad():
        logits = tower(held_out.x_test)
    values["validation_loss"] = float(cross_entropy(logits, held_out.y_test))
    values["validation_accuracy"] = 100 * float((logits.argmax(-1) == held_out.y_test).float().mean())
    if _statistics_known(tower):
        values["complexity"] = float(geometric_complexity(tower, probed).detach())
    tower.train()
    if isinstance(tower.blocks[0], SkipInit):
        values["alphas"] = np.array([float(block.get_parameter("alpha").detach()) for block in tower.blocks])
    return values


def _statistics_known(tower: ResidualTower) -> bool:
    """Whether batch norms, if there are any, have seen a batch."""
    seen = [b for name, b in tower.named_buffers() if name.endswith("num_batches_tracked")]
    return all(bool(b > 0) for b in seen)


@contextmanager
def _kinks_known() -> Iterator[None]:
    """The page says that a ReLU's expansion is that of its affine piece."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a module has a kink")
        yield


# ---------------------------------------------------------------------------------------------------- taking apart


def depths(depth: int) -> list[int]:
    """Depths at which a growing tower is taken apart, the first and the last among them."""
    return sorted({round(float(n)) for n in np.linspace(1, depth, TAKEN_APART)})


def _taken_apart(knobs: Knobs) -> Iterator[Frame]:
    seen = [
        _Seen(tower, method)
        for tower in (_Growing(knobs, s) for s in knobs.seed_range())
        for method in (*scaled(knobs), "")
    ]
    yield from (Frame(0, one.arm, one.seed) for one in seen)
    yield from interleave(seen, until=knobs.depth + 1, stride=_stride, progress=knobs.progress())


def _stride(trainee: Trainee) -> int:
    assert isinstance(trainee, _Seen)
    return trainee.stride


class _Seen:
    """A growing tower seen with the scale of one method: a step looks at it, then stacks modules up to the next depth.

    Args:
        tower: shared by all methods of a seed.
        method: a method that is nothing but a scale; "" for the arm of the scale that goes to 0.
    """

    def __init__(self, tower: _Growing, method: str) -> None:
        self.arm, self.seed = arm_name(method) if method else SMALL, tower.seed
        self.stride = 1
        self._tower, self._method = tower, method

    def step(self, at: int) -> Mapping[str, Value]:
        """What the tower of ``at`` modules is made of; before the first, how large its modules are."""
        tower, knobs = self._tower, self._tower.knobs
        self.stride = next((n for n in depths(knobs.depth) if n > at), at + 1) - at
        if not self._method:
            return {"slopes": tower.slopes()} if at == knobs.depth else {}
        if at == 0:
            return tower.module_sizes() if self._method == scaled(knobs)[0] else {}
        return tower.compare(at, self._method, tower.levels(at))


class _Growing:
    """A tower of random modules around random inputs, looked at depth by depth."""

    def __init__(self, knobs: Knobs, seed: int) -> None:
        self.knobs = knobs
        with seeded(seed):
            count = 1 if knobs.tied else knobs.depth
            modules = [self._module().double() for _ in range(count)]
            self.modules = modules * knobs.depth if knobs.tied else modules
            self.x = torch.randn(PROBED, knobs.width, dtype=torch.float64)
        self.growth: dict[str, list[float]] = {}
        self.seed = seed
        self.levels = lru_cache(maxsize=1)(self._levels)

    def _module(self) -> nn.Module:
        width = self.knobs.width
        if self.knobs.modules == "branches":
            return MLPBlock(width, activation=self.knobs.activation)
        linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(linear.weight, std=width**-0.5)
        return linear

    def module_sizes(self) -> dict[str, Value]:
        """``module/power``: mean |f_i(x)|^2 / |x|^2; ``module/gain``: mean |J_i' v|^2 / |v|^2 over directions v."""
        v = torch.randn(self.x.shape, dtype=torch.float64, generator=seeded_generator(self.seed, 2))
        powers, gains = [], []
        for module in self.modules:
            f, pulled_back = cast("tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]", vjp(module, self.x))
            (moved,) = pulled_back(v)
            powers.append(float((f.detach().square().sum(1) / self.x.square().sum(1)).mean()))
            gains.append(float((moved.detach().square().sum(1) / v.square().sum(1)).mean()))
        return {"module/power": float(np.mean(powers)), "module/gain": float(np.mean(gains))}

    def _levels(self, n: int) -> Tensor:
        """T_0..T_K of the first n modules, (K+1, B, d)."""
        method = "linear" if self.knobs.modules == "linear" else "jet"
        with torch.no_grad(), _kinks_known():
            return expansion_terms(ResidualTower(self.modules[:n]), self.x, self.knobs.order, method)

    def compare(self, n: int, method: str, terms: Tensor) -> dict[str, Value]:
        """Sizes of the levels, error of the sum up to each, growth of the stream, with the scale of a method."""
        lam = self.knobs.scale_of(method, n)
        with torch.no_grad():
            h = ResidualTower(self.modules[:n], lam).features(self.x)[-1]
            powers = torch.tensor([lam**k for k in range(len(terms))], dtype=torch.float64)
            scaled_terms = powers[:, None, None] * terms  # (K+1, B, d)
            sizes = scaled_terms.norm(dim=2).mean(1)
            errors = (h - scaled_terms.cumsum(0)).flatten(1).norm(dim=1) / h.norm()
            growth = self.growth.setdefault(method, [])
            growth.append(float(h.square().sum(1).mean() / self.x.square().sum(1).mean()) ** 0.5)
        return {
            "levels": (sizes / sizes[0]).numpy(),
            "truncation": errors.numpy(),
            "growth": np.array(growth),
        }

    def slopes(self) -> NDArray[np.float32]:
        """Power of lambda of the remainder after level K = 0, 1, …, for n lambda = 0.12 and 0.06."""
        tower = ResidualTower(self.modules)
        scales = [CHECK_MODULES * lam / self.knobs.depth for lam in CHECK_SCALES]
        with _kinks_known():
            return np.array(
                [
                    remainder_slope(tower, self.x, K, scales)
                    for K in range(min(CHECK_ORDER, self.knobs.order) + 1)
                ],
                dtype=np.float32,
            )

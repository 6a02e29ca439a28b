"""The arms of the page *Optimizer spectra*: one optimizer for the weight matrices, the same AdamW for everything else.

Every arm gets its matrices from :func:`normviz.optim.split_matrix_params`; decay is off in all of them, so that they
differ in nothing but what they do to a matrix gradient. :class:`Watched` makes one optimizer of the two, measures the
time of each step and lets :class:`~normviz.probes.UpdateSpectrum` record what was applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from normviz.experiments.optimizer_spectra.knobs import Knobs
from normviz.experiments.optimizer_spectra.lora import AdapterSpectrum
from normviz.frame import Value
from normviz.optim import (
    SOAP,
    SWAN,
    Conda,
    FiraAdamW,
    GaLoreAdamW,
    MultiNormGD,
    Muon,
    NorMuon,
    RowNorm,
    SinkGD,
    SpectralNorm,
    SWANFast,
)
from normviz.probes import UpdateRecord, UpdateSpectrum

__all__ = ["REST_RATE", "Watched", "matrix_optimizer", "state_formula"]

REST_RATE = 3e-3
"""Learning rate of the AdamW that steps embeddings, output layer, biases and gains in every arm."""

ALPHA = 0.05
"""SinkGD's and SWAN's factor on the learning rate of matrices, also for SWAN's two operators alone."""

ONCE = 1_000_000
"""Steps between two bases of the Conda that never renews its own: more than any run has."""

SPIKE = 20.0
"""What a bad batch's gradient is multiplied with."""


def matrix_optimizer(name: str, matrices: Sequence[Tensor], rate: float, knobs: Knobs) -> Optimizer:
    """The optimizer called ``name`` over ``matrices`` with learning rate ``rate`` and no weight decay.

    For "lora" the matrices are the factors of the adapters (:func:`.lora.adapted`).
    """
    params = list(matrices)
    low_rank = [
        {
            "params": params,
            "rank": min(knobs.rank, *(min(p.shape) for p in params)),
            "update_proj_gap": knobs.gap,
            "alpha": knobs.alpha,
        }
    ]

    def conda(gap: int) -> Optimizer:
        return Conda([{"params": params, "update_proj_gap": gap, "scale": knobs.alpha}], rate)

    builders: dict[str, Callable[[], Optimizer]] = {
        "sgd": lambda: SGD(params, rate),
        "adamw": lambda: AdamW(params, rate, weight_decay=0.0),
        "muon": lambda: Muon(
            params,
            rate,
            weight_decay=0.0,
            momentum=knobs.momentum,
            ns_steps=knobs.ns_steps,
            ns_dtype=torch.float32,
        ),
        "normuon": lambda: NorMuon(
            params,
            rate,
            momentum=knobs.momentum,
            beta2=knobs.beta2,
            ns_steps=knobs.ns_steps,
            scale=knobs.scale,
            ns_dtype=torch.float32,
        ),
        "sinkgd": lambda: SinkGD(params, rate, iters=knobs.sweeps, alpha=ALPHA),
        "swan": lambda: (SWANFast if knobs.swan_scheme == "diagonal" else SWAN)(params, rate, alpha=ALPHA),
        "conda": lambda: conda(knobs.gap),
        "conda_once": lambda: conda(ONCE),
        "adafactor": lambda: Adafactor(params, rate, weight_decay=0.0),
        "soap": lambda: SOAP(params, rate, weight_decay=0.0),
        "lora": lambda: AdamW(params, rate, weight_decay=0.0),
        "galore": lambda: GaLoreAdamW(low_rank, rate),
        "fira": lambda: FiraAdamW(low_rank, rate, gamma=knobs.gamma),
        "fira_free": lambda: FiraAdamW(low_rank, rate, gamma=None),
        "gradnorm": lambda: MultiNormGD(params, rate * ALPHA, norms=(RowNorm(),)),
        "whitening": lambda: MultiNormGD(params, rate * ALPHA, norms=(SpectralNorm(),)),
    }
    return builders[name]()


def state_formula(name: str, shapes: Sequence[tuple[int, int]], rank: int) -> int:
    """Numbers that an optimizer keeps for matrices of these shapes, by the papers' formulas.

    Torch's AdamW and Adafactor also keep one counter for each matrix, Fira one norm. LoRA's are the moments of its two
    factors; the factors themselves count as weights.
    """
    total = 0
    for m, n in shapes:
        short, long = min(m, n), max(m, n)
        r = min(rank, short)
        low_rank = 2 * r * long + r * short
        total += {
            "adamw": 2 * m * n + 1,
            "muon": m * n,
            "normuon": m * n + m,
            "conda": 2 * m * n + short * short,
            "conda_once": 2 * m * n + short * short,
            "adafactor": m + n + 1,
            "soap": 2 * (m * n + m * m + n * n),
            "lora": 2 * r * (m + n) + 2,
            "galore": low_rank,
            "fira": low_rank + 1,
            "fira_free": low_rank + 1,
        }.get(name, 0)
    return total


class Watched(Optimizer):
    """Two optimizers as one, timed; the updates of the matrices in ``watched`` are recorded when armed.

    Attributes:
        after: called after each step, while the gradients are there, outside of the measured time.
        measures: called so after an armed step; what they return is kept in ``measured``.
        seconds: time of the steps of both optimizers since it was last set to zero.
        overhead: time of everything else in :meth:`step`.

    Args:
        matrix: steps the matrices.
        rest: steps everything else; None if there is nothing else.
        watched: matrices whose updates are recorded, by name; or what records those of an adapter.
        spike: the step whose gradients are multiplied by 20; -1: none.
    """

    def __init__(
        self,
        matrix: Optimizer,
        rest: Optimizer | None,
        watched: Mapping[str, Tensor] | AdapterSpectrum,
        spike: int = -1,
    ) -> None:
        # The groups themselves are shared: a schedule over this optimizer moves both.
        super().__init__([*matrix.param_groups, *(rest.param_groups if rest else [])], {})
        self.matrix, self.rest = matrix, rest
        self.spectrum = watched if isinstance(watched, AdapterSpectrum) else UpdateSpectrum(matrix, watched)
        self.after: list[Callable[[], None]] = []
        self.measures: list[Callable[[], Mapping[str, Value]]] = []
        self.measured: dict[str, Value] = {}
        self.count, self.spike = 0, spike
        self.asynchronous = self.param_groups[0]["params"][0].is_cuda
        self.seconds = 0.0
        self.overhead = 0.0

    def arm(self) -> None:
        """Record the next step."""
        self.spectrum.arm()

    @property
    def records(self) -> dict[str, UpdateRecord]:
        """What the last armed step did to the watched matrices."""
        return self.spectrum.read()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One timed step of both; what is called in ``after`` runs outside the measured time."""
        begun, armed = time.perf_counter(), self.spectrum.armed
        if self.count == self.spike:
            torch._foreach_mul_(
                [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None], SPIKE
            )
        self.count += 1
        started = self._now()
        self.matrix.step()
        if self.rest is not None:
            self.rest.step()
        ended = self._now()
        for call in self.after:
            call()
        if armed:
            self.measured = {name: value for call in self.measures for name, value in call().items()}
        self.seconds += ended - started
        self.overhead += time.perf_counter() - begun - (ended - started)

    def _now(self) -> float:
        if self.asynchronous:
            torch.cuda.synchronize()
        return time.perf_counter()

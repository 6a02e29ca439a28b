"""A norm whose warm-up a run never leaves says so, once, when it is evaluated."""

from __future__ import annotations

import warnings
from typing import Self

from torch import Tensor, nn

__all__ = ["WarmUpNotice"]

TRAINED = 100
"""A layer counts as trained from 1/100 of its warm-up on; before, there is nothing to evaluate yet."""


class WarmUpNotice(nn.Module):
    """Base of norms with ``iters`` training steps behind them and a warm-up of ``warmup_iters`` steps.

    The first switch to eval mode within the paper's warm-up warns. A warm-up that the caller set to another length is
    taken as meant.
    """

    iters: Tensor
    warmup_iters: int
    paper_warmup: int
    _noticed = False

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode, as ``nn.Module.train``.

        Warns:
            UserWarning: the first time that a trained layer is evaluated within the warm-up that is the default.
        """
        if self.training and not mode and not self._noticed and self.warmup_iters == self.paper_warmup:
            self._notice()
        return super().train(mode)

    def _notice(self) -> None:
        iters = self.iters
        if iters.is_meta or iters.ndim:  # no values; stacked members
            return
        steps = int(iters)
        if self.warmup_iters <= TRAINED * steps and steps < self.warmup_iters:
            self._noticed = True
            name = type(self).__name__
            warnings.warn(
                f"{name} is evaluated after {steps} training steps, within its warm-up of {self.warmup_iters}, which "
                "is the paper's for long runs: so far it has trained as a norm with batch statistics, which is not yet "
                "the method. Give a warmup_iters that the run leaves, such as a tenth of its steps.",
                UserWarning,
                stacklevel=2,
            )

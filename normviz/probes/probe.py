"""The probe protocol: what is measured around one training step of one network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from normviz.frame import Value

__all__ = ["Probe"]


class Probe:
    """Base of the probes: override :meth:`forward`, :meth:`gradients` or both.

    Args:
        every: the probe measures at steps 0, every, 2 every, …

    Raises:
        ValueError: ``every`` is smaller than 1.

    Reference: none, no paper.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be an integer >= 1, got {every!r}.")
        self.every = every

    @contextmanager
    def forward(self, model: nn.Module, values: dict[str, Value]) -> Iterator[None]:  # noqa: ARG002
        """Watch the forward pass that runs inside the context; on leaving, put what was measured into ``values``."""
        yield

    def gradients(self, model: nn.Module) -> Mapping[str, Value]:  # noqa: ARG002
        """Measure the gradients after the backward pass, before the optimizer's step."""
        return {}

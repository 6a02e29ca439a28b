"""What one kind of trouble came to: how often it was tried, and every time that it did harm."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Trial"]


@dataclass
class Trial:
    """The account of one kind of trouble.

    Attributes:
        name: what was done.
        tried: how often.
        failures: a sentence for each time that something broke.
        measured: what else is worth knowing, e.g. how much was lost.
    """

    name: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    measured: str = ""

    def expect(self, good: bool, otherwise: str) -> None:
        """Note a failure unless ``good``."""
        if not good:
            self.failures.append(otherwise)

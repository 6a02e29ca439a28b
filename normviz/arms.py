"""Arms: the variants that an experiment compares, and how each looks on every chart.

An experiment declares its arms once (:class:`Arms`); every chart, the page's legend and the verdicts read them. A look
is three small numbers: a colour slot, a dash and a symbol. The slots stand for colours that are distinguishable with
every common colour-vision deficiency (:mod:`normviz.figures.palette`); dash and symbol tell arms apart without colour.

Arms that are a product (a layer and a batch size, say) have a base and a variant: the colour says the base, the dash
and the symbol say the variant, and the legend has a short list of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from normviz.validation import nearest

__all__ = ["COLOURS", "DASHES", "SYMBOLS", "Arms", "Look"]

COLOURS, DASHES, SYMBOLS = 10, 6, 8
"""How many different colours, dashes and symbols there are; a higher number starts again from the first."""


@dataclass(frozen=True)
class Look:
    """One arm's name and look.

    Args:
        name: as in the frames and on every chart.
        colour: colour slot.
        dash: dash slot; 0 is a solid line.
        symbol: symbol slot; 0 is a circle.
        base: what the colour stands for, in the legend; default: the name.
        variant: what the dash stands for, in the legend ("" where the arm is no product).
    """

    name: str
    colour: int
    dash: int
    symbol: int
    base: str = ""
    variant: str = ""


@dataclass(frozen=True)
class Arms:
    """The arms of a setting in the order of the legend; hashable, so that chart specifications can be kept.

    Args:
        looks: one for each arm, names different.

    Raises:
        ValueError: two arms have one name.
    """

    looks: tuple[Look, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.looks):
            raise ValueError(f"arms must have different names, got {', '.join(self.names)}.")

    @classmethod
    def of(cls, colours: Mapping[str, int] | Iterable[str]) -> Arms:
        """Arms with these colour slots (without a mapping: 0, 1, 2, …); dash and symbol follow the slot."""
        slots = colours if isinstance(colours, Mapping) else {name: i for i, name in enumerate(colours)}
        return cls(tuple(Look(name, s, s % DASHES, s % SYMBOLS) for name, s in slots.items()))

    @classmethod
    def product(cls, bases: Mapping[str, int], variants: Mapping[str, str]) -> Arms:
        """Every base with every variant: the colour says the base, dash and symbol say the variant.

        Args:
            bases: colour slot by name.
            variants: what is appended to the base's name (``""`` for none), with the legend's word for it.
        """
        looks = (
            Look(base + end, slot, i % DASHES, i % SYMBOLS, base, word)
            for i, (end, word) in enumerate(variants.items())
            for base, slot in bases.items()
        )
        return cls(tuple(looks))

    @property
    def names(self) -> tuple[str, ...]:
        """The names in order."""
        return tuple(look.name for look in self.looks)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.looks)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Look:
        """The look of an arm.

        Raises:
            KeyError: there is no such arm; the message has the nearest names.
        """
        for look in self.looks:
            if look.name == name:
                return look
        raise KeyError(
            f"There is no arm {name!r}. Nearest: {', '.join(nearest(name, self.names)) or 'none'}."
        )

    def __add__(self, other: Arms) -> Arms:
        """Both, in this order; an arm that both have keeps its first look."""
        return Arms((*self.looks, *(look for look in other.looks if look.name not in self.names)))

    def only(self, names: Iterable[str]) -> Arms:
        """The arms among these names, in the order of this list."""
        wanted = set(names)
        return Arms(tuple(look for look in self.looks if look.name in wanted))

    def ordered(self, names: Iterable[str]) -> Arms:
        """The arms of these names, in the order of the names.

        Raises:
            KeyError: a name is no arm.
        """
        return Arms(tuple(self[name] for name in names))

    def with_endings(self, endings: Iterable[str]) -> Arms:
        """For each arm its quantities, named by what is appended (``""``, ``", bound"``): one colour, other dashes."""
        listed = tuple(endings)
        looks = (
            Look(look.name + end, look.colour, (look.dash + i) % DASHES, look.symbol, look.base, look.variant)
            for look in self.looks
            for i, end in enumerate(listed)
        )
        return Arms(tuple(looks))

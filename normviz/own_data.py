"""Knobs of pages whose classifiers take rows of numbers: a reader's own table, or own images pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from normviz import knob_fields
from normviz.digit_sources import digit_source
from normviz.knobs import Knobs
from normviz.own_images import ImagesUploadError, missing_images, read_images
from normviz.own_tables import TableUploadError, missing_table, read_table
from normviz.uploads import own_fields

__all__ = ["IMAGE_SIDE", "OwnDataKnobs", "OwnSize"]

IMAGE_SIDE = 28
"""Pixels of a side."""


@dataclass(frozen=True)
class OwnSize:
    """How large a reader's own data are, for estimates of work.

    Attributes:
        examples: for training and testing together.
        values: numbers of one example.
    """

    examples: int
    values: int

    @property
    def tested(self) -> int:
        """Examples that are held out: a quarter."""
        return self.examples // 4


class OwnDataKnobs(Knobs):
    """Base of knobs with a choice ``data`` of which "own" is one: a table with its target, or images.

    Subclasses declare ``data``, and answer :meth:`missing_own` where it is "own".
    """

    if TYPE_CHECKING:  # no field here: it would come before those of the page
        data: str

    own_task: ClassVar[str] = ""
    """The task that a file means where none is given; "" if the page has no such choice."""

    own_table: str = knob_fields.own_table()
    target: str = knob_fields.target()
    own_images: str = knob_fields.own_images()

    @model_validator(mode="before")
    @classmethod
    def _own(cls, values: Any) -> Any:
        values = own_fields(values, "own_table", "target", "own_images")
        brought = isinstance(values, Mapping) and (values.get("own_table") or values.get("own_images"))
        if brought and cls.own_task and "task" not in values:
            return {**values, "task": cls.own_task}
        return values

    def missing_own(self) -> str:
        """Why no run can train on the reader's data, in a sentence; empty if one can. Images go before a table."""
        if self.own_images:
            return missing_images(self.own_images)
        if self.own_table:
            return missing_table(self.own_table, self.target)
        return "Bring a CSV table to train on, or a zip of images with one folder per class."

    def data_name(self) -> str:
        """What :func:`normviz.data.load_rows` loads: the built-in data, or the reader's own."""
        if self.data != "own":
            return self.data
        return self.own_images or f"{self.own_table}/{self.target}"

    def cost(self, costs: Mapping[str, float]) -> float:
        """What a sample costs: the reader's own by its values, between those of 8 x 8 digits and of MNIST, or beyond.

        Args:
            costs: of the built-in data, by name.
        """
        if self.data != "own":
            return costs[self.data]
        least, most = (digit_source(name).values for name in ("digits", "mnist"))
        share = max(0.0, (self.own_size().values - least) / (most - least))
        return costs["digits"] + share * (costs["mnist"] - costs["digits"])

    def own_size(self) -> OwnSize:
        """How large the reader's data are; a thousand examples of 100 values where they are not here."""
        try:
            if self.own_images:
                return OwnSize(len(read_images(self.own_images).labels), IMAGE_SIDE**2)
            task = read_table(self.own_table).task(self.target)
        except (ImagesUploadError, TableUploadError):
            return OwnSize(1_000, 100)
        return OwnSize(len(task.labels), len(task.input_names))

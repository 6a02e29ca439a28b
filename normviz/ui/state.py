"""The session keys of a page in one place: what a visitor's tab remembers between two runs of the script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from normviz.knobs import Knobs, Rejection

__all__ = ["PageState"]


@dataclass
class PageState:
    """What one tab remembers of one page.

    Keys of widgets (:meth:`knob`, :attr:`device`, :meth:`moment`, …) belong to Streamlit while the widget is drawn; the
    others are this project's own.

    Args:
        slug: of the page.
    """

    slug: str

    def _get(self, name: str, default: Any = None) -> Any:
        return st.session_state.get(f"{self.slug}/{name}", default)

    def _set(self, name: str, value: Any) -> None:
        st.session_state[f"{self.slug}/{name}"] = value

    # -- keys of widgets -------------------------------------------------------------------------------------------

    def knob(self, name: str) -> str:
        """Key of a knob's widget."""
        return f"{self.slug}/knob/{name}"

    @property
    def device(self) -> str:
        """Key of the choice of the device."""
        return f"{self.slug}/device"

    def moment(self, run_id: str) -> str:
        """Key of the slider of the moment: a new run has a new slider, which stands at the newest."""
        return f"{self.slug}/moment/{run_id}"

    @property
    def preset(self) -> str:
        """Key of the presets' pills."""
        return f"{self.slug}/preset"

    @property
    def focus(self) -> str:
        """Key of the legend's pills."""
        return f"{self.slug}/focus"

    @property
    def focus_variants(self) -> str:
        """Key of the legend's second list, where the arms are a product."""
        return f"{self.slug}/focus/variants"

    @property
    def tabs(self) -> str:
        """Key of the tabs."""
        return f"{self.slug}/tabs"

    # -- own values ------------------------------------------------------------------------------------------------

    @property
    def run(self) -> dict[str, Any] | None:
        """The run shown: its ``id``, the ``key`` of its setting, and ``loaded`` if it comes from the store."""
        value: dict[str, Any] | None = self._get("run")
        return value

    @run.setter
    def run(self, value: dict[str, Any]) -> None:
        self._set("run", value)

    @property
    def knobs(self) -> Knobs | None:
        """The newest knobs that were allowed."""
        value: Knobs | None = self._get("knobs")
        return value

    @knobs.setter
    def knobs(self, value: Knobs) -> None:
        self._set("knobs", value)

    @property
    def refused(self) -> list[str]:
        """Sentences about the parts of the link that were not used."""
        value: list[str] = self._get("refused", [])
        return value

    @refused.setter
    def refused(self, value: list[str]) -> None:
        self._set("refused", value)

    @property
    def opened(self) -> bool:
        """Whether the page was drawn once in this tab."""
        return bool(self._get("opened", False))

    @opened.setter
    def opened(self, value: bool) -> None:
        self._set("opened", value)

    @property
    def resend(self) -> bool:
        """Whether widget values must be sent again because the browser may not have drawn them."""
        return bool(self._get("resend", False))

    @resend.setter
    def resend(self, value: bool) -> None:
        self._set("resend", value)

    @property
    def playing(self) -> bool:
        """Whether the moment moves on by itself."""
        return bool(self._get("playing", False))

    @playing.setter
    def playing(self, value: bool) -> None:
        self._set("playing", value)

    @property
    def adding_seeds(self) -> bool:
        """Whether the run goes on with more seeds until its claims are decided."""
        return bool(self._get("adding seeds", False))

    @adding_seeds.setter
    def adding_seeds(self, value: bool) -> None:
        self._set("adding seeds", value)

    def refuse(self, rejections: list[Rejection]) -> None:
        """Remember what of a link was not used."""
        self.refused = [rejection.sentence for rejection in rejections]

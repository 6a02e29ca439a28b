"""Charts of the game of twenty questions: what the policy believes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from normviz.adaptive.animal_table import ANIMALS
from normviz.arms import Arms, Look
from normviz.experiments.active_learning.question_game import Asker
from normviz.figures import Figure
from normviz.figures.encodings import arm_colour
from normviz.figures.scales import Span, across
from normviz.figures.vega import specification

__all__ = ["belief_figure"]


def belief_figure(players: dict[str, Asker]) -> Figure:
    """A bar per animal and player: how probable it is after the answers so far."""
    data = pd.concat(
        [
            pd.DataFrame({"arm": name, "animal": ANIMALS, "belief": (100 * player.belief()).round(2)})
            for name, player in players.items()
        ],
        ignore_index=True,
    )
    told = "; ".join(
        f"{name}: {ANIMALS[int(np.argmax(player.belief()))]} {100 * player.belief().max():.0f} %"
        for name, player in players.items()
    )
    return Figure(
        "What the answers say",
        "Which animals are left, and how surely?",
        f"Bars of the probability of each animal. Likeliest: {told}.",
        spec=_spec(tuple(players)),
        data=data,
    )


@lru_cache(maxsize=8)
def _spec(players: tuple[str, ...]) -> dict[str, Any]:
    looks = Arms(tuple(Look(name, (0, 1)[i % 2], 0, 0) for i, name in enumerate(players)))
    legend = alt.Legend(orient="top", title=None) if len(players) > 1 else None
    bars = (
        alt.Chart()
        .mark_bar()
        .encode(
            x=across("belief", "probability (%)", Span(0.0, 100.0), grid=True),
            y=alt.Y(
                "animal:N", title=None, sort=list(ANIMALS), axis=alt.Axis(labelOverlap=False, ticks=False)
            ),
            color=arm_colour(looks, legend=legend),
            tooltip=[
                alt.Tooltip("arm:N", title="after the questions of"),
                alt.Tooltip("animal:N"),
                alt.Tooltip("belief:Q", title="probability (%)", format=".1f"),
            ],
        )
        .properties(height=330)
    )
    if len(players) > 1:
        bars = bars.encode(yOffset=alt.YOffset("arm:N", sort=list(players)))
    return specification(bars)

"""What the frames hold beside numbers: layers, shares and methods in an order that running and charts share."""

from __future__ import annotations

__all__ = ["HIDDEN", "JUDGED_SHARES", "LAYERS", "METHODS", "SHARES", "SOURCES", "SPECTRA", "TOGETHER"]

HIDDEN, CLASSES = 128, 10
"""Hidden units and classes of the network, which has as many inputs as a digit has values: 64-128-128-10."""

TOGETHER = {"digits": 2, "mnist1d": 2, "mnist": 28}
"""Neighbouring values whose mean stands for them on the map of a covariance; on MNIST they are a row of pixels."""

LAYERS = ("blocks.0.linear", "blocks.1.linear")
"""The linear layers that get an adapter: all but the head."""

METHODS = ("corda", "asvd", "svd")
"""Decompositions that are cut off, in the order of the recorded rows."""

SHARES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
"""Shares of each layer's components that are discarded."""

JUDGED_SHARES = (0.8, 0.85, 0.9, 0.95)
"""Those at which the paper's order is judged. Below them this network does not notice."""

SOURCES = ("first task", "new task", "noise")
"""Where calibration samples come from, in the order of the recorded covariances."""

SPECTRA = ("W", "W C, first task", "W C, new task")
"""Matrices whose singular values are recorded, in the order of the rows."""

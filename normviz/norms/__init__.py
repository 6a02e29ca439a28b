"""Normalization layers, one file per paper or concept."""

from normviz.norms.fusion import FoldableNorm, fuse_into_linear

__all__ = [
    "FoldableNorm",
    "fuse_into_linear",
]

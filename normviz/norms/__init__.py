"""Normalization layers, one file per paper or concept."""

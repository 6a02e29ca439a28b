"""Optimizers, one file per paper or concept."""

"""Residual towers and their expansion, one file per paper or concept."""

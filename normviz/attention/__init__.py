"""Attention mechanisms, one file per paper or concept."""

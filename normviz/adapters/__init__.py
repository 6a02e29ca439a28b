"""Adapters, one file per paper or concept."""

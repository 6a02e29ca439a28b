"""Decoding, one file per paper or concept."""

"""Adaptive data analysis and active learning, one file per paper or concept."""

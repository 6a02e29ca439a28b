"""Effective learning rate: why a normalized network learns ever more slowly, and what projection changes."""

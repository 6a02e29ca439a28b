"""Federated learning, one file per paper or concept."""

"""Measurements on activations, gradients, updates and attention maps, one file per paper or concept."""

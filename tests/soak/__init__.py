"""Faults and load, again and again: what was tried, and what failed. ``make soak`` runs it whole, a test in short."""

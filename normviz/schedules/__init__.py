"""Learning-rate and batch-size schedules, one file per paper or concept."""

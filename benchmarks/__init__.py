"""What is timed, as ratios in one run; nothing here passes or fails."""

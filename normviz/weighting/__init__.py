"""Sample reweighting and reward normalization, one file per paper or concept."""

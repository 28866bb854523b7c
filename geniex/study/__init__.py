"""Studies: errors of surrogates, predicted accuracy, Monte Carlo over devices, and grids over any settings."""

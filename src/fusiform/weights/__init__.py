"""Foreign checkpoints: one file for each family, with its keys, its pixel statistics and what is left out."""

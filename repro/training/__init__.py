"""One seeded, resumable training, from a recipe to a checkpoint."""

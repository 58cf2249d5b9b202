"""Layers common to all models. Axes: T time, K samples, B batch, D data, Z latent, H hidden."""

"""Parts that depend on no model. Axes: T time, K samples, B batch, D data, Z latent, H hidden."""

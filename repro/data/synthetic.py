"""Data whose exact likelihood is known."""

from pathlib import Path

import numpy as np


def generate_linear_gaussian(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return sequences (T, D) of each part, and the z (T, Z) behind them as "{part}.latents".

    z_t ~ N(A z_{t-1} + b, Q) from z_0 = 0, x_t ~ N(C z_t + d, R); A to R stand in
    `options["parameters"]`, covariances as such.
    """
    p = {name: np.asarray(value) for name, value in options["parameters"].items()}
    latent, dim, steps = len(p["transition_offset"]), len(p["emission_offset"]), options["steps"]
    transition_noise = np.linalg.cholesky(p["transition_covariance"])
    emission_noise = np.linalg.cholesky(p["emission_covariance"])
    rng = np.random.default_rng(options["seed"])
    parts = {}
    for part, count in options["sequences"].items():
        z = np.zeros((count, latent))
        x, path = np.empty((count, steps, dim)), np.empty((count, steps, latent))
        for t in range(steps):
            z = z @ p["transition_matrix"].T + p["transition_offset"]
            z = z + rng.standard_normal((count, latent)) @ transition_noise.T
            path[:, t] = z
            x[:, t] = z @ p["emission_matrix"].T + p["emission_offset"]
            x[:, t] += rng.standard_normal((count, dim)) @ emission_noise.T
        parts[part], parts[f"{part}.latents"] = list(x), list(path)
    return parts

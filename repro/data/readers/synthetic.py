"""Data whose exact likelihood is known."""

from pathlib import Path

import numpy as np


def generate_linear_gaussian(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return sequences (T, D) of each part, and the z (T, Z) behind them as "{part}.latents".

    z_t ~ N(A z_{t-1} + b, Q) from z_0 = 0, x_t ~ N(C z_t + d, R); A to R are in
    `options["parameters"]`; Q and R are covariances, not their square roots.
    """
    p = {name: np.asarray(value) for name, value in options["parameters"].items()}
    latent, dim, steps = len(p["transition_offset"]), len(p["emission_offset"]), options["steps"]
    transition_noise = np.linalg.cholesky(p["transition_covariance"])
    emission_noise = np.linalg.cholesky(p["emission_covariance"])
    rng = np.random.default_rng(options["seed"])
    parts = {}
    for part, count in options["sequences"].items():
        z = np.zeros((count, latent))
        x, latents = np.empty((count, steps, dim)), np.empty((count, steps, latent))
        for t in range(steps):
            z = z @ p["transition_matrix"].T + p["transition_offset"]
            z = z + rng.standard_normal((count, latent)) @ transition_noise.T
            latents[:, t] = z
            x[:, t] = z @ p["emission_matrix"].T + p["emission_offset"]
            x[:, t] += rng.standard_normal((count, dim)) @ emission_noise.T
        parts[part], parts[f"{part}.latents"] = list(x), list(latents)
    return parts


def generate_two_parameters(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return sequences (T, 2) of each part, and the z (T, 2) behind them as "{part}.latents".

    z_t ~ N([0.2 z⁰ + tanh(α z¹), 0.2 z¹ + sin(β z⁰)], I) of z_{t-1}, from z_0 = 0, and
    x_t ~ N(0.5 z_t, 0.1 I); α and β are in `options["nonlinear_parameters"]`.
    """
    alpha, beta = (options["nonlinear_parameters"][name] for name in ("alpha", "beta"))
    rng, steps = np.random.default_rng(options["seed"]), options["steps"]
    parts = {}
    for part, count in options["sequences"].items():
        latents = np.zeros((count, steps + 1, 2))
        for t in range(steps):
            first, second = latents[:, t].T
            mean = [0.2 * first + np.tanh(alpha * second), 0.2 * second + np.sin(beta * first)]
            latents[:, t + 1] = np.stack(mean, axis=1) + rng.standard_normal((count, 2))
        z = latents[:, 1:]
        x = 0.5 * z + np.sqrt(0.1) * rng.standard_normal(z.shape)
        parts[part], parts[f"{part}.latents"] = list(x), list(z)
    return parts

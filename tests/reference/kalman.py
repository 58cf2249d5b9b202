"""The Kalman filter, in numpy, one sequence at a time."""

import numpy as np


def log_likelihood(x, A, b, Q, C, d, R):
    """Return log p(x_{1:T}) for x (T, D), z_0 = 0."""
    mean, covariance = np.zeros(len(b)), np.zeros((len(b), len(b)))
    total = 0.0
    for x_t in x:
        mean = A @ mean + b
        covariance = A @ covariance @ A.T + Q
        predicted = C @ covariance @ C.T + R
        residual = x_t - (C @ mean + d)
        _, log_determinant = np.linalg.slogdet(2 * np.pi * predicted)
        total -= 0.5 * (log_determinant + residual @ np.linalg.solve(predicted, residual))
        gain = covariance @ C.T @ np.linalg.inv(predicted)
        mean = mean + gain @ residual
        covariance = covariance - gain @ C @ covariance
    return total

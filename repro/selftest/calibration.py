"""How often the regression check is wrong: its own tests on simulated trainings."""

import numpy as np
import pandas as pd

from repro.results.comparison import compare_samples, holm

CELLS = 40  # of a simulated table
SPREADS = (0.005, 0.01, 0.02, 0.04)  # standard deviation over trainings, nats per step
LOSSES = (0.025, 0.05, 0.1, 0.2)
SEEDS = (3, 5)


def alarm_rates(
    seeds: int,
    spread: float,
    tables: int,
    loss: float = 0.0,
    related: float = 0.0,
    paired: bool = True,
) -> tuple[float, float]:
    """Return how often a table raises any alarm, and how often its first cell does.

    Args:
        seeds: their number, on the new and on the stored side.
        spread: standard deviation over trainings, nats per step.
        tables: how many tables of CELLS to simulate.
        loss: how much the first cell lost, nats per step.
        related: correlation of a seed's two trainings (0: another machine; near 1: nearly the
            same bits).
        paired: whether both sides have the same seeds.
    """
    rng = np.random.default_rng(0)
    anywhere = first = 0
    for _ in range(tables):
        shared = np.sqrt(related) * rng.standard_normal((CELLS, seeds))
        new, old = (
            -2 + spread * (shared + np.sqrt(1 - related) * rng.standard_normal((CELLS, seeds)))
            for _ in range(2)
        )
        new[0] -= loss
        rejected = holm(
            [compare_samples(a, b, paired).p_worse for a, b in zip(new, old, strict=True)]
        )
        anywhere += any(rejected)
        first += rejected[0]
    return anywhere / tables, first / tables


def power(tables: int) -> pd.DataFrame:
    """Return how often the check finds the cell that lost, by loss, spread and number of seeds."""
    rows = []
    for seeds in SEEDS:
        for spread in SPREADS:
            for loss in LOSSES:
                _, rate = alarm_rates(seeds, spread, tables, loss)
                rows.append({"seeds": seeds, "spread": spread, "loss": loss, "rate": rate})
    return pd.DataFrame(rows)

# %% [markdown]
# # Is my number right?
#
# A model that somebody has already, an autoregression in NumPy, on `linear_gaussian`. Its number
# is too good to be true. The audit says why, twice; then the number is right, and is compared with
# the stored rows. It runs in any folder.

# %%
import numpy as np

import repro

task = repro.task("linear_gaussian")
x, lengths = (part.numpy() for part in task.train.padded())  # (T, B, D), (B,)
print(task.sequences, "sequences, σ =", round(float(task.std), 3))

# %% [markdown]
# The model: x_t is Gaussian around a weighted sum of the ten values before it, fitted by least
# squares. Windows of the past are a column of zeros shifted by one, by two, … steps.

# %%
ORDER = 10


def windows(x, first):
    """Return x shifted by `first`, `first` + 1, … steps, and a constant, (T, B, ORDER + 1)."""
    padded = np.concatenate([np.zeros((ORDER + 1, *x.shape[1:])), x])
    shifted = [padded[ORDER + 1 - k : len(padded) - k] for k in range(first, first + ORDER)]
    return np.concatenate([*shifted, np.ones_like(x)], axis=-1)


class Autoregression:
    """Somebody's model, with two mistakes that can be switched off."""

    def __init__(self, first, scaled):
        self.first, self.scaled = first, scaled
        self.mean, self.std = x.mean(), x.std()
        past, z = windows(self.normalised(x), first), self.normalised(x)
        self.weights, *_ = np.linalg.lstsq(past.reshape(-1, ORDER + 1), z.ravel(), rcond=None)
        self.noise = (z[..., 0] - past @ self.weights).std()

    def normalised(self, x):
        return (x - self.mean) / self.std

    def log_prob(self, x, lengths):
        """Return log p(x_t | x_<t), (T, B)."""
        z = self.normalised(x.astype(float))
        error = (z[..., 0] - windows(z, self.first) @ self.weights) / self.noise
        terms = -0.5 * (error**2 + np.log(2 * np.pi)) - np.log(self.noise)
        return terms - np.log(self.std) if self.scaled else terms


# %% [markdown]
# The first version. The true model of these data gets −1.1065 nats per step, and nothing can be
# better than that by more than chance.

# %%
first = repro.from_numpy(Autoregression(first=0, scaled=False))
too_good = repro.evaluate(first, task, name="first version")
print(f"{too_good.per_step('is'):.4f} nats per step")

# %%
found = repro.audit(first, task)

# %% [markdown]
# The window begins at a shift of 0: x_t is among the values that predict x_t. The audit does not
# look into the code; it sees that probabilities do not sum to 1, and that the number is above that
# of the Kalman filter. With a window that begins at a shift of 1, one fault is left:

# %%
second = repro.from_numpy(Autoregression(first=1, scaled=False))
found_again = repro.audit(second, task)

# %% [markdown]
# Now the total is σ, as it is when the density of normalised values is given for values that are
# not normalised: log p(x) = log p(z) − log σ. The third version has that term.

# %%
mended = repro.from_numpy(Autoregression(first=1, scaled=True))
passed = repro.audit(mended, task)

# %%
result = repro.evaluate(mended, task, name="AR(10)")
standing = result.compare()
print(standing)

# %%
standing.figure("runs/standing.svg")
result.save("runs/submissions/ar10.json", audit=passed)
board = repro.leaderboard("linear_gaussian", "runs/submissions")
print(board)

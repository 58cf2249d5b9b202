"""Settings that change while a model trains: the step size and the weight of the KL."""

import math

from repro.errors import require_known


def learning_rate_factor(settings: dict, update: int, epoch: int, progress: float) -> float:
    """Return the factor by which the learning rate is multiplied at an update.

    `learning_rate_half_life` is the number of epochs in which it halves, after `constant_epochs`;
    `schedule: cosine` lets it fall to 0 over the training along half a cosine (Loshchilov & Hutter
    2017, arXiv 1608.03983, eq. 5, one cycle); with `warmup_updates` it first rises linearly.

    Args:
        settings: of the training.
        update: number of updates before this one.
        epoch: number of epochs completed.
        progress: share of the whole training completed, from 0 to 1.
    """
    factor = 1.0
    if "learning_rate_half_life" in settings:
        falling = max(0, epoch - settings.get("constant_epochs", 0))
        factor *= 0.5 ** (falling / settings["learning_rate_half_life"])
    if "schedule" in settings:
        require_known("schedule", settings["schedule"], ("cosine",))
        factor *= 0.5 * (1.0 + math.cos(math.pi * progress))
    return factor * min(1.0, (update + 1) / (settings.get("warmup_updates", 0) + 1))


def kl_weight(settings: dict, update: int, progress: float) -> float:
    """Return β of an update, which rises linearly from `kl_start` to 1.

    It rises over `kl_updates` updates, or over the share `kl_share` of the whole training.
    Arguments as for `learning_rate_factor`.
    """
    start, share = settings["kl_start"], settings.get("kl_share")
    done, whole = (progress, share) if share else (update, settings["kl_updates"])
    return 1.0 if done >= whole else start + (1.0 - start) * done / whole

"""The errors a user can cause or meet. The command line prints them without a traceback."""

import difflib
from collections.abc import Collection


class ReproError(Exception):
    """Says what is wrong, where, and what to do about it, in one or two lines."""


class ConfigError(ReproError):
    """A setting, model, data set or preset that does not exist or does not fit."""


def require_known(what: str, name: object, choices: Collection[str]) -> None:
    """Refuse a name that is not one of the choices.

    Raises:
        ConfigError: it is not; lists the choices, after `what`, the kind of name.
    """
    if name not in choices:
        raise ConfigError(f"{what}: {name!r} is not one of {', '.join(choices)}.")


def hint(name: object, known: Collection[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, or all of them."""
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(known)}."


class DataError(ReproError):
    """Data that is missing, damaged, licensed or cannot be downloaded."""


class CheckpointError(ReproError):
    """A checkpoint that is missing, damaged or belongs to something else."""


class NumericalError(ReproError):
    """A loss or log weight that is not a number."""

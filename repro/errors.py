"""The errors a user can cause or meet. The command line prints them without a traceback."""


class ReproError(Exception):
    """Says what is wrong, where, and what to do about it, in one or two lines."""


class ConfigError(ReproError):
    """A setting, model, data set or preset that does not exist or does not fit."""


class DataError(ReproError):
    """Data that is missing, damaged, licensed or cannot be downloaded."""


class CheckpointError(ReproError):
    """A checkpoint that is missing, damaged or belongs to something else."""


class NumericalError(ReproError):
    """A loss or log weight that is not a number."""

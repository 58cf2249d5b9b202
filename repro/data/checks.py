"""Checks that data are valid for their kind; errors name the part, sequence, step and value."""

from collections.abc import Iterable, Iterator

import numpy as np

from repro.errors import DataError

CHUNK = 2**23  # values per chunk; data with fewer are summed as one array
STROKES = "(pen lifts after the step: 0 or 1, Δx, Δy)"
# How large rounding to float32 may be, as a share of a column's standard deviation.
ROUNDING = 0.01
# Outliers: at most this many numbers, or this share of all, without which the standard deviation is
# this many times smaller.
MAX_STRAY_COUNT, MAX_STRAY_SHARE, STRAY_STD_RATIO = 4, 0.001, 4.0


def check_sequence(value: object, kind: str, where: str) -> np.ndarray:
    """Return a sequence as an array (T, D), if it is valid for data of this kind.

    Args:
        value: what a reader returned.
        kind: of the data.
        where: what error messages call the sequence.
    Raises:
        DataError: it is not an array of real, finite numbers with steps and columns; binary data
            are not all 0 and 1; strokes are not (pen, Δx, Δy).
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise DataError(f"{where} is not an array ({error}).") from None
    _check_type(array, where)
    if array.ndim != 2:
        raise DataError(
            f"{where} has the shape {array.shape}: a sequence has two axes, (T, D), steps and "
            "columns. Reshape one column to (T, 1); save each sequence as a separate array."
        )
    if 0 in array.shape:
        lacking = "steps" if array.shape[0] == 0 else "columns"
        raise DataError(f"{where} has no {lacking} (shape {array.shape}): leave it out.")
    _refuse(~np.isfinite(array), array, where, "values must be finite: correct the data")
    if kind == "binary":
        remedy = "binary data are 0 and 1 only: convert them (`x > 0`), or set `kind: real`"
        _refuse((array != 0) & (array != 1), array, where, remedy)
    if kind == "strokes":
        if array.shape[1] != 3:
            raise DataError(
                f"{where} has {array.shape[1]} columns: a step of strokes is three numbers, "
                f"{STROKES}."
            )
        pen = array[:, :1]
        remedy = f"column 0 of strokes is the pen's, 0 or 1: reorder the columns to {STROKES}"
        _refuse((pen != 0) & (pen != 1), pen, where, remedy)
    return array


def _check_type(array: np.ndarray, where: str) -> None:
    if array.dtype.kind == "O":
        raise DataError(
            f"{where} holds Python objects, not numbers: save each sequence as a separate "
            "array, `np.savez(path, *list_of_arrays)`."
        )
    if array.dtype.kind not in "biuf":
        remedy = {
            "c": "give real and imaginary parts as two columns",
            "M": "give dates as numbers, such as days since the first",
            "m": "give durations as numbers, such as seconds",
        }.get(array.dtype.kind, "convert them to numbers")
        raise DataError(f"{where} holds values of type {array.dtype}: {remedy}.")


def _refuse(bad: np.ndarray, array: np.ndarray, where: str, remedy: str) -> None:
    if bad.any():
        step, column = np.argwhere(bad)[0].tolist()
        raise DataError(
            f"{where}, step {step}, column {column} is {array[step, column]}; {remedy}."
        )


def chunks(sequences: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the steps of sequences, in float64, as arrays (N, D) of about CHUNK values."""
    pending: list[np.ndarray] = []
    size = 0
    for sequence in sequences:
        pending.append(sequence)
        size += sequence.size
        if size >= CHUNK:
            yield np.concatenate(pending).astype(np.float64)
            pending, size = [], 0
    if pending:
        yield np.concatenate(pending).astype(np.float64)


class Moments:
    """Mean and variance of numbers in chunks; for a single chunk, bit for bit those of NumPy."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(())
        self.variance: np.ndarray = np.zeros(())

    def add(self, values: np.ndarray, axis: int | None) -> None:
        """Add a chunk (N, D); axis 0 for moments of each column, None for those of all values."""
        count = values.shape[0] if axis == 0 else values.size
        mean, variance = values.mean(axis=axis), values.var(axis=axis)
        if self.count:  # Chan, Golub and LeVeque (1983)
            total, difference = self.count + count, mean - self.mean
            between = difference**2 * (self.count * count / total)
            variance = (self.variance * self.count + variance * count + between) / total
            mean = self.mean + difference * (count / total)
            count = total
        self.count, self.mean, self.variance = count, mean, variance


class ColumnStatistics:
    """Statistics of the training part's columns, from which it is normalised and checked."""

    def __init__(self, dim: int, normalise: str) -> None:
        self.normalise = normalise
        self.each, self.pooled = Moments(), Moments()
        self.low, self.high = np.full(dim, np.inf), np.full(dim, -np.inf)
        self.is_binary = np.ones(dim, dtype=bool)  # whether a column holds 0 and 1 only

    def add(self, frames: np.ndarray) -> None:
        """Add a chunk (N, D)."""
        with np.errstate(over="ignore", invalid="ignore"):  # `check` reports it
            self.each.add(frames, 0)
            if self.normalise in ("global", "offsets"):
                self.pooled.add(frames if self.normalise == "global" else frames[:, 1:], None)
        self.low = np.minimum(self.low, frames.min(axis=0))
        self.high = np.maximum(self.high, frames.max(axis=0))
        self.is_binary &= ((frames == 0) | (frames == 1)).all(axis=0)

    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation to normalise with, (D,) each, in float64."""
        dim = len(self.low)
        match self.normalise:
            case "global":
                return np.full(dim, self.pooled.mean), np.full(dim, np.sqrt(self.pooled.variance))
            case "per_dimension":
                return self.each.mean, np.sqrt(self.each.variance)
            case "offsets":  # strokes: the pen's bit stays, both offsets share one mean and std
                mean, std = np.full(dim, self.pooled.mean), np.ones(dim)
                mean[0], std[1:] = 0.0, np.sqrt(self.pooled.variance)
                return mean, std
        return np.zeros(dim), np.ones(dim)

    def check(self, mean: np.ndarray, std: np.ndarray, kind: str, name: str) -> None:
        """Refuse columns whose density no model can learn once they are normalised.

        Raises:
            DataError: a column is constant, or overflows or loses its differences to rounding
                when normalised to float32; or the pen's column is not the first. Names the column.
        """
        numbers = range(1 if kind == "strokes" else 0, len(self.low))
        for column in numbers:
            if self.low[column] == self.high[column]:
                raise DataError(
                    f"{name}: column {column} of the training part is {self.low[column]} "
                    "everywhere: the likelihood of a constant has no upper limit. Leave it out."
                )
        for column in numbers:
            where = f"{name}: column {column} of the training part"
            low, high = self.low[column], self.high[column]
            if kind == "strokes" and self.is_binary[column]:
                raise DataError(
                    f"{where} is 0 or 1 everywhere, as only the pen's column should be: a step of "
                    f"strokes is {STROKES}. Reorder the columns."
                )
            with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
                ends = (np.array([low, high]) - mean[column]) / std[column]
                spread = np.sqrt(self.each.variance[column]) / std[column]
                rounding = np.spacing(np.abs(ends).max().astype(np.float32)) / spread
            if not rounding < ROUNDING or spread < np.finfo(np.float32).tiny:
                raise DataError(
                    f"{where} goes from {low} to {high} and does not fit into float32 when "
                    "normalised: its values overflow, or their differences are rounded away. "
                    "Rescale it, or set `normalise: per_dimension`."
                )


class OffsetStatistics:
    """The sizes of the offsets of strokes, and where the largest one is."""

    def __init__(self) -> None:
        self.largest, self.where = 0.0, ""
        # Counts, and sums of squares, of the numbers with each binary exponent.
        self._counts, self._squares = np.zeros(2200), np.zeros(2200)

    def add(self, sequence: np.ndarray, where: str) -> None:
        """Add a sequence (T, 3)."""
        sizes = np.abs(sequence[:, 1:].astype(np.float64))
        step = int(sizes.max(axis=1).argmax())
        if sizes[step].max() > self.largest:
            self.largest, self.where = float(sizes[step].max()), f"{where}, step {step}"
        exponent = (np.frexp(sizes)[1] + 1100).ravel()
        with np.errstate(over="ignore"):
            self._counts += np.bincount(exponent, minlength=2200)
            self._squares += np.bincount(exponent, sizes.ravel() ** 2, minlength=2200)

    def check(self, limit: float | None) -> None:
        """Refuse offsets that cannot be a pen's movement.

        Args:
            limit: the option `largest_offset`, the largest offset accepted; None to refuse a few
                outliers that would decide the scale of all.
        Raises:
            DataError: names the largest, and says what to do.
        """
        remedy = "Correct it or leave the sequence out"
        if limit is not None and self.largest > limit:
            raise DataError(
                f"{self.where} moves the pen by {self.largest:g}, more than the option "
                f"`largest_offset: {limit:g}`. {remedy}."
            )
        total, squares = self._counts.sum(), self._squares.sum()
        above = np.cumsum(self._counts[::-1])[::-1]  # with this exponent or a higher one
        few = (above <= max(MAX_STRAY_COUNT, MAX_STRAY_SHARE * total)) & (above <= total / 10)
        rest = np.concatenate([[0.0], np.cumsum(self._squares)[:-1]])  # with lower exponents
        if limit is None and ((rest * STRAY_STD_RATIO**2 < squares) & few).any():
            raise DataError(
                f"{self.where} moves the pen by {self.largest:g}, so far that it decides the scale "
                f"of all steps. {remedy}, or accept it: `largest_offset: {self.largest:g}` in the "
                "data set's options."
            )

"""The Result of one cell and seed: per-sequence statistics, from which all averages are computed.

No torch here: tables, figures and the check read these files on any machine.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repro.errors import ConfigError, DataError
from repro.runtime.files import sha256_of, write_text

if TYPE_CHECKING:
    from repro.results.beside import Beside
    from repro.results.findings import Audit

SCHEMA = 3
FOREIGN = "foreign"  # the preset of a Result whose model is from outside the package
BOOTSTRAP_DRAWS = 2000
NUMBER_LIST = re.compile(r'\[\n([^][{}"]*)\]')  # a list of numbers in indented JSON


@dataclass(frozen=True)
class Result:
    """One evaluated checkpoint.

    Attributes:
        schema: version of this record.
        preset, dataset, model, seed: which cell.
        title: what tables call the model: in a new Result its name; in a stored one the title that
            config/models.yaml or the preset gave it then.
        likelihood: how log p(x) is computed: "exact"; "sampled", by importance sampling over a
            latent variable; or "Z by AIS", exact up to an estimated normaliser.
        true_parameters: whether the model came with the parameters that the data were drawn with.
        data: specification of the data (`repro.data.prepared.DataSpec`).
        evaluation: number of importance samples, and the smaller numbers of `curve`. With `until`,
            num_samples is how many were drawn, and "until" holds the error asked for, the maximum
            number of samples ("num_samples"), the error found and whether it was reached. For a
            model from outside the package also the version of the task, its units, and what an
            audit found.
        training: see `repro.training.checkpoints.CheckpointInfo`; and weights_sha256, the digest of
            the trained weights (absent from older files).
        environment: date, code version, libraries, hardware, seconds, CPU seconds and peak memory
            of the evaluation; date, code version, libraries and hardware of the training under
            "training". Older files have no dates, which are in UTC, and no CPU seconds.
        recipe: the frozen configuration of the training.
        per_sequence: lists over test sequences. length; bound, the ELBO (mean over the samples),
            and bound_error, its Monte Carlo standard error; is, the importance-sampled
            log-likelihood, and is_error; ess, the effective sample size; log_likelihood and kl,
            the two parts of the bound; first_log_likelihood, the first step's share of
            log_likelihood (absent from older files); is_<n>, the estimate with n samples; is_tenth,
            that with a tenth of the samples; pareto_k, the shape of the weights' tail; fivo, the
            particle filter's estimate (where they were computed). Nats per sequence of
            normalised data, higher is better. squared_error, Σ_t ‖E_q z_t − z_t‖², where the true
            z is known and the model's z means the same.
    """

    schema: int
    preset: str
    dataset: str
    model: str
    title: str
    seed: int
    likelihood: str
    true_parameters: bool
    data: dict
    evaluation: dict
    training: dict
    environment: dict
    recipe: dict
    per_sequence: dict[str, list[float]]

    def values(self, metric: str) -> np.ndarray:
        """Return a per-sequence statistic, (N,).

        Raises:
            DataError: the evaluation did not store it.
        """
        if metric not in self.per_sequence:
            raise DataError(
                f"the Result of {self.model} on {self.dataset}, seed {self.seed}, does not have "
                f"{metric}: evaluate again."
            )
        return np.asarray(self.per_sequence[metric], dtype=np.float64)

    def per_step(self, metric: str) -> float:
        """Return Σ over sequences ÷ Σ of lengths, in nats per step."""
        return float(self.values(metric).sum() / self.values("length").sum())

    def mean_of_averages(self, metric: str) -> float:
        """Return the mean over sequences of each one's own average, in nats per step."""
        return float((self.values(metric) / self.values("length")).mean())

    def bound_after_first(self) -> float:
        """Return `mean_of_averages` of the bound with each first step given, in nats per step.

        Neither log p(x_1 | z_1) nor the first step is counted; the KL of z_1 is, so that this is a
        bound on log p(x_2, … | x_1) of a model that reads its first step without scoring it.
        Sequences of one step are left out.

        Raises:
            DataError: the evaluation is too old to have stored the first steps' share.
        """
        rest = self.values("bound") - self.values("first_log_likelihood")
        steps = self.values("length") - 1
        return float((rest[steps > 0] / steps[steps > 0]).mean())

    def log_likelihood_after_first(self) -> float:
        """Return an exact log p(x_2, … | x_1), Σ over sequences ÷ Σ (length − 1), in nats per step.

        For models without z, whose `first_log_likelihood` is log p(x_1). NaN if no sequence has a
        second step.

        Raises:
            DataError: the evaluation is too old to have stored the first steps' share.
        """
        rest = (self.values("is") - self.values("first_log_likelihood")).sum()
        steps = (self.values("length") - 1).sum()
        return float(rest / steps) if steps else math.nan

    def per_sequence_mean(self, metric: str) -> float:
        """Return the mean over sequences, in nats per sequence."""
        return float(self.values(metric).mean())

    def monte_carlo_error(self, metric: str) -> float:
        """Return the standard error of `per_step` that is due to the evaluation's samples."""
        errors = self.values(f"{metric}_error")
        return float(np.sqrt((errors**2).sum()) / self.values("length").sum())

    def compare(self, metric: str = "is", stored: Path | None = None) -> "Beside":
        """Return this Result beside every stored row of the same data, paired by test sequence.

        Args:
            metric: "is" or "bound". stored: the folder of stored results; default: those of the
                clone or the installation.
        Raises:
            ConfigError: there is no such metric.
            DataError: no results are stored for these data.
        """
        from repro.results import beside  # it imports this module

        return beside.compare(self, metric, stored)

    def save(self, path: Path | str, audit: "Audit | None" = None) -> Path:
        """Write this Result as JSON, for `repro.read_result` and `repro leaderboard`.

        Args:
            path: of the file, *.json. audit: what `repro.audit` returned for the same model, to be
                stored with it.
        Returns:
            the path.
        Raises:
            ConfigError: the audit is of other data or of another model, or the name does not end in
                .json.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise ConfigError(f"{path}: the name of a Result's file must end in .json.")
        if audit is None:
            write(self, path)
            return path
        scored = self.recipe["model"].get("kind", audit.model)
        if (audit.sha256, audit.model) != (self.data["sha256"], scored):
            raise ConfigError(
                f"the audit is of {audit.model} on {audit.task}, this Result of {scored} on "
                f"{self.dataset}: audit the same model on the same data."
            )
        write(replace(self, evaluation={**self.evaluation, "audit": audit.record()}), path)
        return path


def cells(results: list[Result]) -> list[list[Result]]:
    """Return the Results grouped by (data set, model), in the order given."""
    groups = groupby(results, key=lambda r: (r.dataset, r.model))
    return [list(group) for _, group in groups]


def error_over_sequences(values: np.ndarray, lengths: np.ndarray) -> float:
    """Return the standard error of Σ values ÷ Σ lengths over a draw of N sequences.

    By the delta method for a ratio of sums: long and short sequences have the same weights as in
    the ratio.
    """
    count = len(values)
    if count < 2:
        return math.nan
    residuals = values - values.sum() / lengths.sum() * lengths
    return float(np.sqrt((residuals**2).sum() * count / (count - 1)) / lengths.sum())


def paired_difference(
    cell: list[Result], metric: str, other: list[Result], other_metric: str
) -> tuple[float, float]:
    """Return how much higher a cell is than another of the same data, and its standard error.

    In nats per step, paired by test sequence: over sequences the difference of the means over
    seeds. The error is that over test sequences.
    """
    one, two = (
        np.mean([r.values(name) for r in results], axis=0)
        for results, name in ((cell, metric), (other, other_metric))
    )
    gap, lengths = one - two, cell[0].values("length")
    return float(gap.sum() / lengths.sum()), error_over_sequences(gap, lengths)


def standard_error(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard error of a mean over seeds; NaN for one seed."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def interval(results: list[Result], metric: str) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a cell's metric, in nats per step.

    Seeds are drawn, and sequences within them: the same ones for every seed, because all seeds
    are judged on one test part. With few seeds it is too narrow, as every bootstrap of few values
    is: in simulations it contained the truth in 77 to 94 % of the cases with three seeds, and in
    92 to 95 % with ten.
    """
    generator = np.random.default_rng(0)
    lengths = results[0].values("length")
    values = np.array([result.values(metric) for result in results])  # (S, N)
    seeds, count = values.shape
    times = generator.multinomial(
        count, np.full(count, 1.0 / count), size=BOOTSTRAP_DRAWS
    )  # (DRAWS, N)
    chosen = generator.integers(seeds, size=(BOOTSTRAP_DRAWS, seeds))
    per_seed = times @ values.T / (times @ lengths)[:, None]  # (DRAWS, S)
    means = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A number with its errors: over seeds, over test sequences, and of Monte Carlo."""

    value: float
    over_seeds: float
    over_sequences: float
    monte_carlo: float
    seeds: int


def aggregate(results: list[Result], metric: str) -> Estimate:
    """Return a metric in nats per step, averaged over the seeds of one cell, with its errors.

    over_seeds is the sample standard deviation divided by √seeds (NaN for one seed); over_sequences
    is the standard error over sequences of the averages over seeds.
    """
    values = np.array([result.per_step(metric) for result in results])
    count = len(values)
    averaged = np.mean([result.values(metric) for result in results], axis=0)
    monte_carlo = math.sqrt(sum(r.monte_carlo_error(metric) ** 2 for r in results)) / count
    return Estimate(
        value=float(values.mean()),
        over_seeds=standard_error(values),
        over_sequences=error_over_sequences(averaged, results[0].values("length")),
        monte_carlo=monte_carlo,
        seeds=count,
    )


def write(result: Result, path: Path) -> None:
    """Write a Result as JSON, one list of numbers per line, with a digest of the whole record."""
    write_text(path, signed_text(asdict(result)))


def signed_text(record: dict) -> str:
    """Return a record as JSON with its own SHA-256, one list of numbers per line."""
    text = json.dumps({**record, "sha256": sha256_of(record)}, indent=1, sort_keys=True)
    return NUMBER_LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def read(path: Path | str) -> Result:
    """Return the Result in a file that `Result.save`, `repro evaluate` or `repro accept` wrote.

    >>> repro.read_result("submissions/mine-seed0.json").per_step("is")  # nats per step

    Raises:
        DataError: the file is missing, is not a Result, has another schema version, or was changed
            after it was written.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        digest = record.pop("sha256", None)
        result = Result(**record)
        lengths = {key: len(row) for key, row in result.per_sequence.items()}
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run `repro evaluate` for this cell.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not a Result ({error}): remove it and evaluate again."
        ) from None
    if result.schema != SCHEMA:
        raise DataError(
            f"{path} has schema {result.schema}, this code reads {SCHEMA}: evaluate again."
        )
    if digest != sha256_of(record):
        raise DataError(
            f"{path} was changed after it was written (its sha256 differs): restore it from git, "
            "or evaluate again."
        )
    if len(set(lengths.values())) != 1:
        raise DataError(f"{path}: per-sequence lists differ in length: {lengths}.")
    return result


def result_path(root: Path, preset: str, dataset: str, model: str, seed: int) -> Path:
    """Return the path of a Result, the same under runs/ and results/."""
    return root / preset / dataset / model / f"seed{seed}.json"


def read_cell(root: Path, preset: str, dataset: str, model: str) -> list[Result]:
    """Return all Results of a cell under `root`, by seed; empty if there are none.

    Raises:
        DataError: a file is damaged, or belongs to another cell than its path says.
    """
    results = []
    for path in (root / preset / dataset / model).glob("seed*.json"):
        result = read(path)
        expected = result_path(root, result.preset, result.dataset, result.model, result.seed)
        if expected != path:
            raise DataError(f"{path} holds the Result that belongs at {expected}: move it there.")
        results.append(result)
    return sorted(results, key=lambda result: result.seed)


def read_cells(root: Path, dataset: str = "*", model: str = "*") -> list[list[Result]]:
    """Return the cells under `root` that have Results, of all presets, as `read_cell` reads them.

    Args:
        dataset, model: their names; "*" for all.
    """
    folders = sorted(root.glob(f"*/{dataset}/{model}/"))
    cells_found = (read_cell(root, *folder.relative_to(root).parts) for folder in folders)
    return [cell for cell in cells_found if cell]  # folders of races hold none

"""Trained weights that are kept with stored results: written, loaded, and evaluated again."""

import shutil
from pathlib import Path

from repro.config import recipes as configuration
from repro.config.traits import SAMPLED
from repro.data.prepare import prepared_file
from repro.errors import CheckpointError, DataError
from repro.evaluation.evaluate import evaluate
from repro.models.base import SequenceModel
from repro.results.beside import units_of
from repro.results.record import Result, read, result_path
from repro.results.reliability import reliability
from repro.runtime.devices import prepare_device
from repro.runtime.files import replacing, write_text
from repro.runtime.paths import results_folder, run_folder, weights_folder
from repro.training.checkpoints import checkpoint_in, load_checkpoint, weights_digest

CARD = """\
# {title} on {dataset}, seed {seed}, preset `{preset}`

`repro.load("{model}", "{dataset}", seed={seed}, preset="{preset}")` loads it;
`repro verify {model} {dataset} --seed {seed} --preset {preset}` evaluates it again.

| | |
|---|---|
| Test part, {units} | {numbers} |
| Likelihood | {likelihood} |
| Parameters | {parameters} |
| Best epoch | {best_epoch} of {epochs}, chosen on the validation part |
| SHA-256 of the weights | `{digest}` |
| SHA-256 of the data | `{data}` |
| Trained by | repro {version}, commit `{commit}`, torch {torch}, {device} |

The recipe:

```yaml
{recipe}```
"""


def load(model: str, dataset: str, seed: int = 0, preset: str | None = None) -> SequenceModel:
    """Return the trained model of a stored result, in evaluation mode.

    >>> repro.evaluate(repro.load("dmm", "linear_gaussian"), repro.task("linear_gaussian"))

    Args:
        model, dataset: their names.
        seed: of the training.
        preset: needed only where several presets have stored weights of this model and data set.
    Raises:
        ConfigError: there is no such model or data set.
        DataError: there are no such weights, or several presets have them.
        CheckpointError: the file is damaged, or its weights are not those of the stored result.
    """
    return verified(find(model, dataset, seed, preset))[1].eval()


def find(model: str, dataset: str, seed: int, preset: str | None) -> Result:
    """Return the stored result whose weights `load` returns; see there."""
    presets = [p for p, *cell in stored() if cell == [dataset, model, seed] and preset in (p, None)]
    asked = f"weights of {model} on {dataset}, seed {seed}"
    if not presets:
        configuration.require_cell(dataset, model)
        of = f" of preset {preset}" if preset else ""
        raise DataError(f"no {asked}{of} are stored; `repro weights` lists those that are.")
    if len(presets) > 1:
        raise DataError(f"{asked}, are stored by {' and '.join(presets)}: name the preset.")
    return read(result_path(results_folder(), presets[0], dataset, model, seed))


def stored() -> list[tuple[str, str, str, int]]:
    """Return the preset, data set, model and seed of all stored weights."""
    files = sorted(weights_folder().glob("*/*/*/seed*.safetensors"))
    cells = [(*path.parts[-4:-1], path.stem) for path in files]
    return [(preset, data, model, int(stem[4:])) for preset, data, model, stem in cells]


def weights_file(preset: str, dataset: str, model: str, seed: int) -> Path:
    """Return the path of a stored result's weights."""
    return weights_folder() / preset / dataset / model / f"seed{seed}.safetensors"


def verified(result: Result) -> tuple[Path, SequenceModel]:
    """Return the file with a stored result's weights and their model; they have its digest.

    Raises:
        CheckpointError: the file is damaged, or holds other weights.
    """
    path = weights_file(result.preset, result.dataset, result.model, result.seed)
    model = _model_of(path, result)
    if model is None:
        raise CheckpointError(
            f"{path} does not hold the weights of the stored result: restore it from git."
        )
    return path, model


def evaluate_again(result: Result, threads: int) -> Result:
    """Return a new Result from a stored one's weights, by the same estimator and random numbers.

    Data that are missing are fetched and prepared.

    Raises:
        CheckpointError: the weights or the data are not those of the stored result.
    """
    config = configuration.load(result.preset)
    described = configuration.describe(config, result.dataset)
    return evaluate(
        verified(result)[0],
        prepared_file(result.dataset, described, config),
        result.evaluation["num_samples"],
        result.evaluation["curve"],
        prepare_device("cpu", threads),
        result.evaluation.get("particles", 0),
    )


def write_weights(preset: str, seed: int) -> list[Path]:
    """Return the files that now hold the weights of a preset's stored results of one seed.

    They are copied from the runs folder, where they have the digest of the stored result; each gets
    a card.

    Raises:
        DataError: no training there is that of a stored result.
    """
    written = []
    for path in sorted((results_folder() / preset).glob(f"*/*/seed{seed}.json")):
        result = read(path)
        checkpoint = checkpoint_in(run_folder(preset, result.dataset, result.model, seed))
        if not checkpoint.is_file() or _model_of(checkpoint, result) is None:
            continue
        file = weights_file(preset, result.dataset, result.model, seed)
        with replacing(file) as partial:
            shutil.copyfile(checkpoint, partial)
        write_text(file.with_suffix(".md"), card(result))
        written.append(file)
    if not written:
        raise DataError(
            f"no stored result of preset {preset}, seed {seed}, has its training under "
            f"{run_folder(preset, '', '', 0).parents[0]}: run the preset and `repro accept` it."
        )
    return written


def card(result: Result) -> str:
    """Return the card of a Result's weights, with what a user has to know, as Markdown."""
    training, trained_in = result.training, result.environment["training"]
    return CARD.format(
        title=result.title,
        dataset=result.dataset,
        model=result.model,
        preset=result.preset,
        seed=result.seed,
        units=units_of(result),
        numbers=_numbers(result),
        likelihood=result.likelihood,
        parameters=f"{training['parameters']:,}",
        best_epoch=training["best_epoch"],
        epochs=training["epochs"],
        digest=training["weights_sha256"],
        data=result.data["sha256"],
        version=trained_in["repro"],
        commit=trained_in["commit"][:12],
        torch=trained_in["torch"],
        device=trained_in["device"],
        recipe=configuration.as_text(result.recipe),
    )


def _numbers(result: Result) -> str:
    if result.likelihood != SAMPLED:
        return f"{result.per_step('is'):.4f}"
    found = reliability([result])
    doubtful = "; too few samples to trust IS" if found.doubtful else ""
    return (
        f"bound {result.per_step('bound'):.4f}, IS with {result.evaluation['num_samples']} samples "
        f"{result.per_step('is'):.4f} ± {result.monte_carlo_error('is'):.4f}, "
        f"median effective sample size {found.size:.1f}{doubtful}"
    )


def _model_of(path: Path, result: Result) -> SequenceModel | None:
    # The model in a checkpoint; None if its weights are not those of the Result.
    expected = {"model": result.model, "dataset": result.dataset, "seed": result.seed}
    model, _ = load_checkpoint(path, expected)
    same = weights_digest(model.state_dict()) == result.training.get("weights_sha256")
    return model if same else None

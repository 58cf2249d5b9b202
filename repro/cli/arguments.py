"""Turns a command's arguments into an entry of the configuration, or Results."""

from dataclasses import replace
from pathlib import Path

from repro.config import recipes as configuration
from repro.errors import ConfigError
from repro.results.record import Result, read
from repro.runtime.paths import in_clone, runs_folder


def dataset_entry(name: str, config: Path | None, preset: str) -> dict:
    """Return a data set's entry: a frozen one, or that of a preset or config/datasets.yaml.

    Raises:
        ConfigError: there is no such data set; names the preset that has it, or the nearest name.
    """
    if config is not None:
        return configuration.read_yaml(config)
    configuration.preset_file(preset)
    registers = configuration.registers(preset)
    if name not in registers["datasets"]:
        _require_no_other_preset(name)
    return configuration.expanded(configuration.entry(registers, "data set", name))


def _require_no_other_preset(dataset: str) -> None:
    for preset, file in configuration.preset_files().items():
        datasets = configuration.read_yaml(file).get("datasets") or {}
        if dataset in datasets:
            raise ConfigError(f"{dataset} is a data set of preset {preset}: add --preset {preset}.")


def read_results(paths: list[Path] | None, root: Path, preset: str) -> list[Result]:
    """Return the Results in `paths`, or else all of a preset, in the order of config/models.yaml.

    Results under runs/ get the titles that the preset gives their models now.

    Raises:
        ConfigError: there are none.
    """
    paths = paths or sorted((root / preset).glob("*/*/seed*.json"))
    if not paths:
        workflow = "`snakemake --cores 8 all` or " if in_clone() else ""
        raise ConfigError(
            f"no results under {root / preset}: run {workflow}"
            f"`repro train --preset {preset} …` and `repro evaluate --preset {preset} …` first."
        )
    return in_order([read(path) for path in paths], root, preset)


def in_order(results: list[Result], root: Path, preset: str) -> list[Result]:
    """Return Results read under `root` as `read_results` does."""
    models = configuration.registers(preset)["models"]
    if root == runs_folder():
        titles = {name: entry["title"] for name, entry in models.items()}
        results = [replace(r, title=titles.get(r.model, r.title)) for r in results]
    rank = {name: i for i, name in enumerate(models)}
    return sorted(results, key=lambda r: (r.dataset, rank.get(r.model, len(rank)), r.seed))


def description_of(preset: str) -> str:
    """Return the description in a preset's file."""
    return configuration.read_yaml(configuration.preset_file(preset)).get("description", "")


def without_results(preset: str, results: list[Result]) -> list[str]:
    """Return one line per data set with cells of a preset that have no Result, and why."""
    config = configuration.load(preset)
    with_result = {(result.dataset, result.model) for result in results}
    not_supplied = configuration.not_supplied(config)
    missing: dict[str, list[str]] = {}
    for dataset, model in configuration.cells(config):
        if (dataset, model) not in with_result:
            missing.setdefault(dataset, []).append(model)
    return [
        f"{dataset} ({', '.join(models)}): "
        + (
            f"licensed data not supplied, {config['datasets'][dataset]['licensed']['register']}"
            if dataset in not_supplied
            else "not run"
        )
        for dataset, models in missing.items()
    ]

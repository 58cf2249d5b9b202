"""Commands that show which models, data sets, presets and tables exist, and a cell's settings."""

from enum import StrEnum
from typing import Annotated

import typer

from repro.cli.options import Preset
from repro.config import recipes as configuration
from repro.runtime.paths import config_folder, data_file, paper_tables_folder


class Kind(StrEnum):
    """What `repro list` can list."""

    models = "models"
    datasets = "datasets"
    presets = "presets"
    tables = "tables"


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="One kind; default: all four.")] = None,
) -> None:
    """List models, data sets, presets and published tables.

    Example: repro list models
    """
    for listed_kind in [kind] if kind else Kind:
        rows = _rows(listed_kind)
        width = max(len(name) for name, _ in rows)
        entries = [f"  {name:{width}}  {text}" for name, text in rows]
        print("\n".join([f"{listed_kind}:", *entries, ""]))


def show(
    model: Annotated[str, typer.Argument(help="A model of config/models.yaml.")],
    dataset: Annotated[str, typer.Argument(help="A data set of config/datasets.yaml.")],
    preset: Preset = "starter",
) -> None:
    """Show the resolved settings of a cell, its parameters and their shapes.

    Example: repro show dmm linear_gaussian
    """
    recipe = configuration.resolve(configuration.load(preset), dataset, model)
    print(configuration.as_text(recipe))
    path = data_file(dataset)
    if not path.exists():
        print(f"parameters: known once the data are prepared (repro prepare --dataset {dataset})")
        return
    from repro.data.prepared import load
    from repro.models import build
    from repro.training.checkpoints import model_spec

    spec, _ = load(path, ())
    built = build(model_spec(recipe, spec))
    shapes = {name: "×".join(map(str, p.shape)) or "1" for name, p in built.named_parameters()}
    width = max(map(len, shapes), default=0)
    print(f"data: {spec.dim} values per step, sequences {spec.sequences}, steps {spec.steps}")
    print(f"parameters: {sum(p.numel() for p in built.parameters()):,}")
    for name, shape in shapes.items():
        print(f"  {name:{width}}  {shape}")


def _rows(kind: Kind) -> list[tuple[str, str]]:
    if kind is Kind.presets:
        found = sorted(configuration.preset_files().items())
        return [(n, configuration.read_yaml(p).get("description", "")) for n, p in found]
    if kind is Kind.tables:
        paths = sorted(paper_tables_folder().glob("*/table.yaml"))
        return [(p.parent.name, configuration.read_yaml(p)["title"]) for p in paths] or [
            ("none", f"under {paper_tables_folder()}/")
        ]
    entries = configuration.read_yaml(config_folder() / f"{kind}.yaml")[kind]
    source = {"models": "citation", "datasets": "licence"}[kind]
    return [(name, f"{entry['title']}; {entry[source]}") for name, entry in entries.items()]

"""From a data set's name to its prepared file, and from a preset to a frozen recipe.

Heavy imports are inside the commands, so that `repro --help` and light rules start at once.
"""

from repro.cli.arguments import dataset_entry
from repro.cli.options import Corpora, Dataset, Entry, Mirror, Model, Preset
from repro.config import recipes as configuration
from repro.runtime.paths import data_file, raw_folder, runs_folder


def fetch(
    dataset: Dataset,
    preset: Preset = "starter",
    config: Entry = None,
    mirror: Mirror = None,
    corpora: Corpora = None,
) -> None:
    """Fetch and verify the raw files of a data set.

    Example: repro fetch --dataset japanese_vowels
    """
    from repro.data.download import fetch as fetch_files
    from repro.data.download import write_manifest

    entry = dataset_entry(dataset, config, preset)
    files = fetch_files(dataset, entry, raw_folder(dataset), mirror, corpora)
    write_manifest(entry, raw_folder(dataset).parent / "raw.json")
    found = "your copy" if "licensed" in entry else f"{len(files)} raw files verified"
    print(f"{dataset}: {found}. Licence: {entry['licence']}")


def prepare(dataset: Dataset, preset: Preset = "starter", config: Entry = None) -> None:
    """Turn raw files into the one prepared format, and check their counts.

    Example: repro prepare --dataset japanese_vowels
    """
    from repro.data.prepare import prepare as prepare_data

    path = data_file(dataset)
    spec = prepare_data(dataset, dataset_entry(dataset, config, preset), raw_folder(dataset), path)
    for part, count in spec.sequences.items():
        print(f"{dataset} {part}: {count} sequences, {spec.steps[part]} steps of {spec.dim} values")


def configure(dataset: Dataset, model: Model, preset: Preset = "starter") -> None:
    """Freeze the recipe of one cell; training reads nothing else.

    Example: repro configure --model dmm --dataset linear_gaussian
    """
    recipe = configuration.resolve(configuration.load(preset), dataset, model)
    path = runs_folder() / preset / dataset / model / "config.yaml"
    configuration.freeze(recipe, path)
    print(path)

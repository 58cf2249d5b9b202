"""One data set from its raw files to the prepared format."""

import json
import sys
from pathlib import Path

from safetensors import safe_open

from repro.config.plugins import load_object
from repro.data import prepared
from repro.data.download import fetch, raw_files, write_manifest
from repro.data.prepared import DataSpec
from repro.runtime.files import readable, write_text
from repro.runtime.paths import data_file, raw_folder


def prepare(name: str, entry: dict, raw: Path, path: Path) -> DataSpec:
    """Read a data set's raw files, check its counts, normalise it and write it to `path`.

    Args:
        name: the data set. entry: its entry in config/datasets.yaml.
        raw: the folder of its raw files, fetched before. path: the file to write.
    Raises:
        DataError: a raw file is missing or damaged, or the counts are not the expected ones.
    """
    reader = entry["reader"]
    module, _, function = reader.partition(":")
    is_external = "." in module  # another package's module, or a file
    dotted = reader if is_external else f"repro.data.readers.{module}:{function}"
    read = load_object(dotted, f"reader of data set '{name}'")
    parts = read(raw_files(name, entry, raw), entry["options"])
    spec = prepared.save(parts, name, entry, path)
    for note in spec.notes:
        print(f"{name}: {note}", file=sys.stderr)
    write_digests(path)
    return spec


def prepared_file(dataset: str, described: dict, config: dict) -> Path:
    """Return a data set's prepared file, made where it is missing or its entry has changed.

    Args:
        described: what its bytes depend on (`config.recipes.describe`).
        config: the configuration, whose `mirror` and `corpora` are tried first; {} to prepare the
            file from `described` alone.
    Raises:
        DataError: a file cannot be obtained, or a licensed corpus is missing.
    """
    path = data_file(dataset)
    if not readable(path) or prepared.made_by(path) != json.loads(json.dumps(described)):
        folders = (Path(config[key]) if config.get(key) else None for key in ("mirror", "corpora"))
        entry = config["datasets"][dataset] if config else described
        fetch(dataset, entry, raw_folder(dataset), *folders)
        write_manifest(entry, raw_folder(dataset).parent / "raw.json")
        prepare(dataset, described, raw_folder(dataset), path)
    return path


def write_digests(path: Path) -> None:
    """Write the SHA-256 of a prepared file's arrays to digests.json next to it.

    A training depends on this small file, not on when the large one was written.
    """
    with safe_open(path, framework="numpy") as file:
        digests = json.loads(file.metadata()["digests"])
    digests.pop("entry", None)  # the same arrays, made differently, must not cause a new training
    write_text(path.with_name("digests.json"), json.dumps(digests, indent=1) + "\n")

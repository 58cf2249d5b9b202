"""One data set from its raw files to the prepared format."""

import json
import sys
from pathlib import Path

from safetensors import safe_open

from repro.config.plugins import load_object
from repro.data import prepared
from repro.data.download import raw_files
from repro.data.prepared import DataSpec
from repro.runtime.files import write_text


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
    outside = "." in module  # another package's module, or a file
    dotted = reader if outside else f"repro.data.readers.{module}:{function}"
    read = load_object(dotted, f"reader of data set '{name}'")
    parts = read(raw_files(name, entry, raw), entry["options"])
    spec = prepared.save(parts, name, entry, path)
    for note in spec.notes:
        print(f"{name}: {note}", file=sys.stderr)
    write_digests(path)
    return spec


def write_digests(path: Path) -> None:
    """Write the SHA-256 of a prepared file's arrays to digests.json next to it.

    A training depends on this small file, not on when the large one was written.
    """
    with safe_open(path, framework="numpy") as file:
        digests = json.loads(file.metadata()["digests"])
    digests.pop("entry", None)  # how the arrays were made is no reason to train on them again
    write_text(path.with_name("digests.json"), json.dumps(digests, indent=1) + "\n")

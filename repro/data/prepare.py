"""One data set from its raw files to the prepared format."""

from pathlib import Path

from repro.data import sequences
from repro.data.sequences import DataSpec
from repro.data.sources import fetch
from repro.loading import load_object


def prepare(name: str, entry: dict, raw: Path, path: Path, mirror: Path | None = None) -> DataSpec:
    """Read a data set's raw files, check its counts, normalise it and write it to `path`.

    Raises:
        DataError: a raw file is missing and cannot be fetched, or the counts are not the expected.
    """
    reader = entry["reader"]
    module, _, function = reader.partition(":")
    dotted = reader if "." in module else f"repro.data.{module}:{function}"
    read = load_object(dotted, f"reader of data set '{name}'")
    return sequences.save(read(fetch(name, entry, raw, mirror), entry["options"]), name, entry, path)

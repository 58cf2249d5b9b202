"""The one prepared format: ragged sequences of three parts in a safetensors file.

`{part}.values` (sum of lengths, D) holds the sequences of train, valid or test end to end, uint8
for binary data and float32 (normalised) for real data; `{part}.lengths` (N,) int64 cuts them.
Synthetic data also have `{part}.latents` (sum of lengths, Z) float32, the z they were drawn with.
The header's metadata holds the specification below, the entry that the data were prepared from, and
a SHA-256 of each of these and of every array, as JSON. Nothing in it can run code.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from repro.config.recipes import check_normalisation
from repro.data.checks import ColumnStatistics, OffsetStatistics, check_sequence, chunks
from repro.data.parts import PARTS, Part, StoredSequences, name_of
from repro.errors import DataError
from repro.runtime.files import readable, replacing

DIGEST_PLACEHOLDER = "0" * 64  # as long as the SHA-256 that will take its place
DTYPES = {"I64": "<i8", "F32": "<f4", "U8": "|u1"}  # safetensors' name, NumPy's


@dataclass(frozen=True)
class DataSpec:
    """What a model or a table must know about a data set.

    Attributes:
        name: the data set.
        kind: "binary", "real" or "strokes".
        dim: D, the size of one time step.
        mean, std: what was subtracted from each dimension, and what it was then divided by (from
            the training part).
        sequences, steps: counts by part.
        sha256: of the prepared values and lengths.
        notes: sentences that users of the data should know, such as about sequences that two parts
            share.
    """

    name: str
    kind: str
    dim: int
    mean: list[float]
    std: list[float]
    sequences: dict[str, int]
    steps: dict[str, int]
    sha256: str
    notes: list[str] = field(default_factory=list)


def save(parts: dict[str, Part], name: str, entry: dict, path: Path) -> DataSpec:
    """Check, normalise and write a data set; return its specification.

    Sequences are read twice, one at a time: to check and measure them, and to write them.

    Args:
        parts: for each part, its sequences, (T, D) each; "{part}.latents", (T, Z), if known.
        name: the data set.
        entry: its entry in config/datasets.yaml.
        path: the file to write.
    Raises:
        ConfigError: its kind cannot be normalised as the entry says.
        DataError: the counts differ from those the entry expects; a sequence or a column does not
            fit the entry's kind (`repro.data.checks`).
    """
    check_normalisation(name, entry)
    lengths, columns, notes = _survey(parts, name, entry)
    mean, std = columns.normalisation()
    if entry["kind"] != "binary":
        columns.check(mean, std, entry["kind"], name)
    spec = DataSpec(
        name=name,
        kind=entry["kind"],
        dim=len(mean),
        mean=mean.tolist(),
        std=std.tolist(),
        sequences={part: len(lengths[part]) for part in PARTS},
        steps={part: sum(lengths[part]) for part in PARTS},
        sha256=DIGEST_PLACEHOLDER,
        notes=notes,
    )
    with replacing(path) as partial, partial.open("wb") as file:
        return _write(file, spec, json.dumps(entry), parts, lengths)


def load(path: Path, parts: tuple[str, ...]) -> tuple[DataSpec, dict[str, StoredSequences]]:
    """Return the specification and the sequences, (T, D) each, of the parts asked for.

    Parts that are not asked for are not read: training never touches the test part. The part
    "test.latents" is empty where the data have none.

    Raises:
        DataError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    dataset = path.parent.name
    remedy = f"run `repro fetch --dataset {dataset}` and `repro prepare --dataset {dataset}`"
    if not readable(path):
        raise DataError(f"{path} is missing: {remedy}.")
    try:
        with safe_open(path, framework="numpy") as checked, path.open("rb") as file:
            metadata, digests = _verified(checked.metadata())
            spec = DataSpec(**json.loads(metadata["spec"]))
            layout, begin = _read_layout(file)
            read = {part: _stored(file, layout, begin, digests, part) for part in parts}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and {remedy}.") from None
    return spec, read


def made_by(path: Path) -> dict:
    """Return the entry that a file was prepared from; empty for older files, which lack it.

    Raises:
        DataError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(_verified(file.metadata())[0].get("entry", "{}"))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and prepare again.") from None


def _verified(metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    # The texts of a header, and the digests of everything in the file.
    digests = json.loads(metadata["digests"])
    for name in {"spec", "entry"} & {*metadata, *digests}:  # older files have no entry
        if _digest(metadata[name].encode()) != digests[name]:
            raise ValueError(f"the sha256 of its {name} differs")
    return metadata, digests


def _survey(
    parts: dict[str, Part], name: str, entry: dict
) -> tuple[dict[str, list[int]], ColumnStatistics, list[str]]:
    # Every sequence is checked here; the moments are the training part's.
    lengths: dict[str, list[int]] = {part: [] for part in PARTS}
    for part in PARTS:
        if not len(parts[part]):
            raise DataError(f"{name}: {part} has no sequences; every part needs one.")
    first = f"{name}: train, {name_of(parts['train'], 0)}"
    dim = check_sequence(parts["train"][0], entry["kind"], first).shape[1]
    columns, offsets = ColumnStatistics(dim, entry["normalise"]), OffsetStatistics()
    digests: dict[str, list[bytes]] = {part: [] for part in PARTS}

    def checked(part: str) -> Iterator[np.ndarray]:
        for i, raw in enumerate(parts[part]):
            where = f"{name}: {part}, {name_of(parts[part], i)}"
            sequence = check_sequence(raw, entry["kind"], where)
            if sequence.shape[1] != dim:
                raise DataError(
                    f"{where} has {sequence.shape[1]} columns, but the first sequence of train has "
                    f"{dim}: all sequences must have the same number of columns, D."
                )
            lengths[part].append(len(sequence))
            content = np.ascontiguousarray(sequence, dtype=np.float64)
            digests[part].append(hashlib.sha256(content.tobytes()).digest())
            if entry["kind"] == "strokes":
                offsets.add(sequence, where)
            yield sequence

    for part in PARTS:
        measured = part == "train" and entry["kind"] != "binary"
        for frames in chunks(checked(part)) if measured else checked(part):
            if measured:
                columns.add(frames)
        counted = {"sequences": len(lengths[part]), "steps": sum(lengths[part])}
        for what, counts in entry.get("expected", {}).items():
            if counted[what] != counts[part]:
                raise DataError(
                    f"{name}: {counted[what]} {what} in {part}, expected {counts[part]} "
                    "(config/datasets.yaml): the source files are not the ones described there."
                )
    notes = _overlap_notes(digests)
    if entry["kind"] == "strokes":
        offsets.check(entry.get("options", {}).get("largest_offset"))
        notes.append(f"the largest offset is {offsets.largest:g}: {offsets.where}")
    return lengths, columns, notes


def _overlap_notes(digests: dict[str, list[bytes]]) -> list[str]:
    # On sequences that the training part shares, a score measures memory, not prediction.
    notes = []
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        known = set(digests[first])
        count = sum(digest in known for digest in digests[second])
        if count:
            whole = len(digests[second])
            notes.append(f"{count} of {whole} sequences of {second} are also in {first}")
    return notes


def _write(
    file: BinaryIO,
    spec: DataSpec,
    entry: str,
    parts: dict[str, Part],
    lengths: dict[str, list[int]],
) -> DataSpec:
    # The library writes only arrays in memory; here the digests follow once all is written.
    layout = _layout(spec, parts)
    digests = {
        **dict.fromkeys(("spec", *layout), DIGEST_PLACEHOLDER),
        "entry": _digest(entry.encode()),
    }
    file.write(_header(layout, spec, entry, digests))
    whole = hashlib.sha256()
    for key in layout:
        part, _, what = key.partition(".")
        cuts = np.array(lengths[part], dtype="<i8").tobytes()
        digest = hashlib.sha256()
        for block in [cuts] if what == "lengths" else _blocks(spec, parts, part, what):
            file.write(block)
            digest.update(block)
            if what == "values":
                whole.update(block)
        if what == "values":
            whole.update(cuts)
        digests[key] = digest.hexdigest()
    spec = replace(spec, sha256=whole.hexdigest())
    digests["spec"] = _digest(_spec_json(spec).encode())
    file.seek(0)
    file.write(_header(layout, spec, entry, digests))
    return spec


def _layout(spec: DataSpec, parts: dict[str, Part]) -> dict[str, dict]:
    # The header's entries, in the order of the file: 8 bytes per number first, then 4, then 1.
    shapes: dict[str, tuple[str, list[int]]] = {}
    for part in PARTS:
        shapes[f"{part}.lengths"] = "I64", [spec.sequences[part]]
    for part in PARTS:
        if f"{part}.latents" in parts:
            size = parts[f"{part}.latents"][0].shape[1]
            shapes[f"{part}.latents"] = "F32", [spec.steps[part], size]
    for part in PARTS:
        dtype = "U8" if spec.kind == "binary" else "F32"
        shapes[f"{part}.values"] = dtype, [spec.steps[part], spec.dim]
    layout, end = {}, 0
    for key, (dtype, shape) in shapes.items():
        begin, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        layout[key] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return layout


def _header(layout: dict[str, dict], spec: DataSpec, entry: str, digests: dict[str, str]) -> bytes:
    metadata = {"spec": _spec_json(spec), "entry": entry, "digests": json.dumps(digests)}
    text = json.dumps({"__metadata__": metadata, **layout}).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(spec: DataSpec, parts: dict[str, Part], part: str, what: str) -> Iterator[bytes]:
    """Yield the bytes of every sequence, of its normalised values or of its latents."""
    if what == "latents":
        yield from (z.astype("<f4").tobytes() for z in parts[f"{part}.latents"])
        return
    dtype = "|u1" if spec.kind == "binary" else "<f4"
    for i, raw in enumerate(parts[part]):
        with np.errstate(over="ignore"):
            values = (np.asarray(raw, dtype=np.float64) - spec.mean) / spec.std
            prepared = values.astype(dtype)
        if not np.isfinite(prepared).all():
            step, column = np.argwhere(~np.isfinite(prepared))[0].tolist()
            raise DataError(
                f"{spec.name}: {part}, {name_of(parts[part], i)}, step {step}, column {column} is "
                f"{np.asarray(raw)[step, column]}, which normalised by the training part's mean "
                "and deviation is beyond float32: correct the value, or leave the sequence out."
            )
        yield prepared.tobytes()


def _read_layout(file: BinaryIO) -> tuple[dict[str, dict], int]:
    # Where each array is: the library has checked the header but does not give the offsets.
    size = int.from_bytes(file.read(8), "little")
    return json.loads(file.read(size)), 8 + size


def _stored(
    file: BinaryIO, layout: dict[str, dict], begin: int, digests: dict[str, str], part: str
) -> StoredSequences:
    name, _, latents = part.partition(".")
    key = f"{name}.latents" if latents else f"{name}.values"
    if latents and key not in layout:
        return StoredSequences(file, 0, "|u1", 0, [])
    for verified in (f"{name}.lengths", key):
        first, end = layout[verified]["data_offsets"]
        file.seek(begin + first)
        if _digest_of(file, end - first) != digests[verified]:
            raise ValueError(f"the sha256 of {verified} differs")
    first, end = layout[f"{name}.lengths"]["data_offsets"]
    file.seek(begin + first)
    lengths = np.frombuffer(file.read(end - first), dtype="<i8").tolist()
    dtype, (steps, dim) = DTYPES[layout[key]["dtype"]], layout[key]["shape"]
    if sum(lengths) != steps:
        raise ValueError(f"{key} does not fit its lengths")
    return StoredSequences(file, begin + layout[key]["data_offsets"][0], dtype, dim, lengths)


def _digest_of(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _spec_json(spec: DataSpec) -> str:
    return json.dumps(asdict(spec))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

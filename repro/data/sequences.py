"""The one prepared format: ragged sequences of three parts in a safetensors file.

`{part}.values` (sum of lengths, D) holds the sequences of train, valid or test end to end, uint8
for binary data and float32 (normalised) for real data; `{part}.lengths` (N,) int64 cuts them.
Synthetic data also have `{part}.latents` (sum of lengths, Z) float32, the z they were drawn with.
The header's metadata holds the specification below and a SHA-256 of each array as JSON. Nothing in
it can run code.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.errors import DataError
from repro.files import replacing

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class DataSpec:
    """What a model or a table must know of a data set.

    Attributes:
        name: the data set.
        kind: "binary", "real" or "strokes".
        dim: D, the size of one time step.
        mean, std: what was subtracted from and divided out of each dimension (training part).
        sequences, steps: counts by part.
        sha256: of the prepared values and lengths.
    """

    name: str
    kind: str
    dim: int
    mean: list[float]
    std: list[float]
    sequences: dict[str, int]
    steps: dict[str, int]
    sha256: str


def normalisation(train: list[np.ndarray], how: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and standard deviation to normalise with, (D,) each, in float64."""
    frames = np.concatenate(train).astype(np.float64)
    dim = frames.shape[1]
    if how == "none":
        return np.zeros(dim), np.ones(dim)
    if how == "global":
        return np.full(dim, frames.mean()), np.full(dim, frames.std())
    if how == "offsets":  # of pen trajectories: the bit stays, the offsets share two numbers
        mean, std = frames[:, 1:].mean(), frames[:, 1:].std()
        return np.array([0.0, mean, mean]), np.array([1.0, std, std])
    return frames.mean(axis=0), frames.std(axis=0)


def save(parts: dict[str, list[np.ndarray]], name: str, entry: dict, path: Path) -> DataSpec:
    """Normalise and write a data set; return its specification.

    Args:
        parts: for each part, its sequences, (T, D) each; "{part}.latents", (T, Z), if known.
        name: the data set.
        entry: its entry in config/datasets.yaml.
        path: the file to write.
    Raises:
        DataError: the counts differ from those the entry expects, or a value is not finite.
    """
    from safetensors.numpy import save_file

    _check(parts, name, entry)
    mean, std = normalisation(parts["train"], entry["normalise"])
    dtype = np.uint8 if entry["kind"] == "binary" else np.float32
    arrays, digest = {}, hashlib.sha256()
    for part in PARTS:
        values = (np.concatenate(parts[part]) - mean) / std
        arrays[f"{part}.values"] = np.ascontiguousarray(values.astype(dtype))
        arrays[f"{part}.lengths"] = np.array([len(s) for s in parts[part]], dtype=np.int64)
        for key in (f"{part}.values", f"{part}.lengths"):
            digest.update(arrays[key].tobytes())
        if f"{part}.latents" in parts:
            latents = np.concatenate(parts[f"{part}.latents"])
            arrays[f"{part}.latents"] = latents.astype(np.float32)
    spec = DataSpec(
        name=name,
        kind=entry["kind"],
        dim=len(mean),
        mean=mean.tolist(),
        std=std.tolist(),
        sequences={part: len(parts[part]) for part in PARTS},
        steps={part: int(arrays[f"{part}.lengths"].sum()) for part in PARTS},
        sha256=digest.hexdigest(),
    )
    text = json.dumps(asdict(spec))
    digests = {"spec": _digest(text.encode())}
    digests |= {name: _digest(array.tobytes()) for name, array in arrays.items()}
    metadata = {"spec": text, "digests": json.dumps(digests)}
    with replacing(path) as partial:
        save_file(arrays, partial, metadata=metadata)
    return spec


def load(path: Path, parts: tuple[str, ...]) -> tuple[DataSpec, dict[str, list[np.ndarray]]]:
    """Return the specification and the sequences, (T, D) each, of the parts asked for.

    Parts that are not asked for are not read: training never touches the test part. The part
    "test.latents" is empty where the data have none.

    Raises:
        DataError: the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    dataset = path.parent.name
    remedy = f"run `repro fetch --dataset {dataset}` and `repro prepare --dataset {dataset}`"
    if not path.exists():
        raise DataError(f"{path} is missing: {remedy}.")
    try:
        with safe_open(path, framework="numpy") as file:
            text, digests = file.metadata()["spec"], json.loads(file.metadata()["digests"])
            if _digest(text.encode()) != digests["spec"]:
                raise ValueError("the sha256 of its specification differs")
            spec = DataSpec(**json.loads(text))
            sequences = {}
            for part in parts:
                name, _, latents = part.partition(".")
                key = f"{name}.latents" if latents else f"{name}.values"
                ends = np.cumsum(_verified(file, f"{name}.lengths", digests))
                unknown = latents and key not in file.keys()  # noqa: SIM118
                sequences[part] = (
                    [] if unknown else np.split(_verified(file, key, digests), ends[:-1])
                )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): remove it and {remedy}.") from None
    return spec, sequences


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _verified(file: Any, key: str, digests: dict[str, str]) -> np.ndarray:
    array = file.get_tensor(key)
    if _digest(array.tobytes()) != digests[key]:
        raise ValueError(f"the sha256 of {key} differs")
    return array


def _check(parts: dict[str, list[np.ndarray]], name: str, entry: dict) -> None:
    for part in PARTS:
        found = {"sequences": len(parts[part]), "steps": sum(len(s) for s in parts[part])}
        for what, counts in entry.get("expected", {}).items():
            if found[what] != counts[part]:
                raise DataError(
                    f"{name}: {found[what]} {what} in {part}, expected {counts[part]} "
                    "(config/datasets.yaml): the source files are not the ones described there."
                )
        if not all(np.isfinite(s).all() and len(s) for s in parts[part]):
            raise DataError(
                f"{name}: a sequence in {part} is empty or holds a value that is not finite."
            )

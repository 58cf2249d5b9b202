"""Checkpoints: the chosen weights with everything needed to use them; and the state to resume."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from repro.data.prepared import DataSpec
from repro.errors import CheckpointError
from repro.models import build
from repro.models.base import ModelSpec, SequenceModel
from repro.runtime.files import readable, replacing


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint holds besides the weights.

    Attributes:
        recipe: the frozen configuration of the run. seed: its seed.
        data: specification of the data it was trained on.
        training: epochs, updates, seconds of wall-clock and of CPU time, best epoch and its
            validation bound, parameter count; under "validations" the learning curve, one list per
            column: epoch, valid_bound (nats per step), valid_is if it was computed.
        environment: code version, libraries and hardware of the training.
    """

    recipe: dict
    seed: int
    data: dict
    training: dict
    environment: dict


def model_spec(recipe: dict, data: DataSpec) -> ModelSpec:
    """Return what `models.build` needs, from a recipe and the specification of its data."""
    model = recipe["model"]
    return ModelSpec(
        name=model["name"],
        family=model["family"],
        head=model["heads"][data.kind],
        sizes=model["sizes"],
        dim=data.dim,
        mean=data.mean,
        std=data.std,
        options=recipe["dataset"]["options"],
    )


def save_checkpoint(path: Path, weights: dict[str, torch.Tensor], info: CheckpointInfo) -> None:
    """Write weights and info, with a digest of both, to a safetensors file, or nothing at all."""
    from safetensors.torch import save_file

    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    text = json.dumps(vars(info))
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"info": text, "sha256": _digest(tensors, text)})


def load_checkpoint(
    path: Path, expected: dict[str, Any] | None = None
) -> tuple[SequenceModel, CheckpointInfo]:
    """Return the model in a checkpoint and what is stored with its weights.

    Args:
        path: the file.
        expected: what the caller believes it holds: any of "model", "dataset", "seed".
    Raises:
        CheckpointError: the file is missing, damaged, or not what was expected.
    """
    from safetensors import SafetensorError, safe_open

    if not readable(path):
        raise CheckpointError(f"{path} is missing: train it first (`repro train --help`).")
    try:
        with safe_open(path, framework="pt") as file:
            text, digest = file.metadata()["info"], file.metadata()["sha256"]
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if digest != _digest(weights, text):
            raise ValueError("its sha256 differs")
        info = CheckpointInfo(**json.loads(text))
        info.recipe["model"].pop("title", None)  # recipes had one once; nothing depends on it
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): remove it and train again.") from None
    found = {
        "model": info.recipe["model"]["name"],
        "dataset": info.recipe["dataset"]["name"],
        "seed": info.seed,
    }
    for what, value in (expected or {}).items():
        if found[what] != value:
            raise CheckpointError(
                f"{path} is a checkpoint of {what} {found[what]}, not {value}: "
                "name the right file, or train again."
            )
    model = build(model_spec(info.recipe, DataSpec(**info.data)))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} no longer fits the code of model {found['model']} "
            f"({str(error).splitlines()[-1].strip()}): train again."
        ) from None
    return model, info


def require_same_data(
    checkpoint: Path, info: CheckpointInfo, data_file: Path, found: DataSpec
) -> None:
    """Refuse data that a checkpoint was not trained on: other values, or another normalisation.

    Args:
        checkpoint, data_file: for the message. found: the specification of these data.
    Raises:
        CheckpointError: they differ.
    """
    trained = DataSpec(**info.data)
    if trained.sha256 != found.sha256:
        how = f"sha256 {trained.sha256[:12]}… and {found.sha256[:12]}…"
    elif (trained.mean, trained.std) != (found.mean, found.std):
        how = "normalised with other means or standard deviations"
    else:
        return
    raise CheckpointError(
        f"{checkpoint} was trained on other data than {data_file} ({how}): train again."
    )


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of named tensors, whatever their order and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def checkpoint_in(folder: Path) -> Path:
    """Return the path of the checkpoint in a run's folder."""
    return folder / "checkpoint.safetensors"


def is_trained(path: Path, recipe: dict, data_sha256: str) -> bool:
    """Return whether `path` is a complete checkpoint of a recipe on these data."""
    if not readable(path):
        return False
    info = load_checkpoint(path)[1]
    return info.recipe == recipe and info.data["sha256"] == data_sha256


def save_state(path: Path, state: dict) -> None:
    """Write everything a run needs to continue as if it had never stopped, after its SHA-256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    with replacing(path) as partial:
        partial.write_bytes(hashlib.sha256(payload).digest() + payload)


def load_state(path: Path, fingerprint: str) -> dict | None:
    """Return the state to resume from; None if there is none for this configuration."""
    if not readable(path):
        return None
    content = path.read_bytes()
    digest, payload = content[:32], content[32:]
    try:
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError("its sha256 differs")
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}): remove it to train from the start."
        ) from None
    return state if state["fingerprint"] == fingerprint else None


def _digest(weights: dict[str, torch.Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()

"""Samples of a trained model beside real test sequences."""

from pathlib import Path

import numpy as np
import torch

from repro.checkpoints import load_checkpoint
from repro.data import sequences
from repro.files import replacing
from repro.seeding import generator


def sample(checkpoint: Path, num: int, steps: int, expected: dict | None = None) -> np.ndarray:
    """Return `num` sequences of `steps` steps drawn from a checkpoint, (N, T, D), raw units.

    The seed of the draw is the training's.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another cell.
    """
    model, info = load_checkpoint(checkpoint, expected)
    with torch.no_grad():
        drawn = model.eval().sample(num, steps, generator(info.seed, "samples"))
    return drawn.transpose(0, 1).numpy() * np.array(info.data["std"]) + np.array(info.data["mean"])


def write_samples(
    checkpoint: Path, data_file: Path, num: int, path: Path, expected: dict | None = None
) -> None:
    """Write an .npz of `samples` and real `data`, (N, T, D) each, in raw units.

    The real sequences are the first validation sequences that are at least as long as the median.
    """
    spec, parts = sequences.load(data_file, ("valid",))
    steps = int(np.median([len(s) for s in parts["valid"]]))
    real = [s[:steps] for s in parts["valid"] if len(s) >= steps][:num]
    drawn = sample(checkpoint, num, steps, expected)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, samples=drawn, data=np.stack(real) * spec.std + spec.mean)

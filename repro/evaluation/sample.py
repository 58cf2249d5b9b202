"""Samples of a trained model, and real validation sequences to compare them with."""

from pathlib import Path

import numpy as np
import torch

from repro.data import prepared
from repro.models.base import SequenceModel
from repro.runtime.files import replacing
from repro.runtime.seeding import generator
from repro.training.checkpoints import CheckpointInfo, load_checkpoint, require_same_data


@torch.no_grad()
def sample(model: SequenceModel, info: CheckpointInfo, num: int, steps: int) -> np.ndarray:
    """Return `num` sequences of `steps` steps drawn from a model, (N, T, D), in raw units.

    The draw uses the seed of the training.
    """
    drawn = model.eval().sample(num, steps, generator(info.seed, "samples"))
    return drawn.transpose(0, 1).numpy() * np.array(info.data["std"]) + np.array(info.data["mean"])


@torch.no_grad()
def kl_of_steps(model: SequenceModel, sequences: np.ndarray, seed: int) -> np.ndarray | None:
    """Return KL(q ‖ p) of every step of equally long sequences (N, T, D), (N, T) in nats.

    It is the mean over ten draws of the earlier states; None if there is no latent variable, or no
    analytic KL.
    """
    x = torch.from_numpy(sequences.astype(np.float32)).transpose(0, 1)
    noise = torch.randn(len(x), 10, x.shape[1], model.latent, generator=generator(seed, "kl"))
    terms = model.eval()(x, torch.full((x.shape[1],), len(x)), noise)
    if not model.latent or terms.kl is None:
        return None
    return terms.kl.mean(1).T.numpy()


def write_samples(
    checkpoint: Path, data_file: Path, num: int, path: Path, expected: dict | None = None
) -> None:
    """Write an .npz of `samples` and real `data`, (N, T, D) each, in raw units.

    The real sequences are the first validation sequences that are at least as long as the median;
    `kl` (N, T) has the KL of their steps, if the model has an analytic one, and `sample_rate_hz` is
    0 unless the data are waveforms.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another cell or data.
    """
    model, info = load_checkpoint(checkpoint, expected)
    spec, parts = prepared.load(data_file, ("valid",))
    require_same_data(checkpoint, info, data_file, spec)
    steps = int(np.median(parts["valid"].lengths))
    long_enough = [i for i, length in enumerate(parts["valid"].lengths) if length >= steps][:num]
    real = np.stack([parts["valid"][i][:steps] for i in long_enough])
    arrays = {
        "samples": sample(model, info, num, steps),
        "data": real * spec.std + spec.mean,
        "sample_rate_hz": info.recipe["dataset"]["options"].get("sample_rate_hz", 0),
    }
    kl = kl_of_steps(model, real, info.seed)
    if kl is not None:
        arrays["kl"] = kl
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)

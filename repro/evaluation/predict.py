"""How well a trained model predicts the next step, step by step."""

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from repro.data import batches, prepared
from repro.data.batches import Batch
from repro.evaluation.evaluate import filter_steps
from repro.models.base import SequenceModel
from repro.runtime.files import replacing
from repro.training.checkpoints import load_checkpoint, require_same_data

BATCH_SIZE = 20  # in one pass


@torch.no_grad()
def next_step_log_likelihood(
    model: SequenceModel, batch: Batch, particles: int, seed: int
) -> Tensor:
    """Return log p(x_t | x_<t), (T, B), in nats; 0 past each sequence's end.

    Exact if there are no latent variables; else the increments of the particle filter's estimate
    of log p(x_≤t), whose sum over a sequence is its FIVO.
    """
    if not model.latent:
        noise = batch.x.new_zeros(len(batch.x), 1, len(batch.ids), 0)
        return model(batch.x, batch.lengths, noise).log_likelihood[:, 0]
    so_far = filter_steps(model, batch, particles, seed)
    return so_far.diff(dim=0, prepend=torch.zeros_like(so_far[:1]))


def write_predictions(
    checkpoint: Path,
    data_file: Path,
    particles: int,
    device: torch.device,
    path: Path,
    expected: dict | None = None,
) -> None:
    """Write a CSV with sequence, step and log p(x_t | x_<t) in nats of every test step.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another cell or data.
    """
    model, info = load_checkpoint(checkpoint, expected)
    model = model.to(device).eval()
    spec, parts = prepared.load(data_file, ("test",))
    require_same_data(checkpoint, info, data_file, spec)
    test = batches.to_tensors(parts["test"], device)
    order, tables = batches.by_length(test), []
    for start in range(0, len(order), BATCH_SIZE):
        batch = batches.collate(test, order[start : start + BATCH_SIZE])
        values = next_step_log_likelihood(model, batch, particles, info.seed).cpu()
        for b, (identity, length) in enumerate(zip(batch.ids, batch.lengths.tolist(), strict=True)):
            rows = {"sequence": identity, "step": range(length), "nats": values[:length, b].numpy()}
            tables.append(pd.DataFrame(rows))
    table = pd.concat(tables).sort_values(["sequence", "step"])
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6f")

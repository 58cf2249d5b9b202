"""Your own model, in a file outside the package: an RNN with a gated unit.

Copy it, rename it, and name it in your preset as `family: "config/own_model.py:build"`. This one
has no latent variables and overrides `advance`; `repro/models/base.py` describes what a latent
model has instead: encode, initial, propose and score.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.models.base import ModelSpec, SequenceModel, Terms, without_latent


class State(NamedTuple):
    """x_t and the unit's output after it, (1, B, ·)."""

    x: Tensor
    hidden: Tensor


class GatedRNN(SequenceModel):
    """h_t = GRU(x_{t-1}, h_{t-1}), p(x_t | x_<t) = head(h_t); x_0 = 0."""

    traits = Traits(latent=False)  # settings that do not fit it are refused

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.unit = nn.GRU(spec.dim, spec.sizes["hidden"])
        self.head = build_head(spec.head, spec.sizes["hidden"], spec.dim, spec.sizes)
        self.dim = spec.dim

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: State | None = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, State]:
        first = x.new_zeros(1, *x.shape[1:]) if state is None else state.x
        before = None if state is None else state.hidden
        features, hidden = self.unit(torch.cat([first, x[:-1]]), before)
        log_likelihood = self.head.log_prob(self.head(features), x)
        return without_latent(log_likelihood, lengths), State(x[-1:], hidden)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.unit.weight_ih_l0.device
        x, hidden, drawn = torch.zeros(1, num, self.dim, device=device), None, []
        for _ in range(steps):
            features, hidden = self.unit(x, hidden)
            x = self.head.sample(self.head(features), generator)
            drawn.append(x)
        return torch.cat(drawn)


build = GatedRNN

"""A control that must lose: every step independent of every other."""

import torch
from torch import Tensor

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.models.base import ModelSpec, SequenceModel, Terms, without_latent


class Marginal(SequenceModel):
    """x_t ~ head(constant): the best that can be said without looking at the past."""

    traits = Traits(latent=False)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.head = build_head(spec.head, 1, spec.dim, spec.sizes)

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: None = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, None]:
        return without_latent(self.head.log_prob(self.head(x.new_ones(1)), x), lengths), None

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        ones = torch.ones(steps, num, 1, device=next(self.parameters()).device)
        return self.head.sample(self.head(ones), generator)


build = Marginal

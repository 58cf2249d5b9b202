"""RNN-Gauss, RNN-GMM and their Bernoulli sibling: no latent variables, exact likelihood."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.packing import packing
from repro.models.base import ModelSpec, SequenceModel, Terms, without_latent
from repro.nn.dropout import Dropout
from repro.nn.init import initialise
from repro.nn.mlp import MLP
from repro.nn.recurrent import run_lstm, worth_packing


class State(NamedTuple):
    """h_{t-1} and the LSTM's cell, (1, B, H)."""

    hidden: Tensor
    cell: Tensor


class RNN(SequenceModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = LSTM(φ_x(x_t), h_{t-1}), h_0 = 0.

    Chung et al. 2015, section 2.1. In training, dropout (where `sizes` has it) falls on the LSTM's
    inputs and on what the decoder reads, never on its memory (Zaremba et al. 2014, arXiv
    1409.2329).

    Padding comes after every real step, and its likelihood is masked.
    """

    traits = Traits(latent=False)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.features = MLP(spec.dim, sizes["features"])
        self.lstm = nn.LSTM(self.features.width, sizes["hidden"])
        share = sizes.get("dropout", 0.0)
        self.drop_features = Dropout(share, self.features.width)
        self.drop_hidden = Dropout(share, sizes["hidden"])
        self.decoder = MLP(sizes["hidden"], sizes["decoder"])
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: State | None = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, State]:
        if state is None:
            zero = x.new_zeros(1, x.shape[1], self.lstm.hidden_size)
            state = State(zero, zero)
        features = self.drop_features(self.features(x))
        hidden, *last = run_lstm(self.lstm, features, lengths, state.hidden[0], state.cell[0])
        past = self.drop_hidden(torch.cat([state.hidden, hidden[:-1]]))  # step t sees x_<t
        state = State(*(s.unsqueeze(0) for s in last))
        if steps_at_once is None and worth_packing(lengths, x):
            rows = packing(lengths, len(x))
            past_rows, x_rows = (rows.pack(t.unsqueeze(1)) for t in (past, x))  # (1, N, ·)
            return without_latent(rows.unpack(self._score(past_rows, x_rows))[:, 0], lengths), state
        block = steps_at_once or len(x)
        parts = zip(past.split(block), x.split(block), strict=True)
        return without_latent(torch.cat([self._score(*part) for part in parts]), lengths), state

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = next(self.lstm.parameters()).device
        hidden = torch.zeros(1, num, self.lstm.hidden_size, device=device)
        state, drawn = (hidden, hidden), []
        for _ in range(steps):
            x = self.head.sample(self.head(self.decoder(state[0])), generator)
            _, state = self.lstm(self.features(x), state)
            drawn.append(x)
        return torch.cat(drawn)

    def _score(self, past: Tensor, x: Tensor) -> Tensor:
        # log p(x_t | h) of (..., H) and (..., D), (...)
        return self.head.log_prob(self.head(self.decoder(past)), x)


build = RNN

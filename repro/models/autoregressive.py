"""The common part of exact autoregressive families: all but the layers that carry the past."""

from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import ConfigError
from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.kernels.packing import packing
from repro.models.base import ModelSpec, SequenceModel, Terms, without_latent
from repro.models.time_loop import State
from repro.nn.dropout import Dropout
from repro.nn.init import initialise
from repro.nn.mlp import MLP
from repro.nn.recurrent import worth_packing


class AutoregressiveModel(SequenceModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = layers(φ_x(x_≤t)), h_0 = 0; the likelihood is exact.

    A family says what the layers are: `build_layers` makes them, `initial` is their state before
    the first step, `run` carries it over a stretch of steps.

    In training, dropout (where `sizes` has it) is applied to the inputs of the layers and of the
    decoder. Padding comes after every real step, and its likelihood is masked. Without a head
    (`spec.head` is empty) there are only features and layers, for a model that reads h_t itself.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes, self.dim = spec.sizes, spec.dim
        self.features = MLP(spec.dim, sizes["features"])
        self.build_layers(self.features.width, sizes)
        share = sizes.get("dropout", 0.0)
        self.drop_features = Dropout(share, self.features.width)
        self.drop_hidden = Dropout(share, sizes["hidden"])
        if spec.head:
            self.decoder = MLP(sizes["hidden"], sizes["decoder"])
            self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def build_layers(self, inputs: int, sizes: dict) -> None:
        """Make the layers, from `inputs` features to sizes["hidden"] outputs, as attributes."""
        raise NotImplementedError(f"{type(self).__name__} has no layers")

    def initial(self, num_samples: int, x: Tensor) -> State:
        """Return the state before the first step of x (T, B, D); there is one sample.

        Its first tensor is the output after the last step, (1, B, H); the others are what the
        layers remember, (·, B, ·) each.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state")

    def run(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Return h_t of every step, (T, B, H), and the state after the last.

        Args:
            features: φ_x(x), (T, B, F). lengths: (B,). The returned state has to be right only for
                sequences without padding.
        """
        raise NotImplementedError(f"{type(self).__name__} does not run")

    def past(self, x: Tensor, lengths: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Return h_{t-1} of every step of x, (T, B, H), and the state after the last.

        Args:
            state: what the call on the segment before returned; None at the start.
        Raises:
            ConfigError: the state is another model's, or of other sequences.
        """
        start = self.initial(1, x)
        if state is not None:
            start = _checked_state(state, start, type(self).__name__)
        hidden, state = self.run(self.drop_features(self.features(x)), lengths, start)
        return self.drop_hidden(torch.cat([start[0], hidden[:-1]])), state  # step t sees x_<t

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: State | None = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, State]:
        past, state = self.past(x, lengths, state)
        if steps_at_once is None and worth_packing(lengths, x):
            rows = packing(lengths, len(x))
            past_rows, x_rows = (rows.pack(t.unsqueeze(1)) for t in (past, x))  # (1, N, ·)
            return without_latent(rows.unpack(self._score(past_rows, x_rows))[:, 0], lengths), state
        block = steps_at_once or len(x)
        parts = zip(past.split(block), x.split(block), strict=True)
        return without_latent(torch.cat([self._score(*part) for part in parts]), lengths), state

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        x = torch.zeros(1, num, self.dim, device=next(self.parameters()).device)
        state, drawn = self.initial(1, x), []
        lengths = torch.ones(num, dtype=torch.long, device=x.device)
        for _ in range(steps):
            x = self.head.sample(self.head(self.decoder(state[0])), generator)
            _, state = self.run(self.features(x), lengths, state)
            drawn.append(x)
        return torch.cat(drawn)

    def _score(self, past: Tensor, x: Tensor) -> Tensor:
        # log p(x_t | h) of (..., H) and (..., D), (...)
        return self.head.log_prob(self.head(self.decoder(past)), x)


def _checked_state(state: Any, start: State, family: str) -> State:
    # A transformer's window starts empty and grows, so the first axis may differ.
    same = isinstance(state, State) and len(state) == len(start)
    if not same or any(s.shape[1:] != t.shape[1:] for s, t in zip(state, start, strict=True)):
        raise ConfigError(
            f"{family} cannot continue from this state: it is another model's, or of other "
            "sequences. Give it what its own `advance` returned for the segment before, or None."
        )
    return state


class LayeredModel(AutoregressiveModel):
    """h_t = norm(block_L(… block_1(W φ_x(x_≤t) + b))): blocks of one kind on top of each other.

    A family says what a `block` is: a module that maps (T, B, H) and its memory to the same, and
    whose `start` returns its memory before the first step, (·, B, ·).
    """

    def build_layers(self, inputs: int, sizes: dict) -> None:
        """Make embedding, blocks and the last norm."""
        self.embedding = Linear(inputs, sizes["hidden"])
        self.blocks = nn.ModuleList(self.block(i, sizes) for i in range(sizes["blocks"]))
        self.norm = self.last_norm(sizes["hidden"])

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return a block; `index` counts from 0, next to the embedding."""
        raise NotImplementedError(f"{type(self).__name__} has no blocks")

    def last_norm(self, width: int) -> nn.Module:
        """Return what the last block's output goes through."""
        return nn.LayerNorm(width)

    def initial(self, num_samples: int, x: Tensor) -> State:
        """Return zeros, and each block's memory before the first step of x (T, B, D)."""
        output = x.new_zeros(1, x.shape[1], self.embedding.out_features)
        return State(output, *(block.start(output) for block in self.blocks))  # type: ignore

    def run(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Return h_t of every step, (T, B, H), and the state after the last."""
        hidden, memories = self.embedding(features), []
        for block, memory in zip(self.blocks, state[1:], strict=True):
            hidden, memory = block(hidden, memory)
            memories.append(memory)
        hidden = self.norm(hidden)
        return hidden, State(hidden[-1:], *memories)

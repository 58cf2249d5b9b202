"""LSTMs over whole sequences and as single steps, safe for ragged batches."""

import torch
from torch import Tensor, nn

from repro.nn.linear import Linear


class RecurrentLinear(Linear):
    """The map from a hidden state to `gates` blocks of H; each block starts orthogonal."""

    def __init__(self, hidden: int, gates: int) -> None:
        super().__init__(hidden, gates * hidden, bias=False)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell state, (..., H) each.

    Args:
        gates: the four pre-activations input, forget, candidate, output, (..., 4H), in the order
            of torch.nn.LSTM.
        cell: the cell state, (..., H).
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Return each sequence of (T, B, ·) back to front; padding stays at the end."""
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)  # (T, 1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x.gather(0, source.unsqueeze(-1).expand_as(x))


class DirectedLSTM(nn.Module):
    """An LSTM over (T, B, ·), forwards, or backwards from each sequence's own last step.

    Padding comes after the last real step in the direction of travel, so it never reaches one.
    The initial cell state is a constant; torch's two bias vectors are kept (they add).
    """

    def __init__(self, in_features: int, hidden: int, backward: bool, initial_cell: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden)
        self.backward_in_time = backward
        self.initial_cell = initial_cell

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map (T, B, ·) to hidden states (T, B, H)."""
        hidden = x.new_zeros(1, x.shape[1], self.lstm.hidden_size)
        start = (hidden, hidden + self.initial_cell)
        if not self.backward_in_time:
            return self.lstm(x, start)[0]
        return reverse(self.lstm(reverse(x, lengths), start)[0], lengths)

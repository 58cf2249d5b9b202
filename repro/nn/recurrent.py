"""LSTMs over whole sequences and as single steps, safe for ragged batches."""

import torch
from torch import Tensor, nn

from repro.nn.linear import Linear
from repro.nn.lstm import lstm_rows, lstm_steps
from repro.nn.packing import packing
from repro.nn.ways import elementary

MUCH = 0.9  # share of valid steps below which padding is worth the detour


class RecurrentLinear(Linear):
    """The map from a hidden state to `gates` blocks of H; each block starts orthogonal."""

    def __init__(self, hidden: int, gates: int) -> None:
        super().__init__(hidden, gates * hidden, bias=False)


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Return each sequence of (T, B, ·) back to front; padding stays at the end."""
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)  # (T, 1)
    source = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x.gather(0, source.unsqueeze(-1).expand_as(x))


def run_lstm(
    lstm: nn.LSTM,
    x: Tensor,
    lengths: Tensor,
    hidden: Tensor,
    cell: Tensor,
    backward: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM of one layer over a padded batch; much padding is not computed on a CPU.

    torch's own kernel computes all of it, but each step a little faster.

    Args:
        x: (T, B, ·). lengths: (B,).
        hidden, cell: before the first step, (B, H).
        backward: from each sequence's own last step to its first. Padding comes after the last
            real step in the direction of travel, so that it never reaches one.
    Returns:
        the hidden states (T, B, H); hidden and cell state of the sequences that have no padding,
        after their last step, (B, H).
    """
    if elementary():
        x = reverse(x, lengths) if backward else x
        states, hidden, cell = lstm_steps(lstm, x, hidden, cell)
        return reverse(states, lengths) if backward else states, hidden, cell
    if x.device.type == "cpu" and int(lengths.sum()) < MUCH * len(x) * len(lengths):
        rows = packing(lengths, len(x), backward)
        start = hidden[rows.order], cell[rows.order]
        states, *last = lstm_rows(lstm, rows.pack(x.unsqueeze(1))[0], rows.sizes, *start)
        back = rows.order.argsort()
        return rows.unpack(states.unsqueeze(0))[:, 0], last[0][back], last[1][back]
    x = reverse(x, lengths) if backward else x
    states, last = lstm(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
    return reverse(states, lengths) if backward else states, last[0][0], last[1][0]


class DirectedLSTM(nn.Module):
    """An LSTM over (T, B, ·), forwards, or backwards from each sequence's own last step.

    The initial cell state is a constant; torch's two bias vectors are kept (they add).
    """

    def __init__(self, in_features: int, hidden: int, backward: bool, initial_cell: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden)
        self.backward_in_time = backward
        self.initial_cell = initial_cell

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map (T, B, ·) to hidden states (T, B, H)."""
        hidden = x.new_zeros(x.shape[1], self.lstm.hidden_size)
        start = hidden, hidden + self.initial_cell
        return run_lstm(self.lstm, x, lengths, *start, self.backward_in_time)[0]

    def set_forget_bias(self, value: float) -> None:
        """Set the forget gate's bias (torch's gate order: input, forget, candidate, output)."""
        biases = dict(self.lstm.named_parameters())
        _, forget, _, _ = biases["bias_ih_l0"].data.chunk(4)
        forget.fill_(value)

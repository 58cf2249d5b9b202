"""Recurrent networks over whole sequences, correct for ragged batches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.kernels import dispatch
from repro.kernels.linear import Linear
from repro.kernels.lstm import lstm_rows, lstm_steps
from repro.kernels.packing import packing
from repro.kernels.relu_rnn import relu_rows, relu_steps

PACKING_MAX_VALID_SHARE = 0.9  # of all steps; above it, rows are not faster than padding


def worth_packing(lengths: Tensor, x: Tensor) -> bool:
    """Return whether x (T, B, ·) is on a CPU and has so much padding that rows are faster."""
    if dispatch.current().plain or x.device.type != "cpu":
        return False
    return int(lengths.sum()) < PACKING_MAX_VALID_SHARE * len(x) * len(lengths)


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
    """Run an LSTM of one layer over a padded batch; on a CPU much padding is skipped.

    torch's own kernel computes all of the padding, but each step a little faster.

    Args:
        x: (T, B, ·). lengths: (B,).
        hidden, cell: before the first step, (B, H).
        backward: from each sequence's own last step to its first. Padding comes after the last
            real step in the direction of travel, so that it never reaches one.
    Returns:
        the hidden states (T, B, H); hidden and cell state of the sequences that have no padding,
        after their last step, (B, H).
    """
    if dispatch.current().plain:
        x = reverse(x, lengths) if backward else x
        states, hidden, cell = lstm_steps(lstm, x, hidden, cell)
        return reverse(states, lengths) if backward else states, hidden, cell
    if worth_packing(lengths, x):
        rows = packing(lengths, len(x))
        start = hidden[rows.order], cell[rows.order]
        packed = rows.pack(x.unsqueeze(1))[0]
        states, *last = lstm_rows(lstm, packed, rows.sizes, *start, backward)
        back = rows.order.argsort()
        return rows.unpack(states.unsqueeze(0))[:, 0], last[0][back], last[1][back]
    x = reverse(x, lengths) if backward else x
    states, last = lstm(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
    return reverse(states, lengths) if backward else states, last[0][0], last[1][0]


def run_rnn(rnn: nn.GRU | nn.RNN, x: Tensor, hidden: Tensor) -> Tensor:
    """Return the hidden states (T, B, H) of one layer, a GRU or tanh units, over x (T, B, ·).

    Args:
        hidden: before the first step, (1, B, H).
    """
    if not dispatch.current().plain:
        return rnn(x, hidden)[0]
    step = gru_step if isinstance(rnn, nn.GRU) else tanh_step
    input_weight, recurrent_weight, input_bias, recurrent_bias = rnn.parameters()
    states, h = [], hidden[0]
    for from_x in F.linear(x, input_weight, input_bias).unbind():
        h = step(from_x, F.linear(h, recurrent_weight, recurrent_bias), h)
        states.append(h)
    return torch.stack(states)


def gru_step(from_x: Tensor, from_h: Tensor, hidden: Tensor) -> Tensor:
    """Return h_t (B, H) of a GRU from its products with x_t and h_{t-1}, (B, 3H): r, u, n."""
    reset_x, update_x, new_x = from_x.chunk(3, dim=-1)
    reset_h, update_h, new_h = from_h.chunk(3, dim=-1)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return torch.lerp(new, hidden, torch.sigmoid(update_x + update_h))


def tanh_step(from_x: Tensor, from_h: Tensor, hidden: Tensor) -> Tensor:
    """Return h_t (B, H) of tanh units from the products with x_t and h_{t-1}."""
    return torch.tanh(from_x + from_h)


class DirectedLSTM(nn.Module):
    """An LSTM over (T, B, ·), forwards, or backwards from each sequence's own last step.

    Its state before the first step is a constant `start` for h and for c. As in torch, there are
    two bias vectors (which are added).
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        backward: bool,
        initial_cell: float = 0.0,
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.lstm = nn.LSTM(in_features, hidden)
        self.backward_in_time = backward
        self.start = (0.0, initial_cell)
        self.forget_bias = forget_bias

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map (T, B, ·) to hidden states (T, B, H)."""
        start = self._start(x, x.shape[1])
        return run_lstm(self.lstm, x, lengths, *start, self.backward_in_time)[0]

    def over_rows(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Map the rows (N, ·) of a `packing` with these sizes to hidden states (N, H)."""
        start = self._start(x, sizes[0])
        return lstm_rows(self.lstm, x, sizes, *start, self.backward_in_time)[0]

    def initialise(self) -> None:
        """Set the forget gate's bias (torch's gate order: input, forget, candidate, output)."""
        biases = dict(self.lstm.named_parameters())
        _, forget, _, _ = biases["bias_ih_l0"].data.chunk(4)
        forget.fill_(self.forget_bias)

    def _start(self, x: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        hidden, cell = (x.new_full((batch, self.lstm.hidden_size), value) for value in self.start)
        return hidden, cell


class DirectedReLU(nn.Module):
    """The same with ReLU units: h_t = ReLU(W x_t + U h_{t-1} + b) from h_0 = 0."""

    start = (0.0,)

    def __init__(self, in_features: int, hidden: int, backward: bool) -> None:
        super().__init__()
        self.rnn = nn.RNN(in_features, hidden, nonlinearity="relu")
        self.backward_in_time = backward

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map (T, B, ·) to hidden states (T, B, H)."""
        x = reverse(x, lengths) if self.backward_in_time else x
        hidden = x.new_zeros(x.shape[1], self.rnn.hidden_size)
        if dispatch.current().plain:
            states = relu_steps(self.rnn, x, hidden)
        else:
            states, _ = self.rnn(x, hidden.unsqueeze(0))
        return reverse(states, lengths) if self.backward_in_time else states

    def over_rows(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Map the rows (N, ·) of a `packing` with these sizes to hidden states (N, H)."""
        hidden = x.new_zeros(sizes[0], self.rnn.hidden_size)
        return relu_rows(self.rnn, x, sizes, hidden, self.backward_in_time)

"""RNN-Gauss, RNN-GMM and their Bernoulli sibling: no latent variables, exact likelihood.

The cell is an LSTM, as in Chung et al. (2015), a GRU or a layer of tanh units.
"""

from torch import Tensor, nn

from repro.config.traits import Traits
from repro.errors import require_known
from repro.models.autoregressive import AutoregressiveModel
from repro.models.base import ModelSpec
from repro.models.time_loop import State
from repro.nn.recurrent import run_lstm, run_rnn

CELLS: dict[str, type[nn.GRU] | type[nn.RNN]] = {"gru": nn.GRU, "tanh": nn.RNN}  # of one state


class RNN(AutoregressiveModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = LSTM(φ_x(x_t), h_{t-1}), h_0 = 0.

    Chung et al. 2015, section 2.1. Dropout is applied to the inputs of the LSTM and of the decoder,
    never to the LSTM's state (Zaremba et al. 2014, arXiv 1409.2329).
    """

    traits = Traits(latent=False)

    def build_layers(self, inputs: int, sizes: dict) -> None:
        """Make the LSTM."""
        self.lstm = nn.LSTM(inputs, sizes["hidden"])

    def initial(self, num_samples: int, x: Tensor) -> State:
        """Return h_0 and the LSTM's cell, zeros (1, B, H), for x (T, B, D)."""
        zero = x.new_zeros(1, x.shape[1], self.lstm.hidden_size)
        return State(zero, zero)

    def run(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Return h_t of every step, (T, B, H), and h and cell after the last."""
        before, cell = (s[0] for s in state)
        hidden, *last = run_lstm(self.lstm, features, lengths, before, cell)
        return hidden, State(*(s.unsqueeze(0) for s in last))


class OneStateRNN(AutoregressiveModel):
    """The same with a cell whose state is h alone, by `cell`.

    gru: r, u = σ(W x_t + V h_{t-1} + b), n = tanh(W_n x_t + b_n + r (V_n h_{t-1} + c_n)),
    h_t = (1 − u) n + u h_{t-1} (Cho et al. 2014, arXiv 1406.1078; as torch has it, r after the
    product). tanh: h_t = tanh(W x_t + V h_{t-1} + b) (Elman 1990). Chung et al. (2014, arXiv
    1412.3555) compare both with the LSTM.
    """

    traits = Traits(latent=False)

    def build_layers(self, inputs: int, sizes: dict) -> None:
        """Make the cell."""
        self.cell = CELLS[sizes["cell"]](inputs, sizes["hidden"])

    def initial(self, num_samples: int, x: Tensor) -> State:
        """Return h_0, zeros (1, B, H), for x (T, B, D)."""
        return State(x.new_zeros(1, x.shape[1], self.cell.hidden_size))

    def run(self, features: Tensor, lengths: Tensor, state: State) -> tuple[Tensor, State]:
        """Return h_t of every step, (T, B, H), and h after the last."""
        hidden = run_rnn(self.cell, features, state[0])
        return hidden, State(hidden[-1:])


def build(spec: ModelSpec) -> RNN | OneStateRNN:
    """Return the model whose cell `sizes["cell"]` names; absent, an LSTM.

    Raises:
        ConfigError: there is no such cell.
    """
    cell = spec.sizes.get("cell", "lstm")
    require_known("cell", cell, ("lstm", *CELLS))
    return RNN(spec) if cell == "lstm" else OneStateRNN(spec)

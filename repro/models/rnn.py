"""RNN-Gauss, RNN-GMM and their Bernoulli sibling: no latent variables, exact likelihood."""

from torch import Tensor, nn

from repro.config.traits import Traits
from repro.models.autoregressive import AutoregressiveModel, State
from repro.nn.recurrent import run_lstm


class RNN(AutoregressiveModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = LSTM(φ_x(x_t), h_{t-1}), h_0 = 0.

    Chung et al. 2015, section 2.1. Dropout falls on the LSTM's inputs and on what the decoder
    reads, never on its memory (Zaremba et al. 2014, arXiv 1409.2329).
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


build = RNN

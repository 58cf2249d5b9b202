"""minGRU and minLSTM: gates that do not read the state (Feng et al. 2024)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.errors import require_known
from repro.kernels.linear import Linear
from repro.kernels.linear_scan import linear_scan
from repro.models.autoregressive import LayeredModel
from repro.nn.blocks import ResidualBlock

GATES = {"mingru": 1, "minlstm": 2}


class MinimalRNN(nn.Module):
    """y_t = W_o h_t of a cell that is linear in its state, by `minimal_cell`.

    mingru: z = σ(W_z x_t + b_z), h_t = (1 − z) h_{t-1} + z g(W x_t + b) (Feng et al. 2024, arXiv
    2410.01201, section 3.1). minlstm: f, i = σ(W x_t + b), h_t = (f h_{t-1} + i g(W x_t + b)) /
    (f + i) (section 3.2). g(v) = v + 1/2 where v ≥ 0, else σ(v): positive, as in appendix B, where
    the recurrence is computed in log space. Here `linear_scan` computes it directly, and h_0 = 0.

    Raises:
        ConfigError: there is no such cell.
    """

    def __init__(self, width: int, cell: str) -> None:
        super().__init__()
        require_known("minimal_cell", cell, GATES)
        self.cell = cell
        self.inputs = Linear(width, (GATES[cell] + 1) * width)
        self.output = Linear(width, width, bias=False)

    def start(self, x: Tensor) -> Tensor:
        """Return h_0 for x (T, B, width), zeros (1, B, width)."""
        return x.new_zeros(1, *x.shape[1:])

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and h before it, (1, B, width), to the same."""
        candidate, *gates = self.inputs(x).chunk(GATES[self.cell] + 1, dim=-1)
        candidate = torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
        if self.cell == "mingru":
            kept, taken = torch.sigmoid(-gates[0]), torch.sigmoid(gates[0])
        else:  # f / (f + i), of log f and log i
            odds = F.logsigmoid(gates[0]) - F.logsigmoid(gates[1])
            kept, taken = torch.sigmoid(odds), torch.sigmoid(-odds)
        states = linear_scan(kept, taken * candidate, memory[0])
        return self.output(states), states[-1:]


class MinimalRNNModel(LayeredModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = norm(blocks(W φ_x(x_≤t) + b)), h_0 = 0.

    Blocks of a `MinimalRNN` and a feed-forward layer, each after a layer norm and beside a residual
    connection. Deliberate differences from the paper's language model: no short convolution
    before the cell, and layer norms for its root-mean-square norms.
    """

    traits = Traits(latent=False)

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return the cell and a feed-forward layer."""
        cell = MinimalRNN(sizes["hidden"], sizes["minimal_cell"])
        share = sizes.get("dropout", 0.0)
        return ResidualBlock(cell, sizes["hidden"], sizes["feedforward"], share)


build = MinimalRNNModel

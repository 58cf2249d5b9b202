"""A causal transformer over a sliding window, with rotary positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.errors import ConfigError
from repro.kernels import dispatch
from repro.kernels.linear import Linear
from repro.models.autoregressive import LayeredModel
from repro.nn.blocks import ResidualBlock

ROTARY_BASE = 10_000.0
QUERIES_AT_ONCE = 256  # bounds the memory of attention, whatever the length


class Attention(nn.Module):
    """Causal attention of several heads over the last `context` steps, the present one included.

    q_t, k_t, v_t = R_t W_q x_t, R_t W_k x_t, W_v x_t;
    y_t = W_o Σ_s softmax_s(q_tᵀ k_s / √d) v_s over t − context < s ≤ t

    (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1). R_t rotates coordinates i and i + d/2 of
    a head's d by the angle t / 10000^(2i/d) (Su et al. 2021, arXiv 2104.09864, equation 34), so
    that only distances matter, which never exceed context − 1. The model extrapolates to distances
    longer than the training sequences. No biases.

    Args:
        width: of x; each head has width / heads of it, an even number.
    Raises:
        ConfigError: the heads do not divide the width so.
    """

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        if width % (2 * heads):
            raise ConfigError(
                f"hidden: {width} units do not divide among {heads} heads into even widths, which "
                f"rotary positions need; make `hidden` a multiple of {2 * heads}."
            )
        self.inputs = Linear(width, 3 * width, bias=False)
        self.output = Linear(width, width, bias=False)
        self.heads, self.context = heads, context

    def start(self, x: Tensor) -> Tensor:
        """Return no keys and values of steps before the first of x (T, B, width)."""
        return x.new_zeros(0, x.shape[1], 2 * x.shape[2])

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and W_k x, W_v x of at most context − 1 steps before to the same."""
        queries, *new = self.inputs(x).chunk(3, dim=-1)
        keys_values = torch.cat([memory, torch.cat(new, dim=-1)])
        mixed, end = [], len(memory)
        for part in queries.split(QUERIES_AT_ONCE):
            end += len(part)
            window = keys_values[max(0, end - len(part) + 1 - self.context) : end]
            mixed.append(self._attend(part, *window.chunk(2, dim=-1)))
        memory = keys_values[max(0, len(keys_values) + 1 - self.context) :]
        return self.output(torch.cat(mixed)), memory

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        # The queries are those of the last steps that have keys.
        position = torch.arange(len(keys), device=keys.device)
        query_position = position[-len(queries) :]
        distance = query_position.unsqueeze(1) - position
        visible = (distance >= 0) & (distance < self.context)  # (queries, keys)
        q, k, v = (self._by_head(t) for t in (queries, keys, values))
        q, k = _rotated(q, query_position), _rotated(k, position)
        if dispatch.current().plain:
            weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf)
            mixed = weights.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return mixed.permute(2, 0, 1, 3).flatten(2)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).permute(1, 2, 0, 3)  # (B, heads, T, d)


def _rotated(x: Tensor, position: Tensor) -> Tensor:
    # x (..., T, d) at positions (T,)
    a, b = x.chunk(2, dim=-1)
    pairs = torch.arange(a.shape[-1], dtype=x.dtype, device=x.device)
    angles = position.unsqueeze(1) * ROTARY_BASE ** (-pairs / len(pairs))  # (T, d/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Transformer(LayeredModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = norm(blocks(W φ_x(x_≤t) + b)), h_0 = 0.

    Blocks of `Attention` and a feed-forward layer, each after a layer norm and beside a residual
    connection (`ResidualBlock`). A step attends to the last `context` steps in each block, so that
    a sequence of any length takes bounded memory when it comes in segments; L blocks have a
    receptive field of L (context − 1) earlier steps.
    """

    traits = Traits(latent=False)

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return attention and a feed-forward layer."""
        width = sizes["hidden"]
        attention = Attention(width, sizes["heads"], sizes["context"])
        return ResidualBlock(attention, width, sizes["feedforward"], sizes.get("dropout", 0.0))


build = Transformer

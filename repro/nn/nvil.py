"""Score-function gradients for latent variables that cannot be differentiated through."""

import torch
from torch import Tensor, nn

from repro.data.batches import real_steps
from repro.nn.mlp import MLP

MOMENT_DECAY = 0.8  # of the running moments (Mnih & Gregor 2014 keep 0.8 of the old value)


class NVIL(nn.Module):
    """Neural variational inference and learning (Mnih & Gregor 2014, arXiv 1402.0030) over time.

    With values f_s = log p(x_s | ·) − β KL(q_s ‖ p_s), in which z_t appears only from s = t on, the
    gradient of the ELBO Σ_s E f_s with respect to q's parameters is (Schulman et al. 2015,
    arXiv 1506.05254, theorem 1)

        E Σ_t ∇ log q(z_t | ·) (Q̂_t − b_t) + E Σ_t ∇ f_t,    Q̂_t = Σ_{s≥t} f_s,

    for any b_t that does not depend on z_≥t. Here b_t = Σ_{s≥t} c(x, s) + m: a network's prediction
    of each f_s from the data, and a running mean. With several samples per sequence, the mean of
    the others' Q̂_t − b_t is subtracted too: the network's error on the data is the same for all of
    them. q's gradient is divided by the running standard deviation of the signal if that exceeds 1.
    The analytic KL_t, instead of log q − log p at the sample, lowers the variance and leaves the
    expectation unchanged.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(MLP(in_features, [hidden]), nn.Linear(hidden, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    def scaled(self, logits: Tensor) -> Tensor:
        """Return q's logits unchanged; their gradient is divided by the signal's std.

        This scales all of q's gradient, the analytic KL's too: scaling the score function alone
        would give the KL more weight and drive q into the prior.
        """
        fixed = logits.detach()
        return fixed + (logits - fixed) / self.variance.sqrt().clamp(min=1.0)

    def forward(
        self, values: Tensor, log_q: Tensor, features: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return two scalars, means over samples and sequences.

        The first has the score-function part of the gradient (its value means nothing); the second
        is the mean squared error of the network's predictions, to be minimised.

        Args:
            values: f_s, (T, K, B), zero past each length.
            log_q: log q(z_t | ·), of the same shape.
            seen: features of the data alone, (T, B, ·).
            lengths: (B,).
        """
        inside = real_steps(lengths, len(values)).unsqueeze(1)
        predictions = (
            self.network(features).squeeze(-1).unsqueeze(1).where(inside, 0.0)
        )  # (T, 1, B)
        squared_errors = (values.detach() - predictions).square()
        error = squared_errors.sum() / (inside.sum() * values.shape[1])
        signal = _reverse_cumsum(values.detach() - predictions.detach())
        count = signal.shape[1]
        if count > 1:  # minus the mean of the other samples
            signal = (signal - signal.mean(1, keepdim=True)) * (count / (count - 1))
        centred = signal - self.mean
        if self.training:
            valid = signal[inside.expand_as(signal)]
            self.mean.mul_(MOMENT_DECAY).add_((1.0 - MOMENT_DECAY) * valid.mean())
            spread = valid.var() if valid.numel() > 1 else self.variance
            self.variance.mul_(MOMENT_DECAY).add_((1.0 - MOMENT_DECAY) * spread)
        return (log_q * centred.where(inside, 0.0)).sum(0).mean(), error


def _reverse_cumsum(values: Tensor) -> Tensor:
    """Return Σ_{s≥t} values_s for every t, (T, ...)."""
    return values.flip(0).cumsum(0).flip(0)

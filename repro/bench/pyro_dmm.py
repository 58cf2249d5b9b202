"""The same DMM under Pyro's SVI, for the comparison of speed; needs the extra `bench`."""

from collections.abc import Callable
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import BoolTensor, Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from repro.bench.plain import initial_state, run_torch_module
from repro.models.dmm import DMM
from repro.nn.recognition import StructuredInference
from repro.nn.recurrent import reverse


class PyroDMM(nn.Module):
    """Model and guide that read the weights of a DMM with structured inference.

    As Pyro users write it: a loop over steps with one sample statement each, masked by length; the
    recognition RNN is one call of torch's own. Backward RNN only (ST-R).

    Args:
        packed: feed the RNN a PackedSequence, as Pyro's own DMM example does, instead of the
            padded batch, so that torch computes no padding.
    """

    def __init__(self, dmm: DMM, packed: bool) -> None:
        super().__init__()
        self.dmm, self.packed = dmm, packed

    def model(self, x: Tensor, lengths: Tensor) -> None:
        """p(x, z)."""
        pyro.module("dmm", self)
        with pyro.plate("sequences", x.shape[1]):
            z = x.new_zeros(x.shape[1], self.dmm.latent)
            for t in range(len(x)):
                with pyro.poutine.mask(mask=cast(BoolTensor, t < lengths)):
                    if t == 0:
                        mean, std = torch.zeros_like(z), torch.ones_like(z)
                    else:
                        mean, std = self.dmm.transition(z, z)
                    z = pyro.sample(f"z_{t}", dist.Normal(mean, std).to_event(1))
                    logits = self.dmm.head(self.dmm.emission(z))
                    emission = dist.Bernoulli(logits=logits).to_event(1)
                    pyro.sample(f"x_{t}", emission, obs=x[t])

    def guide(self, x: Tensor, lengths: Tensor) -> None:
        """q(z | x), step by step from z_0 = 0."""
        pyro.module("dmm", self)
        network = self.dmm.inference
        assert isinstance(network, StructuredInference)
        (rnn,) = network.rnns
        inputs = reverse(network.embed(x), lengths)
        start = initial_state(rnn, x)
        if self.packed:
            rows = pack_padded_sequence(inputs, lengths, enforce_sorted=False)
            backwards, _ = pad_packed_sequence(run_torch_module(rnn, rows, start)[0])
        else:
            backwards, _ = run_torch_module(rnn, inputs, start)
        hidden = reverse(backwards, lengths)
        with pyro.plate("sequences", x.shape[1]):
            z = x.new_zeros(x.shape[1], self.dmm.latent)
            for t in range(len(x)):
                with pyro.poutine.mask(mask=cast(BoolTensor, t < lengths)):
                    combined = network.share * (torch.tanh(network.from_latent(z)) + hidden[t])
                    mean, std = network.posterior(combined)
                    z = pyro.sample(f"z_{t}", dist.Normal(mean, std).to_event(1))


def svi_step(dmm: DMM, x: Tensor, lengths: Tensor, packed: bool = False) -> Callable[[], float]:
    """Return a function that makes one SVI step on a batch and returns its loss."""
    pyro.clear_param_store()
    wrapped = PyroDMM(dmm, packed)
    optimizer = ClippedAdam({"lr": 8e-4, "clip_norm": 1.0})
    svi = SVI(wrapped.model, wrapped.guide, optimizer, Trace_ELBO())
    return lambda: svi.step(x, lengths)

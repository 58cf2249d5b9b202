"""The same models written step by step in the obvious way, with everything in the time loop."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from repro.heads.nade import NadeHead
from repro.models.base import SequenceModel, Terms, without_latent
from repro.models.dmm import DMM, Context
from repro.models.marginal import Marginal
from repro.models.terms import concatenate, masked
from repro.models.time_loop import propose_all, stack_steps
from repro.nn.recognition import StructuredInference
from repro.nn.recurrent import DirectedLSTM, DirectedReLU


def plain_terms(model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor) -> Terms:
    """Return what `model(x, lengths, noise)` returns, with every layer called once per step.

    For filtering models a step is a sequence of length one whose state is carried over; for the DMM
    (with structured inference) the recognition network runs step by step first, then transition
    and emission. A NADE has no time axis; its loop is over the values.
    """
    if isinstance(model, DMM):
        return _plain_dmm(model, x, lengths, noise)
    if isinstance(model, Marginal) and isinstance(model.head, NadeHead):
        return without_latent(_plain_nade(model.head, x), lengths)
    state, terms = None, []
    for t in range(len(x)):
        step = (x[t : t + 1], torch.ones_like(lengths), noise[t : t + 1], state)
        if model.latent:
            ((context, drawn, state),) = propose_all(model, *step)
            terms.append(model.score(context, drawn))
        else:
            scored, state = model.advance(*step)
            terms.append(scored)
    return masked(concatenate(terms), lengths)


def _plain_dmm(model: DMM, x: Tensor, lengths: Tensor, noise: Tensor) -> Terms:
    network = model.inference
    assert isinstance(network, StructuredInference)
    directions = [_hidden_states(rnn, network.embed, x, lengths) for rnn in network.rnns]
    state, previous_x, terms = model.initial(noise.shape[1], x), torch.zeros_like(x[0]), []
    dropped = network.dropouts[0].share
    for t in range(len(x)):
        hidden = [F.dropout(states[t], dropped, network.training) for states in directions]
        share = network.share * torch.stack(hidden).sum(0)
        is_first = x.new_full((*x.shape[1:2], 1), float(t == 0))
        context = Context(x[t][None], previous_x[None], is_first[None], share[None])
        state, step = model.propose(context, state, noise[t])
        terms.append(model.score(stack_steps([context]), stack_steps([step])))
        previous_x = x[t]
    return masked(concatenate(terms), lengths)


def _plain_nade(head: NadeHead, x: Tensor) -> Tensor:
    activation, visible = head(x.new_ones(1))
    total = torch.zeros(())
    values = zip(x.unbind(-1), head.read, head.write, visible, strict=True)
    for value, read, write, bias in values:
        logit = torch.sigmoid(activation) @ write + bias
        total = total + value * logit - F.softplus(logit)
        activation = activation + value.unsqueeze(-1) * read
    return total


def run_torch_module(
    rnn: DirectedLSTM | DirectedReLU, x: Tensor | PackedSequence, state: Sequence[Tensor]
) -> tuple[Any, Sequence[Tensor]]:
    """Run torch's own module over x from a state; return its hidden states and the last state.

    A state is (h, c) of an LSTM, (h,) of a ReLU RNN, (1, B, H) each.
    """
    if isinstance(rnn, DirectedLSTM):
        return rnn.lstm(x, tuple(state))
    states, hidden = rnn.rnn(x, *state)
    return states, (hidden,)


def initial_state(rnn: DirectedLSTM | DirectedReLU, x: Tensor) -> list[Tensor]:
    """Return the state before the first step of x (T, B, ·)."""
    width = (rnn.lstm if isinstance(rnn, DirectedLSTM) else rnn.rnn).hidden_size
    return [x.new_full((1, x.shape[1], width), value) for value in rnn.start]


def _hidden_states(
    rnn: DirectedLSTM | DirectedReLU,
    embed: Callable[[Tensor], Tensor],
    x: Tensor,
    lengths: Tensor,
) -> list[Tensor]:
    state = initial_state(rnn, x)
    states = [state[0][0]] * len(x)
    order = range(len(x))
    for t in reversed(order) if rnn.backward_in_time else order:
        _, after = run_torch_module(rnn, embed(x[t : t + 1]), state)
        inside = (t < lengths).unsqueeze(-1)  # padding never reaches a real step
        state = [new.where(inside, old) for new, old in zip(after, state, strict=True)]
        states[t] = state[0][0]
    return states

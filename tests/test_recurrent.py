"""Recurrences with a backward pass by hand, against torch's own on each sequence alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from repro.kernels import dispatch
from repro.kernels.lstm import lstm_rows, lstm_step
from repro.kernels.matmul import (
    PrepackedWeight,
    addmm_,
    matmul_out,
    product,
    weight_gradient,
)
from repro.kernels.packing import last_rows, packing
from repro.kernels.posterior_chain import CombinerWeights, posterior_chain
from repro.kernels.relu_rnn import relu_rows
from repro.kernels.vrnn_chain import VRNNWeights, vrnn_chain
from repro.nn import recurrent
from repro.nn.recurrent import run_lstm

pytestmark = pytest.mark.oracle
LENGTHS = [
    torch.tensor([3, 7, 1, 7, 4]),
    torch.tensor([5, 5, 5, 5, 5]),
    torch.tensor([1, 1, 1, 1, 1]),
]


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def gradients_of(total, tensors):
    return torch.autograd.grad(total, tensors)


def in_travel(steps, backward):
    return steps.flip(0) if backward else steps


@pytest.mark.parametrize("lengths", LENGTHS)
def test_rows_are_each_sequences_own_steps(lengths):
    x = draw(9, 2, 5, 3)  # padded beyond the longest
    rows = packing(lengths, len(x))
    packed = rows.pack(x).split(rows.sizes, dim=1)
    for column, b in enumerate(rows.order.tolist()):
        for t in range(lengths[b]):
            torch.testing.assert_close(packed[t][:, column], x[t, :, b], rtol=0, atol=0)
    inside = (torch.arange(9).unsqueeze(1) < lengths)[:, None, :, None]
    assert rows.unpack(rows.pack(x)).equal(x.where(inside, 0.0))
    assert sum(rows.sizes) == lengths.sum() and rows.sizes == sorted(rows.sizes, reverse=True)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_last_rows_are_the_last_steps(lengths):
    x = draw(7, 1, 5, 3)
    rows = packing(lengths, len(x))
    expected = x[lengths - 1, 0, torch.arange(5)][rows.order]
    assert last_rows(rows.pack(x)[0], rows.sizes).equal(expected)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("backward", [False, True])
def test_lstm_over_rows_equals_torchs_on_each_sequence(lengths, backward):
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4).double()
    x = draw(7, 5, 3).requires_grad_()
    hidden, cell = draw(5, 4).requires_grad_(), draw(4, 5).T.contiguous().requires_grad_()
    weigh, tensors = draw(7, 5, 4), [x, hidden, cell, *lstm.parameters()]
    rows = packing(lengths, len(x))
    start = hidden[rows.order], cell[rows.order]
    packed = rows.pack(x.unsqueeze(1))[0]
    states, *last = lstm_rows(lstm, packed, rows.sizes, *start, backward)
    padded = rows.unpack(states.unsqueeze(0))[:, 0]
    ours = (weigh * padded).sum() + sum((i + 2.0) * s.square().sum() for i, s in enumerate(last))
    theirs = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths.tolist()):
        start = hidden[b].view(1, 1, 4), cell[b].view(1, 1, 4)
        alone, (h, c) = lstm(in_travel(x[:length, b : b + 1], backward), start)
        alone = in_travel(alone, backward)
        torch.testing.assert_close(padded[:length, b], alone[:, 0])
        theirs = theirs + (weigh[:length, b] * alone[:, 0]).sum()
        theirs = theirs + 2.0 * h.square().sum() + 3.0 * c.square().sum()
    for a, b in zip(gradients_of(ours, tensors), gradients_of(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("backward", [False, True])
def test_relu_rnn_over_rows_equals_torchs_on_each_sequence(lengths, backward):
    torch.manual_seed(0)
    rnn, rows = nn.RNN(3, 4, nonlinearity="relu").double(), packing(lengths, 7)
    x, hidden = draw(7, 5, 3).requires_grad_(), draw(5, 4).requires_grad_()
    weigh, tensors = draw(7, 5, 4), [x, hidden, *rnn.parameters()]
    packed = rows.pack(x.unsqueeze(1))[0]
    states = relu_rows(rnn, packed, rows.sizes, hidden[rows.order], backward)
    padded = rows.unpack(states.unsqueeze(0))[:, 0]
    theirs = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths.tolist()):
        alone = in_travel(rnn(in_travel(x[:length, b], backward), hidden[b : b + 1])[0], backward)
        torch.testing.assert_close(padded[:length, b], alone)
        theirs = theirs + (weigh[:length, b] * alone).sum()
    ours = (weigh * padded).sum()
    for a, b in zip(gradients_of(ours, tensors), gradients_of(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backward", [False, True])
def test_lstm_over_rows_and_over_padding_agree(backward, monkeypatch):
    torch.manual_seed(0)
    lstm, lengths, x = nn.LSTM(3, 4).double(), LENGTHS[0], draw(7, 5, 3)
    found = []
    for share in (0.0, 1.1):  # never worth packing, always
        monkeypatch.setattr(recurrent, "PACKING_MAX_VALID_SHARE", share)
        states, *last = run_lstm(lstm, x, lengths, draw(5, 4), draw(5, 4), backward)
        whole = lengths == len(x)
        inside = torch.arange(7).unsqueeze(1) < lengths
        found.append([states[inside], *(state[whole] for state in last)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_lstm_step_equals_torchs_cell():
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 4).double()
    x, h, c = draw(2, 5, 3), draw(10, 4), draw(4, 10).T.contiguous()
    gates = F.linear(x.flatten(0, 1), cell.weight_ih, cell.bias_ih)
    gates = (gates + F.linear(h, cell.weight_hh, cell.bias_hh)).requires_grad_()
    c = c.requires_grad_()
    ours = lstm_step(gates.view(2, 5, 16), c.view(2, 5, 4))
    theirs = cell(x.flatten(0, 1), (h, c))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.flatten(0, 1), b)
    i, f, g, o = gates.chunk(4, dim=-1)
    after = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    by_autograd = (torch.sigmoid(o) * torch.tanh(after)).square().sum() + after.sin().sum()
    by_hand = ours[0].square().sum() + ours[1].sin().sum()
    pair = [gradients_of(total, (gates, c)) for total in (by_hand, by_autograd)]
    for a, b in zip(*pair, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_chain_of_posteriors_equals_its_steps_under_autograd(lengths):
    latent, hidden, share = 2, 3, 0.4
    rows = packing(lengths, int(lengths.max()))
    count = sum(rows.sizes)
    data, start = draw(count, hidden), draw(5, latent)
    weights = CombinerWeights(
        draw(hidden, latent), draw(hidden), draw(2 * latent, hidden), draw(2 * latent)
    )
    tensors = [t.requires_grad_() for t in (data, start, *weights)]
    noise, weigh = draw(count, latent), draw(4, count, latent)
    ours = posterior_chain(data, share, noise, start, rows.sizes, weights)
    z, steps = start, []
    for data_t, noise_t in zip(data.split(rows.sizes), noise.split(rows.sizes), strict=True):
        before = z[: len(data_t)]
        activated = torch.tanh(F.linear(before, weights.in_weight, weights.in_bias))
        combined = data_t + share * activated
        mean, spread = F.linear(combined, weights.out_weight, weights.out_bias).chunk(2, dim=-1)
        std = (F.softplus(spread) + 1e-8).sqrt()
        z = mean + std * noise_t
        steps.append((mean, std, z, before))
    theirs = [torch.cat(field) for field in zip(*steps, strict=True)]
    totals = []
    for fields in (ours, theirs):
        totals.append(sum((w * f).sum() for w, f in zip(weigh, fields, strict=True)))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(*(gradients_of(t, tensors) for t in totals), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize(("encoder", "features"), [([3], [5]), ([3, 6], [5, 2, 4])])
def test_chain_of_a_vrnn_equals_torchs_cell_on_each_sequence(lengths, encoder, features):
    latent, hidden = 2, 4
    steps, batch = int(lengths.max()), len(lengths)
    torch.manual_seed(0)
    cell = nn.LSTMCell(features[-1], hidden).double()
    widths = [(*encoder[:1], hidden), *zip(encoder[1:], encoder, strict=False)]
    widths += [(2 * latent, encoder[-1]), *zip(features, [latent, *features], strict=False)]
    maps = [nn.Linear(i, o).double() for o, i in widths]
    encoder_share, cell_share = draw(steps, batch, encoder[0]), draw(steps, batch, 4 * hidden)
    start = draw(batch, hidden), draw(hidden, batch).T.contiguous()
    shares = encoder_share, cell_share, *start
    weights = [
        *maps[0].parameters(),
        *cell.parameters(),
        *(p for m in maps[1:] for p in m.parameters()),
    ]
    tensors = [t.requires_grad_() for t in (*shares, *weights)]
    noise, rows = draw(steps, batch, latent), packing(lengths, steps)

    chain, *last = vrnn_chain(
        rows.pack((encoder_share + maps[0].bias).unsqueeze(1))[0],
        rows.pack((cell_share + cell.bias_ih + cell.bias_hh).unsqueeze(1))[0],
        rows.pack(noise.unsqueeze(1))[0],
        *(state[rows.order] for state in start),
        rows.sizes,
        VRNNWeights(
            *(maps[0].weight, cell.weight_hh, cell.weight_ih),
            layers=[(m.weight, m.bias) for m in maps[1:]],
            depth=len(encoder) - 1,
        ),
    )
    weigh = [draw(steps, batch, field.shape[-1]) for field in chain]
    fields = [rows.unpack(field.unsqueeze(0))[:, 0] for field in chain]
    back = rows.order.argsort()
    ours = sum((w * field).sum() for w, field in zip(weigh, fields, strict=True))
    ours = ours + sum((i + 2.0) * state.square().sum() for i, state in enumerate(last))

    theirs = torch.zeros((), dtype=torch.float64)
    for b, length in enumerate(lengths.tolist()):
        h, c = start[0][b : b + 1], start[1][b : b + 1]
        for t in range(length):
            before, made = h, maps[0](h) + encoder_share[t, b : b + 1]
            for layer in maps[1 : len(encoder)]:
                made = layer(F.relu(made))
            mean, spread = maps[len(encoder)](F.relu(made)).chunk(2, dim=-1)
            std = F.softplus(spread) + 1e-4
            made = z = mean + std * noise[t, b]
            for layer in maps[len(encoder) + 1 :]:
                made = F.relu(layer(made))
            h, c = _lstm_cell(cell, made, cell_share[t, b : b + 1], h, c)
            for expected, field, w in zip((mean, std, z, made, before), fields, weigh, strict=True):
                torch.testing.assert_close(field[t, b], expected[0])
                theirs = theirs + (w[t, b] * expected[0]).sum()
        for i, (state, found) in enumerate(zip((h, c), last, strict=True)):
            torch.testing.assert_close(found[back][b], state[0])
            theirs = theirs + (i + 2.0) * state.square().sum()
    for a, b in zip(gradients_of(ours, tensors), gradients_of(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def _lstm_cell(cell, x, share, h, c):
    """torch's cell reads x and one bias; an identity next to its weights lets it read a share."""
    wide = nn.LSTMCell(x.shape[-1] + share.shape[-1], h.shape[-1]).double()
    eye = torch.eye(share.shape[-1], dtype=torch.float64)
    parameters = {
        "weight_ih": torch.cat([cell.weight_ih, eye], dim=1),
        **{name: getattr(cell, name) for name in ("weight_hh", "bias_ih", "bias_hh")},
    }
    return torch.func.functional_call(wide, parameters, (torch.cat([x, share], dim=-1), (h, c)))


@pytest.mark.parametrize("rows", [1, 3, 20, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("least", [0, 10**9])  # with 0, always the rearranged weights
@pytest.mark.parametrize(  # on other processors, and on AMD's of two kinds
    ("onednn", "full_width"), [(False, False), (True, False), (True, True)]
)
def test_products_are_torchs(rows, dtype, least, onednn, full_width):
    onednn = onednn and torch.backends.mkldnn.is_available()
    with dispatch.using(matmul=dispatch.MatmulRules(onednn, full_width, least, least)):
        require_torchs_products(rows, dtype)


def require_torchs_products(rows, dtype):
    x, weight, other = draw(rows, 7), draw(5, 7), draw(rows, 5)
    expected = x @ weight.T
    x, weight, other = (t.to(dtype) for t in (x, weight, other))
    for result in (product(x, weight), product(x, PrepackedWeight(weight)),
                   addmm_(other.clone(), x, PrepackedWeight(weight)) - other,
                   matmul_out(torch.empty_like(other), x, PrepackedWeight(weight)),
                   product(x, PrepackedWeight(weight.T.contiguous().T))):  # fmt: skip
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    wide = torch.cat([other, other], dim=1)
    for a, b in ((x, other), (other, x), (x, wide[:, 5:]), (wide[:, 2:7], x)):
        exact = a.double().T @ b.double()
        torch.testing.assert_close(weight_gradient(a, b).double(), exact, rtol=1e-4, atol=1e-4)

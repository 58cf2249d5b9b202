"""The fast linear layer against torch's own, with the fast path forced on small sizes."""

import pytest
import torch
from conftest import CASES_OF_LOOPS
from torch import nn

from repro.inference.bounds import elbo
from repro.kernels import dispatch
from repro.kernels.linear import Linear, deferred_weight_gradients
from repro.kernels.matmul import product

pytestmark = pytest.mark.oracle


@pytest.fixture(autouse=True)
def always_large():
    with dispatch.using(linear_min_flops=0):
        yield


def twins(bias=True):
    torch.manual_seed(0)
    ours, theirs = Linear(7, 5, bias=bias), nn.Linear(7, 5, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(7,), (3, 7), (4, 1, 3, 7)])
def test_product_is_torchs(shape):
    _, layer = twins()
    x = torch.randn(shape)
    torch.testing.assert_close(product(x, layer.weight, layer.bias), layer(x))
    strided = torch.randn(7, 4).T
    torch.testing.assert_close(product(strided, layer.weight), strided @ layer.weight.T)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("in_a_loop", [True, False])
def test_values_and_gradients_are_torchs_over_many_calls(bias, in_a_loop):
    """A recurrence through the layer, and a call whose input needs no gradient."""
    gradients = []
    for layer in twins(bias):
        g = torch.Generator().manual_seed(1)
        x = torch.randn(3, 7, generator=g).requires_grad_()
        fixed, pad, state = torch.randn(3, 7, generator=g), torch.zeros(3, 2), x
        if in_a_loop and isinstance(layer, Linear):
            layer.begin()
        total = layer(fixed).square().sum()
        for _ in range(4):
            out = torch.tanh(layer(state))
            state, total = torch.cat([out, pad], dim=-1), total + out.sum()
        if isinstance(layer, Linear):
            layer.end()
        total.backward()
        gradients.append([x.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_passes_before_one_backward_do_not_mix():
    """As truncated backpropagation and several losses do."""
    ours, theirs = twins()
    x = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(1))
    for layer in (ours, theirs):
        with deferred_weight_gradients(nn.Sequential(layer)):
            first = layer(x[0]).square().sum()
        with deferred_weight_gradients(nn.Sequential(layer)):
            second = layer(x[1]).sum()
        second.backward()
        first.backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_a_loop_that_is_never_used_leaves_no_gradient():
    layer, _ = twins()
    with deferred_weight_gradients(nn.Sequential(layer)):
        pass
    layer(torch.randn(2, 7)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("family", "head", "sizes"), CASES_OF_LOOPS)
def test_models_have_the_gradients_of_double_precision(family, head, sizes, small_model, ragged):
    """Double precision takes the plain path, single precision the fast one."""
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        model = model.to(dtype)
        model.zero_grad()
        terms = model(x.to(dtype), lengths, noise.to(dtype))
        elbo(terms).sum().backward()
        reached = [p.grad for p in model.parameters() if p.grad is not None]  # no baseline's
        gradients.append([gradient.double().clone() for gradient in reached])
    for exact, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4)

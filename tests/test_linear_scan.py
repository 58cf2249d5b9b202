"""The linear recurrence, beside a loop over its definition."""

import pytest
import torch

from repro.kernels import dispatch
from repro.kernels.linear_scan import linear_scan

pytestmark = pytest.mark.oracle

TYPES = (torch.float64, torch.complex128)


def by_loop(decay, drive, start):
    states, state = [], start
    for a, b in zip(decay, drive, strict=True):
        state = a * state + b
        states.append(state)
    return torch.stack(states)


def draw(steps, dtype):
    g = torch.Generator().manual_seed(steps)
    tensors = [torch.randn(n, 3, 4, generator=g, dtype=dtype) for n in (steps, steps, 1)]
    decay, drive, (start,) = tensors
    return [tensor.requires_grad_() for tensor in (decay, drive, start)]


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 21])
def test_scan_equals_loop_in_values_and_gradients(steps, dtype, kernels):
    inputs = draw(steps, dtype)
    weigh = torch.randn(steps, 3, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found = []
    for function in (linear_scan, by_loop):
        with dispatch.using(kernels=kernels):
            states = function(*inputs)
        total = (states * weigh).sum()
        total = total.real if dtype.is_complex else total
        found.append((states, *torch.autograd.grad(total, inputs)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_gradients_are_those_of_finite_differences(kernels):
    with dispatch.using(kernels=kernels):
        assert torch.autograd.gradcheck(linear_scan, draw(4, torch.complex128))


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0])
def test_decays_of_any_size_below_one_keep_everything_finite(kernels, scale):
    decay, drive, start = draw(300, torch.float64)
    decay = torch.full_like(decay, scale).requires_grad_()
    with dispatch.using(kernels=kernels):
        states = linear_scan(decay, drive, start)
    gradients = torch.autograd.grad(states.square().sum(), (decay, drive, start))
    torch.testing.assert_close(states, by_loop(decay, drive, start))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_decay_shared_by_all_steps_gets_the_sum_of_their_gradients():
    decay, drive, start = draw(6, torch.complex128)
    shared = decay.detach()[0, 0].requires_grad_()
    found = []
    for function in (linear_scan, by_loop):
        total = function(shared.expand_as(drive), drive, start).abs().square().sum()
        found.append(torch.autograd.grad(total, shared)[0])
    torch.testing.assert_close(*found)

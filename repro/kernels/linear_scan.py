"""A linear recurrence, elementwise, over all steps: what state-space models and minimal RNNs run.

Forward:

    h_t = a_t h_{t-1} + b_t

Backward, from grad_h_t, the gradient of h_t as an output plus what comes from step t + 1 (a bar is
the complex conjugate):

    grad_h_t = gradient of h_t as an output + ā_{t+1} grad_h_{t+1}
    grad_b_t = grad_h_t;  grad_a_t = grad_h_t h̄_{t-1};  grad_h_0 = ā_1 grad_h_1

On a CPU it is one fused operation per step, each way. The plain path, a GPU's too, combines steps
1, 2, 4 … apart, in ⌈log₂ T⌉ rounds over all steps (Hillis & Steele 1986). Neither divides or takes
logarithms, so that |a| may be arbitrarily small.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from repro.kernels import dispatch


def linear_scan(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """Return h_t = decay_t h_{t-1} + drive_t of every step, (T, ...).

    Args:
        decay, drive: a and b, real or complex, (T, ...).
        start: h_0, (...).
    """
    if dispatch.current().plain or drive.device.type != "cpu":
        return scan_by_doubling(decay, drive, start)
    return _Scan.apply(decay, drive, start)


def scan_by_doubling(decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
    """Return the same by the plain path."""
    first = torch.addcmul(drive[0], decay[0], start).unsqueeze(0)
    states, distance = torch.cat([first, drive[1:]]), 1
    while distance < len(states):
        # Here: states are h_t without what comes from more than `distance` steps back, and decay is
        # the product over these steps.
        reached = torch.addcmul(states[distance:], decay[distance:], states[:-distance])
        states = torch.cat([states[:distance], reached])
        decay = torch.cat([decay[:distance], decay[distance:] * decay[:-distance]])
        distance *= 2
    return states


class _Scan(torch.autograd.Function):
    """One fused multiplication and addition per step; differentiable once."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, start: Tensor) -> Tensor:
        states = torch.empty_like(drive)
        state = start
        for a, b, h in zip(decay.unbind(), drive.unbind(), states.unbind(), strict=True):
            state = torch.addcmul(b, a, state, out=h)
        ctx.save_for_backward(decay, states, start)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decay, states, start = ctx.saved_tensors
        grad_h = grad_states.clone(memory_format=torch.contiguous_format)
        decay = decay.conj()
        steps = grad_h.unbind()
        for step, after, a in zip(steps[-2::-1], steps[:0:-1], decay.unbind()[:0:-1], strict=True):
            step.addcmul_(a, after)
        grad_decay = torch.empty_like(grad_h)
        torch.mul(grad_h[1:], states[:-1].conj(), out=grad_decay[1:])
        torch.mul(grad_h[0], start.conj(), out=grad_decay[0])
        return grad_decay, grad_h, decay[0] * grad_h[0]

"""Muon for weight matrices, Adam for everything else, and the average of the weights."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from repro.errors import require_known

# Coefficients of x ↦ a x + b x³ + c x⁵ (Jordan et al. 2024), and how often it is applied.
QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class _WithoutCompiler:
    """The methods of torch's optimisers without wrappers that import torch's compiler.

    Nothing here is compiled, and the import takes longer than that of torch itself.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """torch.optim.AdamW, without importing torch's compiler."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


class Muon(_WithoutCompiler, torch.optim.Optimizer):
    """Stochastic gradient descent whose momentum is orthogonalised: M = U S Vᵀ becomes about U Vᵀ.

    M ← μ M + (1 − μ) G;  O = orthogonalise((1 − μ) G + μ M);
    W ← (1 − η λ) W − η √max(1, rows / columns) O

    for every matrix W with gradient G (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
    neural networks"; Nesterov's momentum). The same update as `torch.optim.Muon` with
    `adjust_lr_fn="original"`, which computes in bfloat16 (on a processor without instructions for
    it, twenty times slower than float32). Here the type is that of the weights, and matrices of one
    shape are orthogonalised together.

    Args:
        parameters: matrices.
        lr: η. momentum: μ. weight_decay: λ, decoupled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient; a closure is not called."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(buffers, gradients, 1.0 - group["momentum"])
            updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
            torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, _directions(updates), alpha=-group["lr"])


def _directions(updates: Sequence[Tensor]) -> list[Tensor]:
    # Matrices of one shape up to transposition are orthogonalised together, shorter side first.
    shapes = defaultdict(list)
    for i, update in enumerate(updates):
        shapes[tuple(sorted(update.shape))].append(i)
    found = list(updates)
    for indices in shapes.values():
        upright = [updates[i] if _is_wide(updates[i]) else updates[i].T for i in indices]
        for i, direction in zip(indices, orthogonalise(torch.stack(upright)), strict=True):
            rows, columns = updates[i].shape
            found[i] = direction if _is_wide(updates[i]) else (rows / columns) ** 0.5 * direction.T
    return found


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (N, m, n), m ≤ n, with singular values near 1, by Newton–Schulz iteration.

    X ← a X + b X Xᵀ X + c (X Xᵀ)² X, five times. Singular values that were not tiny compared with
    the largest end between 0.7 and 1.2; the singular vectors stay the same.
    """
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    rows, columns = x.shape[-2:]
    if columns >= 2 * rows:
        return _orthogonalise_by_gram(x)
    for _ in range(NEWTON_SCHULZ_STEPS):
        x = torch.baddbmm(x, _polynomial(x @ x.mT), x, beta=QUINTIC[0])
    return x


def _orthogonalise_by_gram(x: Tensor) -> Tensor:
    # Every step multiplies X by a polynomial Q of G = X Xᵀ, and G by Q². If X is wide, products
    # with X cost more than products with G: X is multiplied once, by the product of all Q.
    gram = product = x @ x.mT
    for step in range(NEWTON_SCHULZ_STEPS):
        polynomial = _polynomial(gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(QUINTIC[0])
        product = polynomial @ product if step else polynomial
        if step < NEWTON_SCHULZ_STEPS - 1:
            gram = polynomial @ gram @ polynomial
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    """Return b G + c G²."""
    _, b, c = QUINTIC
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def build_optimizers(model: nn.Module, settings: dict) -> list[torch.optim.Optimizer]:
    """Return the optimisers of a model's parameters by its training settings.

    `optimizer: muon` gives Muon for the matrices and Adam for the rest; `adam`, the default, gives
    Adam for everything. Decoupled weight decay is for matrices alone.

    Raises:
        ConfigError: there is no optimiser with this name.
    """
    name = settings.get("optimizer", "adam")
    require_known("optimizer", name, ("adam", "muon"))
    parameters = list(model.parameters())
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    decay = settings.get("weight_decay", 0.0)
    optimizers: list[torch.optim.Optimizer] = []
    groups: list[dict[str, Any]] = [
        {"params": others or [torch.zeros(0)], "weight_decay": 0.0}
    ]  # Adam refuses an empty list
    if name == "muon":
        if matrices:
            rate, momentum = settings["muon_learning_rate"], settings["muon_momentum"]
            optimizers.append(Muon(matrices, rate, momentum, decay))
    elif decay:
        groups.append({"params": matrices, "weight_decay": decay})
    else:
        groups = [{"params": parameters or [torch.zeros(0)], "weight_decay": 0.0}]
    adam = AdamW(
        groups,
        lr=settings["learning_rate"],
        betas=tuple(settings["adam_betas"]),
        eps=settings.get("adam_epsilon", 1e-8),
        fused=True,  # one kernel per parameter instead of a dozen operations
    )
    for optimizer in (*optimizers, adam):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [*optimizers, adam]


class WeightAverage:
    """An exponential moving average of a model's weights: a ← decay · a + (1 − decay) · w.

    Attributes:
        values: the averages, in the order of the parameters; they begin as the initial weights.

    Args:
        decay: None for no average.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self._weights = list(model.parameters()) if decay is not None else []
        self.values = [weight.detach().clone() for weight in self._weights]
        self._move = get_ema_multi_avg_fn(decay or 0.0)

    def update(self) -> None:
        """Move the averages towards the current weights."""
        if self.values:
            self._move(self.values, [weight.detach() for weight in self._weights], 1)

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Give the model the averages as its weights for the block."""
        weights = [weight.detach().clone() for weight in self._weights]
        self._set(self.values)
        try:
            yield
        finally:
            self._set(weights)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

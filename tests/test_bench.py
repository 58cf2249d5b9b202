"""The benchmark compares equal computations, and counts the right operations."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from repro.bench.growth import exponent
from repro.bench.plain import plain_terms
from repro.bench.products import products_of
from repro.bench.run import _operations, _step_of, interleaved, profile, train_timings
from repro.bench.table import as_table
from repro.bench.workloads import WORKLOADS, make

SMALL = [
    dataclasses.replace(w, lengths=range(3, 8), batch=4)
    for w in WORKLOADS
    if "speech" not in w.name
]


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_plain_implementation_equals_the_fast_one_in_values_and_gradients(workload):
    model, batch, noise = make(workload)
    results = []
    for terms in (model(batch.x, batch.lengths, noise),
                  plain_terms(model, batch.x, batch.lengths, noise)):  # fmt: skip
        model.zero_grad()
        elbo = (terms.log_likelihood - terms.kl).sum(0)
        elbo.sum().backward()
        results.append((elbo.detach(), [p.grad.clone() for p in model.parameters()]))
    (ours, our_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-3)
    for a, b in zip(our_gradients, plain_gradients, strict=True):
        assert (a - b).norm() <= 1e-4 * (b.norm() + 1.0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("workload", [w for w in WORKLOADS if "JSB, random" in w.name])
def test_pyros_loss_is_the_elbo_of_the_same_draw(workload, packed):
    """Pyro draws its own noise: its mean loss over many is ours, by the standard error."""
    pytest.importorskip("pyro")
    import pyro
    from pyro.infer import Trace_ELBO

    from repro.bench.pyro_dmm import PyroDMM

    model, batch, _ = make(dataclasses.replace(workload, lengths=range(3, 7), batch=3))
    wrapped, draws = PyroDMM(model, packed), 200
    pyro.set_rng_seed(0)
    losses = torch.tensor(
        [
            Trace_ELBO().loss(wrapped.model, wrapped.guide, batch.x, batch.lengths)
            for _ in range(draws)
        ]
    )
    noise = torch.randn(len(batch.x), draws, 3, model.latent)
    with torch.no_grad():
        elbos = model(batch.x, batch.lengths, noise).log_weight.sum(0).sum(-1)
    error = (losses.var() / draws + elbos.var() / draws).sqrt()
    assert (losses.mean() + elbos.mean()).abs() < 6 * error


@pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS if w.head != "nade"], ids=lambda w: w.name
)
def test_operations_are_those_on_paper(workload):
    """Forward and two products backward of every matrix, for valid steps only."""
    workload = dataclasses.replace(workload, lengths=range(32, 40), batch=3)
    model, batch, _ = make(workload)
    matrices = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    expected = 6 * matrices * int(batch.lengths.sum())
    # The first layer needs no gradient of x, h_0 = 0 enters as a product too, and nothing flows
    # back from the state after the last step.
    assert _operations(workload) == pytest.approx(expected, rel=0.05)


def test_implementations_take_turns():
    order = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == list("ababab") and {k: len(v) for k, v in times.items()} == {"a": 2, "b": 2}


def test_a_workload_has_ours_and_its_peers():
    workload = dataclasses.replace(next(w for w in SMALL if w.family == "vrnn"), batch=2)
    found = train_timings(workload, repeats=2)
    assert [t.what for t in found] == ["ours", "its products", "Plain"]
    assert found[0].ratio == 1.0 and all(t.milliseconds > 0 for t in found)


def test_a_row_of_the_table_is_a_workload_and_says_how_many_times_longer_peers_take():
    timing = {"workload": "w", "spread": 1.0, "steps": 9.0, "sequences": 3.0}
    timings = [
        timing | {"what": "ours", "milliseconds": 10.0, "ratio": 1.0, "gflops": 50.0},
        timing | {"what": "its products", "milliseconds": 8.0, "ratio": 0.8, "gflops": 62.5},
        timing | {"what": "Plain", "milliseconds": 25.0, "ratio": 2.5, "gflops": 20.0},
        timing | {"workload": "v", "what": "ours", "milliseconds": 1.0, "gflops": None},
    ]
    first, second = as_table({"matrix_gflops": {"a": 90.0, "b": 100.0}, "timings": timings}).iloc
    assert first["Ours"] == "10.0 ± 1.0" and first["Plain"] == "25.0 ± 1.0 (2.50×)"
    assert first["Times the limit"] == "2.00" and first["Times its products"] == "1.25"
    assert second["Plain"] == second["GFLOP/s"] == ""


@pytest.mark.parametrize("workload", SMALL, ids=lambda w: w.name)
def test_products_alone_are_all_operations_of_the_step(workload):
    """torch's own counter finds in them what it finds in the step."""
    step = _step_of(workload, *make(workload))
    again = products_of(step)
    counted = []
    for compute in (step, again):
        with FlopCounterMode(display=False) as counter:
            compute()
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1]


def test_a_workloads_profile_is_a_division_of_its_time():
    shares = profile(SMALL[0])
    assert 0.0 < shares.pop("optimisers, of all of these") < 1.0
    assert sum(shares.values()) == pytest.approx(1.0) and shares["matrix products"] > 0.0


def test_exponents_of_known_powers():
    values = [10, 20, 40, 80]
    assert exponent(values, [0.001 * v**1.7 for v in values]) == pytest.approx(1.7)

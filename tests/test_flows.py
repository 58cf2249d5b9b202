"""Inverse autoregressive flows: log-determinants, densities, and what cannot be right."""

import math

import pytest
import torch
from conftest import spec

from repro.errors import ConfigError
from repro.inference.bounds import importance_weighted
from repro.kernels import dispatch
from repro.models import build
from repro.models.markov import Step
from repro.nn.flows import apply_flows, build_flows

TWO = {"flows": 2, "flow_hidden": 7}


def random_flows(latent, **sizes):
    torch.manual_seed(latent)
    flows = build_flows(latent, TWO | sizes).double()
    for parameter in flows.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return flows


@pytest.mark.oracle
@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2])
def test_the_log_determinant_is_that_of_the_jacobian(latent, count):
    flows = random_flows(latent, flows=count)
    points = torch.randn(4, latent, dtype=torch.float64)
    _, log_dets = apply_flows(flows, points)
    for point, log_det in zip(points, log_dets, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: apply_flows(flows, z)[0], point)
        sign, expected = torch.linalg.slogdet(jacobian)
        assert sign == 1
        torch.testing.assert_close(log_det, expected, rtol=1e-10, atol=1e-10)


def test_a_flow_reads_what_comes_before_and_the_next_one_the_other_way():
    first, second = random_flows(5, flow_hidden=40)
    point = torch.randn(5, dtype=torch.float64)
    for flow, empty in ((first, torch.triu), (second, torch.tril)):
        jacobian = torch.autograd.functional.jacobian(lambda z, flow=flow: flow(z)[0], point)
        off = jacobian - jacobian.diag().diag()
        assert (empty(off) == 0).all() and ((off != 0).sum() == 10)


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", [TWO, TWO | {"flows": 1, "inference_network": "mf-l"}])
def test_importance_sampling_through_flows_is_the_integral(sizes):
    """Two latent dimensions, one step: p(x) by a grid over z, of the same model without flows."""
    torch.manual_seed(3)
    tiny = {"latent": 2, "initial_weights": 0.4}
    model = build(spec("dmm", "bernoulli", **tiny, **sizes)).double().eval()
    without = build(spec("dmm", "bernoulli", **tiny, **(sizes | {"flows": 0}))).double().eval()
    known = without.state_dict()
    without.load_state_dict({name: model.state_dict()[name] for name in known})
    x, lengths = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), torch.tensor([1])
    with torch.no_grad():
        axis = torch.linspace(-9.0, 9.0, 601, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis).view(1, -1, 1, 2)
        zero, one = torch.zeros_like(grid), torch.ones_like(grid)
        terms = without.score(without.encode(x, lengths), Step(zero, one, grid, zero))
        area = 2 * math.log(axis[1] - axis[0])
        expected = torch.logsumexp((terms.log_likelihood + terms.log_prior).flatten(), 0) + area
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, 100_000, 1, 2, generator=generator, dtype=torch.float64)
        log_weight = model(x, lengths, noise).log_weight.sum(0)
    weights = (log_weight - expected).exp()
    error = weights.std() / len(weights) ** 0.5
    assert error < 0.01
    assert abs(importance_weighted(log_weight) - expected) < 5 * error
    changed = log_weight[:1000] - without(x, lengths, noise[:, :1000]).log_weight.sum(0)
    assert changed.abs().mean() > 0.01  # the flows do something


def test_no_flows_are_the_model_without_the_setting():
    models = []
    for sizes in ({}, {"flows": 0}):
        torch.manual_seed(0)
        models.append(build(spec("dmm", **sizes)).state_dict())
    assert list(models[0]) == list(models[1])
    assert all(torch.equal(*pair) for pair in zip(*(m.values() for m in models), strict=True))


@pytest.mark.fault
def test_flows_without_a_width_or_for_nasmc_are_refused(small_model, ragged):
    with pytest.raises(ConfigError, match="flows: 1 needs flow_hidden"):
        build(spec("dmm", flows=1))
    model = small_model("dmm", **TWO)
    with (
        dispatch.using(detach_samples=True),
        pytest.raises(ConfigError, match="flows do not fit the objective nasmc"),
    ):
        model(*ragged())

"""The audit: planted bugs are flagged, with the reason; correct models are not."""

import gc
import math
import weakref

import numpy as np
import pytest
import torch
from conftest import spec, task_of
from foreign_models import (
    HMM,
    LOG_2PI,
    FactorAnalysis,
    Frames,
    StateSpace,
    Transformer,
    WholeSequences,
    kalman,
)
from torch import nn
from torch.nn import functional as F

import repro
from repro.errors import ConfigError
from repro.models import build
from repro.results.findings import PASSED
from repro.tasks import mistakes

pytestmark = pytest.mark.oracle


def normal(x, mean, std):
    return torch.distributions.Normal(mean, std).log_prob(x)


def frames(density):
    """A model of frames of linear_gaussian from a density of one number (mean 0.4, std 7)."""
    return lambda x, lengths: density((x.squeeze(-1) - 0.4), 7.0)


def from_bits(change):
    """A model of independent bits: log p(x_t) of given logits, changed."""
    return lambda x, lengths: change(
        -F.binary_cross_entropy_with_logits(0 * x - 0.5, x, reduction="none").sum(-1), lengths, x
    )


def inside(terms, lengths):
    return terms.where(torch.arange(len(terms)).unsqueeze(1) < lengths, 0.0)


def look_ahead(x, lengths):
    after = torch.cat([x[1:], torch.zeros_like(x[:1])])
    return -F.binary_cross_entropy_with_logits(after - 0.5, x, reduction="none").sum(-1)


def sees_itself(x, lengths):
    return -F.binary_cross_entropy_with_logits(8 * x - 4, x, reduction="none").sum(-1)


class Unmasked(Transformer):
    def log_prob(self, x, lengths):
        before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        logits = self.out(self.layer(self.into(before)))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class BatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def log_prob(self, x, lengths):
        before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        logits = self.norm(before.flatten(0, 1)).unflatten(0, x.shape[:2])
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class Backwards(HMM):
    """Reads the padding's steps, too."""

    def log_prob(self, x, lengths):
        return super().log_prob(x, torch.full_like(lengths, len(x)))


class MeanOfLogs(HMM):
    def log_prob(self, x, lengths):
        emission = x @ self.bits.log().T + (1 - x) @ (1 - self.bits).log().T
        total = inside(emission.unbind(-1)[0], lengths) + inside(emission.unbind(-1)[1], lengths)
        return total.sum(0) / 2


def state_space(**values):
    return type("StateSpace", (StateSpace,), values)()


def whole(change=lambda log_p, log_q, k: (log_p, log_q), steps=StateSpace):
    class Changed(WholeSequences):
        def propose(self, x, lengths, num_samples, generator):
            log_p, log_q = super().propose(x, lengths, num_samples, generator)
            keep = torch.arange(len(x))[:, None, None] < lengths
            log_p, log_q = (v.where(keep, 0.0).sum(0) for v in (log_p, log_q))
            return change(log_p, log_q, num_samples)

    return Changed(steps)


class WrongScore(StateSpace):
    """q is scored with another standard deviation than it is drawn with."""

    def score(self, mean, z, x):
        state, log_p, _ = super().score(mean, z, x)
        return state, log_p, normal(z, mean, 10.0).squeeze(-1)


class WrongUnits(StateSpace):
    """Scored in normalised units, as the package's own models are, for data that are not."""

    def score(self, mean, z, x):
        state, log_p, log_q = super().score(mean, z, x)
        return state, log_p + math.log(SIGMA["std"]), log_q


class FactorPadding(FactorAnalysis):
    def propose(self, x, lengths, num_samples, generator):
        return super().propose(x, torch.full_like(lengths, len(x)), num_samples, generator)


class FactorAnalytic(FactorAnalysis):
    """The analytic KL in place of log q − log p at the sample, without its ½."""

    def propose(self, x, lengths, num_samples, generator):
        log_p, log_q = super().propose(x, lengths, num_samples, generator)
        z = 1.2 * torch.randn(num_samples, x.shape[1], generator=generator) * 0
        kl = math.log(1 / 1.2) * 2 + 1.44 - 1
        return log_p - normal(z, 0.0, 1.0), torch.full_like(log_q, kl)


class Sloppy:
    """Draws from torch's own generator."""

    def propose(self, x, lengths, num_samples, generator):
        z = torch.randn(num_samples, x.shape[1])
        return normal(z, 0.0, 1.0) - lengths, normal(z, 0.0, 2.0)


BINARY = {
    "hmm": lambda: HMM(2),
    "transformer": lambda: Transformer(2).eval(),
    "frames": lambda: from_bits(lambda terms, lengths, x: terms),
    "uniform": lambda: lambda x, lengths: -lengths * 2 * math.log(2),
    "latent": lambda: FactorAnalysis(2),
}
LINEAR = {
    "kalman": lambda: repro.from_numpy(kalman),
    "frames": lambda: Frames(0.4, 7.0),
    "narrow": lambda: Frames(3.0, 0.5),
    "wide": lambda: Frames(3.0, 100.0),
    "mixture": lambda: frames(
        lambda x, s: torch.logaddexp(normal(x, -3.0, 0.3), normal(x, 5.0, 9.0)) - math.log(2)
    ),
    "by step": StateSpace,
    "whole": WholeSequences,
    "wide proposal": lambda: state_space(proposal_std=5.0),
}
TRUE = {
    "kalman": lambda: repro.from_numpy(kalman),
    "by step": StateSpace,
}


@pytest.mark.parametrize("name", BINARY)
def test_correct_models_of_bits_pass(name, rolls):
    assert repro.audit(BINARY[name](), rolls).failed == []


@pytest.mark.parametrize("name", LINEAR)
def test_correct_models_of_numbers_pass(name, linear):
    assert repro.audit(LINEAR[name](), linear).failed == []


def package_model(family, head):
    torch.manual_seed(1)
    return build(spec(family, head, 2 if head == "bernoulli" else 1)).eval()


@pytest.mark.parametrize("family", ["rnn", "dmm", "vrnn"])
def test_models_of_the_package_pass(family, rolls, linear):
    assert repro.audit(package_model(family, "bernoulli"), rolls, samples=50).failed == []
    assert repro.audit(package_model(family, "gaussian"), linear, samples=50).failed == []


BUGS_OF_BITS = {
    "the next step is seen": (lambda: look_ahead, mistakes.LOOK_AHEAD, "no look-ahead"),
    "no causal mask": (lambda: Unmasked(2).eval(), mistakes.LOOK_AHEAD, "no look-ahead"),
    "x_t is seen": (lambda: sees_itself, mistakes.LOOK_AHEAD, "probabilities sum to 1"),
    "x_t is seen, totals": (
        lambda: lambda x, n: inside(sees_itself(x, n), n).sum(0),
        mistakes.LOOK_AHEAD,
        "probabilities sum to 1",
    ),
    "padding is counted": (lambda: Backwards(2), mistakes.PADDING_COUNTED, "no effect of padding"),
    "padding is counted, latent": (
        lambda: FactorPadding(2),
        mistakes.PADDING_COUNTED,
        "no effect of padding",
    ),
    "batch norm in training": (BatchNorm, mistakes.BATCH_STATISTICS, "no effect of neighbours"),
    "a mean of logs": (lambda: MeanOfLogs(2), mistakes.MEAN_OF_LOGS, "probabilities sum to 1"),
    "the first step is not scored": (
        lambda: from_bits(lambda terms, n, x: torch.cat([0 * terms[:1], terms[1:]])),
        mistakes.FIRST_UNSCORED,
        "the first step is scored",
    ),
    "a mean over steps": (
        lambda: from_bits(lambda terms, n, x: inside(terms, n).sum(0) / n),
        mistakes.DIVIDED_BY_LENGTH,
        "probabilities sum to 1",
    ),
    "every second step": (
        lambda: from_bits(lambda terms, n, x: inside(terms, n)[::2].sum(0)),
        mistakes.STEP_UNSCORED,
        "probabilities sum to 1",
    ),
    "dropout": (
        lambda: from_bits(lambda terms, n, x: terms * (1 + 0.1 * torch.rand(()))),
        "dropout is on",
        "same input, same output",
    ),
    "another generator": (Sloppy, "not drawn from the generator", "same input, same output"),
    "an analytic KL without ½": (
        lambda: FactorAnalytic(2),
        mistakes.ANALYTIC_KL,
        "probabilities sum to 1",
    ),
    "the order of axes": (
        lambda: lambda x, n: -n.double().flip(0),
        mistakes.BATCH_STATISTICS,
        "no effect of order",
    ),
}
BUGS_OF_NUMBERS = {
    "σ is forgotten": (
        lambda: lambda x, n: normal((x[..., 0] - 0.3716) / SIGMA["std"], 0.0, 1.0),
        mistakes.MISSING_LOG_SIGMA,
    ),
    "no 2π": (
        lambda: frames(lambda x, s: -0.5 * (x / s) ** 2 - math.log(s)),
        mistakes.MISSING_LOG_2PI,
    ),
    "no ½ at all": (
        lambda: frames(lambda x, s: -((x / s) ** 2) - 2 * math.log(s)),
        mistakes.MISSING_HALF,
    ),
    "no ½ in the square": (
        lambda: frames(lambda x, s: -((x / s) ** 2) - math.log(s) - LOG_2PI / 2),
        mistakes.MISSING_HALF,
    ),
    "log σ² for log σ": (
        lambda: frames(lambda x, s: -0.5 * ((x / s) ** 2 + LOG_2PI) - 2 * math.log(s)),
        mistakes.VARIANCE_AS_STD,
    ),
    "σ for σ² in the square": (
        lambda: frames(lambda x, s: -0.5 * (x**2 / s + LOG_2PI) - math.log(s)),
        mistakes.VARIANCE_AS_STD,
    ),
    "x_t is its own mean": (lambda: lambda x, n: normal(x, x, 2.0)[..., 0], mistakes.LOOK_AHEAD),
    "a bound as exact": (
        lambda: frames(lambda x, s: normal(x, 0.0, s) - 0.3),
        mistakes.MEAN_OF_LOGS,
    ),
    "every second step": (
        lambda: lambda x, n: inside(normal(x[..., 0], 0.4, 7.0), n)[::2].sum(0),
        mistakes.STEP_UNSCORED,
    ),
    "a large constant": (
        lambda: frames(lambda x, s: normal(x, 0.0, s) - 1e3),
        mistakes.MEAN_OF_LOGS,
    ),
    "the first step is not scored": (
        lambda: lambda x, n: torch.cat([0 * x[:1, :, 0], normal(x[1:, :, 0], x[:-1, :, 0], 8.0)]),
        mistakes.FIRST_UNSCORED,
    ),
    "q is scored with its variance": (lambda: WrongScore(), mistakes.PROPOSAL),
    "σ is forgotten, sampled": (WrongUnits, mistakes.MISSING_LOG_SIGMA),
    "averaged over samples": (
        lambda: whole(lambda p, q, k: (p.mean(0).expand(k, -1), q.mean(0).expand(k, -1))),
        mistakes.SAME_SAMPLES,
    ),
    "log K is subtracted": (
        lambda: whole(lambda p, q, k: (p - math.log(k), q)),
        mistakes.DEPENDS_ON_K,
    ),
}
BUGS_OF_TRUE_PARAMETERS = {
    "R as a standard deviation": (lambda: filter_with(r=400.0), mistakes.VARIANCE_AS_STD),
    "Q as a standard deviation": (lambda: filter_with(q=100.0), mistakes.VARIANCE_AS_STD),
    "standard deviations as R and Q": (
        lambda: filter_with(q=math.sqrt(10), r=math.sqrt(20)),
        mistakes.VARIANCE_AS_STD,
    ),
    "the first step is not scored": (
        lambda: repro.from_numpy(
            lambda x, n: np.concatenate([np.zeros((1, len(n))), kalman(x, n)[1:]])
        ),
        mistakes.FIRST_UNSCORED,
    ),
    "R as a standard deviation, sampled": (
        lambda: state_space(emission_std=20.0),
        mistakes.VARIANCE_AS_STD,
    ),
    "another offset": (
        lambda: repro.from_numpy(lambda x, n: kalman(x - 3.0, n)),
        "other parameters",
    ),
}
SIGMA = {"std": 0.0}


def filter_with(**values):
    return repro.from_numpy(lambda x, lengths: kalman(x, lengths, **values))


def flagged(found, reason, check=None):
    names = {f.check: f.reason for f in found.failed}
    assert any(reason in text for text in names.values()), str(found)
    assert check is None or reason in names.get(check, ""), str(found)


@pytest.mark.parametrize("bug", BUGS_OF_BITS)
def test_planted_bugs_of_bits_are_flagged(bug, rolls):
    make, reason, check = BUGS_OF_BITS[bug]
    flagged(repro.audit(make(), rolls), reason, check)


@pytest.mark.parametrize("bug", BUGS_OF_NUMBERS)
def test_planted_bugs_of_numbers_are_flagged(bug, linear, monkeypatch):
    monkeypatch.setitem(SIGMA, "std", float(linear.std))
    make, reason = BUGS_OF_NUMBERS[bug]
    flagged(repro.audit(make(), linear), reason)


def test_real_data_of_several_dimensions(tmp_path):
    rng = np.random.default_rng(0)
    parts = {
        part: [3.0 + 5.0 * rng.standard_normal((n, 3)) for n in (12, 9, 10, 1)]
        for part in ("train", "valid", "test")
    }
    task = task_of(tmp_path, parts)
    assert repro.audit(Frames(3.0, 5.0), task).failed == []
    found = repro.audit(lambda x, lengths: normal(x, x, 2.0).sum(-1), task)
    flagged(found, mistakes.LOOK_AHEAD, "steps far away are improbable")
    assert {finding.reason for finding in found.failed} == {mistakes.LOOK_AHEAD}


@pytest.mark.parametrize("model", TRUE)
def test_true_parameters_agree_with_the_kalman_filter(model, linear):
    found = repro.audit(TRUE[model](), linear, true_parameters=True, samples=1000)
    assert found.failed == [] and found.findings[-1].status == PASSED


@pytest.mark.parametrize("bug", BUGS_OF_TRUE_PARAMETERS)
def test_planted_bugs_of_true_parameters_are_flagged(bug, linear):
    make, reason = BUGS_OF_TRUE_PARAMETERS[bug]
    found = repro.audit(make(), linear, true_parameters=True, samples=1000)
    flagged(found, reason, "agreement with the Kalman filter")


def test_what_was_checked_is_printed(rolls, capsys):
    found = repro.audit(sees_itself, rolls)
    shown = capsys.readouterr().out
    assert shown == f"{found}\n" and shown.startswith("audit of sees_itself on own")
    assert "FAILED" in shown and f"likely: {mistakes.LOOK_AHEAD}" in shown
    assert f"{len(found.failed)} failed" in shown
    assert len(found.table()) == len(found.findings) == 14


@pytest.mark.fault
def test_what_a_model_raises_is_a_finding(rolls):
    def no_single_sequences(x, lengths):
        if len(lengths) == 1:
            raise ValueError("I need two")
        return -lengths * 2 * math.log(2)

    found = repro.audit(no_single_sequences, rolls)
    (failed,) = found.failed
    assert failed.check == "probabilities sum to 1"
    assert failed.seen == "the model raised ValueError: I need two"


@pytest.mark.fault
def test_a_model_that_cannot_be_scored_is_a_finding(rolls):
    found = repro.audit(lambda x, lengths: x, rolls)
    assert len(found.findings) == 1 and "has the shape" in found.failed[0].seen
    with pytest.raises(ConfigError, match="was not drawn from a linear-Gaussian model"):
        repro.audit(HMM(2), rolls, true_parameters=True)


def test_an_audited_model_can_be_deleted(rolls):
    model = Backwards(2)
    reference = weakref.ref(model)
    repro.audit(model, rolls)
    del model
    gc.collect()
    assert reference() is None

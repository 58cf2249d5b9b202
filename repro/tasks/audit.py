"""Checks any model's log-likelihood for the usual mistakes, and names the likely reason.

Each check tests a property that every correct model has: probabilities sum to one, the past does
not depend on the future, and a sequence does not depend on the rest of its batch. The data are the
beginnings of a few sequences of the validation part; the test part is not read.
"""

from collections.abc import Callable
from typing import Any

from repro.errors import ConfigError
from repro.results.findings import FAILED, PASSED, Audit, Finding
from repro.tasks import checks
from repro.tasks.kalman import kalman_filter
from repro.tasks.probe import Observation, Probe
from repro.tasks.scorers import require_count, scorer_of
from repro.tasks.task import Task
from repro.tasks.total_probability import total_probability

CHECKS: dict[str, Callable[[Probe], Observation]] = {
    "same input, same output": checks.same_input_same_output,
    "another seed, other samples": checks.another_seed_other_samples,
    "no effect of padding": checks.no_effect_of_padding,
    "no effect of neighbours": checks.no_effect_of_neighbours,
    "no effect of order": checks.no_effect_of_order,
    "no look-ahead": checks.no_look_ahead,
    "steps sum to the total": checks.steps_sum_to_the_total,
    "longer is not more probable": checks.longer_is_not_more_probable,
    "the first step is scored": checks.first_step_is_scored,
    "steps far away are improbable": checks.far_steps_are_improbable,
    "probabilities sum to 1": total_probability,
    "IS does not fall with K": checks.is_does_not_fall_with_samples,
}


def audit(
    model: Any, task: Task, true_parameters: bool = False, samples: int = 200, seed: int = 0
) -> Audit:
    """Return what was checked of a model and what failed, after printing it.

    >>> repro.audit(my_log_prob, repro.task("jsb_chorales")).failed  # [] if nothing was found

    Args:
        model: as for `repro.evaluate`, except that the path of a checkpoint is not accepted; pass
            the model itself.
        task: the checks use its validation part.
        true_parameters: whether the model claims to have the true parameters of a linear-Gaussian
            task, so that it must agree with the Kalman filter.
        samples: importance samples of each estimate, for a model that is sampled.
        seed: of the random numbers.
    Raises:
        ConfigError: the model is of no kind that can be scored, or it claims to have the true
            parameters of a task that was not drawn from a linear-Gaussian model.
    """
    require_count("samples", samples, 2)
    require_count("seed", seed, 0)
    probe = Probe(scorer_of(model, task), task, samples, seed, true_parameters)
    if true_parameters and probe.true_parameters is None:
        raise ConfigError(
            f"true_parameters: {task.name} was not drawn from a linear-Gaussian model."
        )
    findings = [Finding("shapes and finite numbers", *checks.shapes_and_finite_numbers(probe))]
    if findings[0].status == PASSED:
        filtered = f"{'agreement with' if true_parameters else 'not above'} the Kalman filter"
        every = {**CHECKS, filtered: kalman_filter}
        findings += [Finding(name, *_observe(check, probe)) for name, check in every.items()]
    found = Audit(probe.scorer.name, task.name, task.sha256, findings)
    print(found)
    return found


def _observe(check: Callable[[Probe], Observation], probe: Probe) -> Observation:
    try:
        return check(probe)
    except Exception as error:  # of the model's own code, whatever that is
        return Observation(FAILED, f"the model raised {type(error).__name__}: {error}")

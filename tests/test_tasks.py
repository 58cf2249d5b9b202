"""Tasks, and models from outside the package on them."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, task_of
from foreign_models import (
    HMM,
    FactorAnalysis,
    Frames,
    StateSpace,
    Transformer,
    WholeSequences,
    kalman,
)

import repro
from repro import api
from repro.data.parts import PARTS
from repro.errors import CheckpointError, ConfigError, DataError, NumericalError, ReproError
from repro.models.base import ModelSpec
from repro.models.linear_gaussian import LinearGaussian
from repro.results.protocol import PROTOCOL
from repro.tasks.task import of_file
from repro.training.checkpoints import load_checkpoint


def stored_parts(seed=0, columns=2):
    rng = np.random.default_rng(seed)
    return {
        part: [3.0 + 5.0 * rng.standard_normal((n, columns)) for n in (4, 2, 7)]
        for part in ("train", "valid", "test")
    }


def test_importing_the_package_loads_no_torch():
    code = "import repro, sys; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'tsak'"):
        _ = repro.tsak


def test_parts_are_ragged_tensors_in_the_units_that_were_asked_for(tmp_path):
    parts = stored_parts()
    task = task_of(tmp_path, parts)
    values = np.concatenate(parts["train"])
    assert task.train.lengths == [4, 2, 7] and task.valid.lengths == [4, 2, 7]
    for ours, theirs in zip(task.train, parts["train"], strict=True):
        assert np.allclose(ours, theirs, atol=1e-5) and ours.dtype == torch.float32
    assert np.allclose(task.mean, values.mean(0)) and np.allclose(task.std, values.std(0))
    assert task.log_scale == pytest.approx(np.log(values.std(0)).sum())
    x, lengths = task.train.padded([2, 1])
    assert x.shape == (7, 2, 2) and lengths.tolist() == [7, 2] and x[2:, 1].abs().max() == 0
    normalised = of_file(task.file, "none", "normalised")
    assert np.allclose(
        normalised.train.values, (values - values.mean(0)) / values.std(0), atol=1e-5
    )
    assert normalised.log_scale == 0.0 and normalised.version == task.version
    again = task.normalised(x, lengths)
    assert torch.allclose(again, normalised.train.padded([2, 1])[0], atol=1e-6)


def test_a_task_has_no_test_part(linear):
    names = [name for name in dir(linear) if "test" in name.lower()]
    assert names == [] and linear.sequences["test"] == 10
    assert linear.licence == "none needed (generated)"


def test_the_version_changes_when_data_or_protocol_do(tmp_path, monkeypatch):
    versions = {task_of(tmp_path, stored_parts(seed)).version for seed in (0, 0, 1)}
    assert len(versions) == 2
    task = task_of(tmp_path, stored_parts())
    assert task.version in versions and tuple(PROTOCOL["parts"]) == PARTS
    monkeypatch.setitem(PROTOCOL, "average", "mean over sequences")
    assert of_file(task.file, "none").version not in versions


@pytest.mark.fault
def test_a_task_whose_data_changed_is_refused(tmp_path):
    task = task_of(tmp_path, stored_parts())
    task_of(tmp_path, stored_parts(1))
    with pytest.raises(DataError, match="changed since this task was made"):
        _ = task.train


@pytest.mark.fault
def test_names_units_and_licences_are_asked_for(tasks_home, monkeypatch):
    monkeypatch.chdir(tasks_home)
    with pytest.raises(ConfigError, match="did you mean 'jsb_chorales'"):
        repro.task("jsb_choral")
    with pytest.raises(ConfigError, match="'raw' is not one of original, normalised"):
        repro.task("linear_gaussian", units="raw")
    with pytest.raises(DataError, match="needs a licence"):
        repro.task("timit")


def test_tasks_are_frozen(linear):
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear.mean = 0


# Anyone's model


LINEAR = {
    "transition_matrix": [[1.0]],
    "transition_offset": [0.05],
    "transition_covariance": [[10.0]],
    "emission_matrix": [[0.5]],
    "emission_offset": [0.0],
    "emission_covariance": [[20.0]],
}


def exact_model(task):
    mean, std = task.mean.tolist(), task.std.tolist()
    return LinearGaussian(
        ModelSpec("exact", "", "gaussian", {}, 1, mean, std, {"parameters": LINEAR})
    )


@pytest.mark.oracle
def test_a_kalman_filter_in_numpy_and_our_exact_model_agree(linear):
    ours = repro.evaluate(exact_model(linear), linear, samples=5)
    theirs = repro.evaluate(repro.from_numpy(kalman), linear)
    assert np.allclose(ours.values("is"), theirs.values("is"), atol=1e-3)
    assert theirs.likelihood == "exact" and ours.likelihood == "sampled"
    assert theirs.model == "kalman" and theirs.data["sha256"] == linear.sha256
    assert theirs.evaluation["task"] == linear.version
    assert theirs.environment["torch"] == torch.__version__


@pytest.mark.oracle
def test_units_are_those_of_normalised_data_whatever_the_model_takes(linear):
    normalised = of_file(linear.file, linear.licence, "normalised")
    mean, std = float(linear.mean), float(linear.std)
    found = repro.evaluate(Frames(mean, std), linear), repro.evaluate(Frames(0.0, 1.0), normalised)
    assert np.allclose(found[0].values("is"), found[1].values("is"), atol=1e-3)


@pytest.mark.oracle
@pytest.mark.parametrize("make", [StateSpace, WholeSequences])
def test_a_latent_model_has_bound_is_and_pareto_k(make, linear):
    exact = repro.evaluate(repro.from_numpy(kalman), linear)
    found = repro.evaluate(make(), linear, samples=100)
    gap = found.values("is") - exact.values("is")
    assert (found.values("bound") < exact.values("is")).all()
    assert found.likelihood == "sampled" and {"pareto_k", "is_tenth"} <= set(found.per_sequence)
    assert (found.values("bound") < found.values("is")).all() and gap.mean() < 0.5
    assert found.values("length").tolist() == [25.0] * 10


@pytest.mark.oracle
def test_a_model_that_proposes_by_step_has_the_particle_filter(linear):
    exact = repro.evaluate(repro.from_numpy(kalman), linear)
    found = repro.evaluate(StateSpace(), linear, samples=20, particles=400)
    gap = found.values("fivo") - exact.values("is")
    assert abs(gap.mean()) < 0.15 and found.evaluation["particles"] == 400
    assert found.per_step("is") < found.per_step("fivo") - 0.05
    with pytest.raises(ConfigError, match="does not propose step by step"):
        repro.evaluate(WholeSequences(), linear, particles=10)


@pytest.mark.oracle
def test_sampled_and_exact_numbers_of_one_model_agree(rolls):
    """One latent number a sequence: quadrature over it is exact."""
    model = FactorAnalysis(2)

    def by_quadrature(x, lengths):
        z = torch.linspace(-8, 8, 801)
        log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z) + np.log(16 / 800)
        logits = z.unsqueeze(-1) * model.weights
        inside = (torch.arange(len(x)).unsqueeze(1) < lengths)[..., None, None]
        bits = x.unsqueeze(2) * logits - torch.nn.functional.softplus(logits)
        return torch.logsumexp(bits.where(inside, 0.0).sum((0, 3)) + log_p, -1)

    exact = repro.evaluate(by_quadrature, rolls).values("is")
    found = repro.evaluate(model, rolls, samples=4000)
    assert (abs(found.values("is") - exact) < 5 * found.values("is_error")).all()
    assert (found.values("is_error") < 0.05).all()


def test_models_without_our_classes_are_scored(rolls):
    for model in (HMM(2), Transformer(2).eval(), HMM(2).log_prob):
        found = repro.evaluate(model, rolls, name="mine")
        assert found.model == "mine" and np.isfinite(found.per_step("is"))
    by_step = repro.evaluate(Transformer(2).eval(), rolls)
    assert by_step.bound_after_first() != by_step.mean_of_averages("bound")


def test_the_order_of_the_test_part_is_kept(rolls):
    found = repro.evaluate(lambda x, lengths: -lengths.double(), rolls)
    assert found.values("length").tolist() == [4, 1, 6, 3] and found.per_step("is") == -1.0


SCRIPT = """\
import sys
import numpy as np
given = np.load(sys.argv[1])
x, lengths = given["x"], given["lengths"]
np.savez(sys.argv[2], log_prob=-lengths.astype(float), log_p=x.sum((0, 2)) - lengths
         + 0 * np.random.default_rng(int(given["seed"]) if "seed" in given else 0).random((
             int(given["num_samples"]) if "num_samples" in given else 1, 1)),
         log_q=np.zeros((int(given["num_samples"]) if "num_samples" in given else 1, 1))
         + x.sum((0, 2)))
"""


@pytest.mark.parametrize("latent", [False, True])
def test_a_program_is_scored_through_files(rolls, tmp_path, latent):
    (tmp_path / "score.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "score.py")]
    found = repro.evaluate(repro.from_command(command, latent=latent), rolls, samples=3)
    assert found.model == "score" and found.per_step("is") == pytest.approx(-1.0)


@pytest.mark.fault
def test_programs_that_fail_are_named_with_their_last_words(rolls, tmp_path):
    script = tmp_path / "score.py"
    for text, words in {
        "raise SystemExit('no weights here')": "exit status 1: no weights here",
        "": "did not write the file",
        "import numpy, sys; numpy.savez(sys.argv[2], x=1)": "no array called log_prob",
        "import sys; open(sys.argv[2], 'w').write('x')": "not an npz file",
    }.items():
        script.write_text(text)
        with pytest.raises(ReproError, match=words):
            repro.evaluate(repro.from_command([sys.executable, str(script)]), rolls)
    with pytest.raises(ConfigError, match="cannot be started"):
        repro.evaluate(repro.from_command(["no-such-program"]), rolls)


def draws_from_elsewhere(x, lengths, num_samples, generator):
    log_p = torch.randn(num_samples, x.shape[1]) - 20
    return log_p, torch.zeros_like(log_p)


def nan_in_sequence_two(x, lengths):
    return torch.where(lengths == 6, torch.nan, -1.0)


class Propose:
    def __init__(self, propose):
        self.propose = propose


class Steps:
    def __init__(self, state, step=None):
        self.initial = lambda x, lengths, num_samples: state
        self.step = lambda *arguments: step


def pair(*shapes):
    return Propose(lambda x, lengths, k, g: tuple(torch.zeros(shape) for shape in shapes))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda x, n: x, ConfigError, r"\(6, 4, 2\), expected \(4,\) of each .* or \(6, 4\) of"),
        (lambda x, n: -1.0, ConfigError, r"has the shape \(\), expected"),
        (lambda x, n: "none", ConfigError, "is str, not a tensor"),
        (nan_in_sequence_two, NumericalError, "sequence 2 is nan; every one"),
        (lambda x, n: -n / 0.0, NumericalError, "is -inf, and of 3 more"),
        (lambda x, n: 0.5 * n, ConfigError, r"0\.5000, and the data are 0 or 1"),
        (lambda x, n: torch.rand(4) - 9, ConfigError, r"differ for test .*`model\.eval\(\)`"),
        (Propose(draws_from_elsewhere), ConfigError, "from the generator that propose"),
        (pair((3, 4)), ConfigError, "must return two tensors, .* not a tuple of 1"),
        (pair((3, 4), (4, 3)), ConfigError, r"log q of .* \(4, 3\), expected \(3, 4\) .*K = 3"),
        (Steps(()), ConfigError, r"tuple of tensors \(K, B, ·\) with K = 3, B = 4"),
        (Steps((torch.zeros(3, 4, 1),), 1), ConfigError, "must return the next state"),
        (3, ConfigError, "int cannot be scored"),
        (torch.nn.Linear(2, 2), ConfigError, "Linear cannot be scored: it needs log_prob"),
        (HMM, ConfigError, r"HMM is a class: give an instance of it, such as HMM\(…\)"),
        (
            torch.distributions.Normal(0.0, 1.0),
            ConfigError,
            r"log_prob of Normal takes \(value\); it is called with 2 arguments: x, lengths",
        ),
        (Propose(lambda x, lengths: x), ConfigError, "propose of Propose takes .* 4 arguments"),
        (lambda x, lengths: np.full(4, np.nan), NumericalError, "is nan, and of 3 more"),
        ("no-such.safetensors", ReproError, "no-such"),
    ],
)
def test_bad_output_is_refused_in_one_or_two_lines(model, error, words, rolls):
    with pytest.raises(error, match=words) as caught:
        repro.evaluate(model, rolls, samples=3)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.parametrize(
    "counts", [{"samples": 0}, {"particles": -1}, {"samples": 2.5}, {"seed": -1}, {"seed": "0"}]
)
def test_counts_that_are_none_are_refused(counts, rolls):
    with pytest.raises(ConfigError, match="must be a whole number"):
        repro.evaluate(HMM(2), rolls, **counts)
    if "particles" not in counts:
        with pytest.raises(ConfigError, match="must be a whole number"):
            repro.audit(HMM(2), rolls, **counts)


@pytest.mark.fault
def test_what_is_no_task_or_no_name_is_refused(rolls):
    with pytest.raises(ConfigError, match=r"str is not a task; give repro.task\('rolls'\)"):
        repro.evaluate(HMM(2), "rolls")
    with pytest.raises(ConfigError, match="HMM is not a task"):
        repro.audit(rolls, HMM(2))
    with pytest.raises(ConfigError, match="is not a task"):
        repro.evaluate("no-such.safetensors", "rolls")
    for name in ("two\nlines", 3):
        with pytest.raises(ConfigError, match="must be text of one line"):
            repro.evaluate(HMM(2), rolls, name=name)


@pytest.mark.fault
def test_commands_that_are_no_lists_are_refused():
    for command in ("julia score.jl", [], ["julia", 3]):
        with pytest.raises(ConfigError, match="command: "):
            repro.from_command(command)


def writes_into_its_input(x, lengths):
    x.sub_(3.0).div_(5.0)
    lengths.mul_(0)
    return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(-1) - np.log(5.0) * x.shape[-1]


def test_a_model_may_write_into_its_input(tmp_path):
    task = task_of(tmp_path, stored_parts())
    found = repro.evaluate(writes_into_its_input, task)
    wanted = repro.evaluate(Frames(3.0, 5.0), task)
    assert np.allclose(found.values("is"), wanted.values("is"), atol=1e-4)
    in_numpy = repro.from_numpy(lambda x, n: writes_into_its_input(*map(torch.as_tensor, (x, n))))
    assert repro.evaluate(in_numpy, task).per_sequence == found.per_sequence
    assert repro.audit(writes_into_its_input, task).failed == []


def test_models_and_checkpoints_of_the_package_have_their_own_numbers(
    linear, tasks_home, rolls, monkeypatch
):
    monkeypatch.chdir(tasks_home)
    settings = {"preset": "smoke", "max_epochs": 1, "sizes": {"latent": 2, "transition": 3}}
    checkpoint = api.train("dmm", "linear_gaussian", **settings)
    wanted = api.evaluate(checkpoint, num_samples=20, particles=5).per_sequence
    for model in (checkpoint, str(checkpoint), load_checkpoint(checkpoint)[0]):
        assert repro.evaluate(model, linear, samples=20, particles=5).per_sequence == wanted
    with pytest.raises(CheckpointError, match="trained on other data"):
        repro.evaluate(checkpoint, rolls)


def test_the_pages_code_runs(tmp_path, monkeypatch, capsys):
    for name in ("config", "results", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "any-model.md").read_text()
    names: dict = {}
    for lines in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(lines, names)
    shown = capsys.readouterr().out.splitlines()
    assert names["task"].version in shown[0] and shown[1].endswith(" exact")
    bound, estimate = map(float, shown[2].split())
    assert bound == pytest.approx(estimate, abs=1e-5)  # its proposal is the exact posterior
    assert any(line.startswith("probabilities sum to 1 |") and "σ" in line for line in shown)
    # Rows of the page are rows of the table.
    cells = {tuple(map(str.strip, line.split("|")[1:6])) for line in shown if line[:1] == "|"}
    rows = re.findall(r"^\|.* starter .*\|$", page, re.MULTILINE)
    assert len(rows) == 3
    assert {tuple(map(str.strip, row.split("|")[1:6])) for row in rows} <= cells

"""The suite from Python, as the README shows it."""

import re

import numpy as np
import pytest
from conftest import ROOT
from test_cli import make_home

from repro import api
from repro.checkpoints import load_checkpoint
from repro.errors import ConfigError


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("api"))


def test_the_readmes_lines_run(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(lines, names)
    bound, estimate = map(float, capsys.readouterr().out.split()[-2:])
    assert np.isfinite(bound) and estimate > bound
    assert names["data"][0].shape[1] == 1
    assert load_checkpoint(names["checkpoint"])[1].training["epochs"] == 5


def test_a_finished_training_is_not_repeated_and_a_changed_one_is(home, monkeypatch):
    monkeypatch.chdir(home)
    api.load("linear_gaussian")
    first = api.train("rnn-gauss", "linear_gaussian", preset="smoke", max_epochs=1)
    written = first.stat().st_mtime_ns
    assert api.train("rnn-gauss", "linear_gaussian", preset="smoke", max_epochs=1) == first
    assert first.stat().st_mtime_ns == written
    api.train("rnn-gauss", "linear_gaussian", preset="smoke", max_epochs=2)
    assert load_checkpoint(first)[1].training["epochs"] == 2


def test_a_wrong_setting_is_named(home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match="did you mean 'dmm'"):
        api.train("dm", "linear_gaussian")
    with pytest.raises(ConfigError, match="epochs"):
        api.train("dmm", "linear_gaussian", epochs=3)
    with pytest.raises(ConfigError, match="no data set 'x'"):
        api.load("x")


@pytest.mark.fault
def test_paths_numbers_and_tuples_of_any_kind_are_taken(home, monkeypatch):
    monkeypatch.chdir(home)
    assert api.load("linear_gaussian", mirror=str(home))["train"]
    betas = (np.float64(0.9), np.float32(0.5))
    settings = {"max_epochs": np.int64(1), "adam_betas": betas, "batch_size": np.int32(20)}
    checkpoint = api.train("rnn-gauss", "linear_gaussian", np.int64(4), preset="smoke", **settings)
    recipe = load_checkpoint(checkpoint)[1].recipe
    assert recipe["model"]["training"]["adam_betas"] == [0.9, 0.5]
    same = {"max_epochs": 1, "adam_betas": [0.9, 0.5], "batch_size": 20}
    written = checkpoint.stat().st_mtime_ns
    assert api.train("rnn-gauss", "linear_gaussian", 4, preset="smoke", **same) == checkpoint
    assert checkpoint.stat().st_mtime_ns == written
    result = api.evaluate(str(checkpoint), num_samples=np.int64(3))
    assert result.seed == 4 and result.evaluation["num_samples"] == 1


@pytest.mark.fault
@pytest.mark.parametrize("count", [0, -1, 2.5, 2.0, "3", True, None])
def test_counts_and_seeds_that_are_none_are_named(count, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match=r"num_samples: .* whole number, 1 or more"):
        api.evaluate("nowhere", num_samples=count)
    if count != 0:
        with pytest.raises(ConfigError, match=r"particles: .* whole number, 0 or more"):
            api.evaluate("nowhere", particles=count)
        with pytest.raises(ConfigError, match=r"seed: .* whole number, 0 or more"):
            api.train("dmm", "linear_gaussian", seed=count)

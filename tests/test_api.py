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

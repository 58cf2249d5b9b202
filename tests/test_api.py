"""The suite from Python, as the README shows it."""

import re
import runpy
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from test_cli import make_home
from test_own import TEMPLATES, write_parts

from repro import api
from repro.config.plugins import sources_of
from repro.config.recipes import describe
from repro.errors import CheckpointError, ConfigError
from repro.models.base import ModelSpec
from repro.training.checkpoints import load_checkpoint


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("api"))


def python_blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_readmes_lines_run(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    lines, _ = python_blocks("README.md")
    assert python_blocks("docs/quickstart.md")[0] == lines
    names: dict = {}
    exec(lines, names)
    bound, estimate = map(float, capsys.readouterr().out.split()[-2:])
    assert np.isfinite(bound) and estimate > bound
    assert names["data"][0].shape[1] == 1
    assert load_checkpoint(names["checkpoint"])[1].training["epochs"] == 5


def test_the_readmes_model_is_the_templates():
    template = runpy.run_path(str(TEMPLATES / "own_model.py"))
    names = dict(template)
    exec(python_blocks("README.md")[1], names)
    spec = ModelSpec("own", "own", "gaussian", {"hidden": 5}, 2, [0.0] * 2, [1.0] * 2, {})
    ours, shown = template["build"](spec), names["GatedRNN"](spec)
    assert type(ours) is not type(shown)
    shown.load_state_dict(ours.state_dict())
    x, lengths = torch.randn(7, 3, 2), torch.tensor([7, 4, 2])
    terms = [model.advance(x, lengths, x)[0].log_likelihood for model in (ours, shown)]
    assert torch.equal(*terms)


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


@pytest.fixture
def own(home, monkeypatch):
    """The preset with a user's own data, and the folder that has them."""
    monkeypatch.chdir(home)
    preset = yaml.safe_load((TEMPLATES / "own.yaml").read_text())
    del preset["models"]
    preset["experiments"] = [{"datasets": ["own_data"], "models": ["marginal"]}]
    (home / "config" / "own.yaml").write_text(yaml.safe_dump(preset))
    write_parts(home / "own_data", np.random.default_rng(0))
    yield home / "own_data"
    shutil.rmtree(home / "own_data")


@pytest.mark.fault
@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_new_own_files_are_seen(part, own):
    options = {"preset": "own", "max_epochs": 1}
    before = api.load("own_data", preset="own")
    first = api.train("marginal", "own_data", **options)
    trained = load_checkpoint(first)[1].data["sha256"]
    written, bounds = first.stat().st_mtime_ns, api.evaluate(first, 1).per_sequence["bound"]
    assert api.train("marginal", "own_data", **options).stat().st_mtime_ns == written
    rng = np.random.default_rng(["train", "valid", "test"].index(part) + 1)
    new = [np.cumsum(rng.normal(size=(12, 1)), axis=0) for _ in range(9)]
    np.savez(own / f"{part}.npz", *new)
    with pytest.raises(CheckpointError, match="trained on other data"):
        api.evaluate(first, 1)
    after = api.load("own_data", preset="own")
    assert len(after[part]) == 9 != len(before[part])
    assert api.train("marginal", "own_data", **options) == first
    assert load_checkpoint(first)[1].data["sha256"] != trained
    found = api.evaluate(first, 1).per_sequence["bound"]
    assert part == "valid" or found != bounds


@pytest.mark.fault
def test_every_own_file_is_part_of_the_entry(own):
    shutil.copy(TEMPLATES / "own_model.py", own.parent / "config" / "own_reader.py")
    path = own.parent / "config" / "own.yaml"
    preset = yaml.safe_load(path.read_text())
    preset["datasets"]["own_data"]["reader"] = "config/own_reader.py:read"
    path.write_text(yaml.safe_dump(preset))
    seen = [describe(api.configuration.load("own"), "own_data")]
    changes = ["own_data/new.csv", "own_data/a/b/c.npz", "own_data/train.npz",
               "config/own_reader.py", "own_data/a/b/c.npz"]  # fmt: skip
    for i, name in enumerate(changes):
        (own.parent / name).parent.mkdir(parents=True, exist_ok=True)
        with (own.parent / name).open("a") as file:
            file.write(f"# change {i}")
        found = describe(api.configuration.load("own"), "own_data")
        assert found not in seen
        seen.append(found)
    for hidden in (".DS_Store", "a/._c.npz", "__MACOSX/a.npz", ".cache/x"):
        (own / hidden).parent.mkdir(parents=True, exist_ok=True)
        (own / hidden).write_text("junk")
        assert describe(api.configuration.load("own"), "own_data") == seen[-1]
    (own.parent / "config" / "own_reader.py").unlink()
    with pytest.raises(ConfigError, match=r"datasets\.own_data\.reader: .* is not a file"):
        describe(api.configuration.load("own"), "own_data")


@pytest.mark.fault
def test_the_module_of_an_own_model_is_part_of_the_recipe(own, monkeypatch):
    (own.parent / "lib" / "mine").mkdir(parents=True)
    for name in ("__init__", "model"):
        (own.parent / "lib" / "mine" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(own.parent / "lib")
    path = own.parent / "config" / "own.yaml"
    preset = yaml.safe_load((TEMPLATES / "own.yaml").read_text())
    preset["models"]["own_model"]["family"] = "mine.model:build"
    path.write_text(yaml.safe_dump(preset))
    seen = set()
    for file in ("model", "model", "helper", "helper"):
        with (own.parent / "lib" / "mine" / f"{file}.py").open("a") as source:
            source.write("from mine import helper\n")
        config = api.configuration.load("own")
        model = api.configuration.resolve(config, "own_data", "own_model")["model"]
        seen.add(model["source_sha256"])
    assert len(seen) == 4


@pytest.mark.fault
@pytest.mark.parametrize(
    ("imported", "file"),
    [
        ("import helpers", "lib/mine/helpers.py"),
        ("import helpers as h, os", "lib/mine/helpers.py"),
        ("from helpers import f", "lib/mine/helpers.py"),
        ("from . import near", "lib/mine/near.py"),
        ("from .near import f", "lib/mine/near.py"),
        ("from ..other.far import f", "lib/other/far.py"),
        ("from mine.near import f", "lib/mine/near.py"),
        ("import other.far", "lib/other/far.py"),
        ("import other.far", "lib/other/__init__.py"),
        ("from other import f", "lib/other/__init__.py"),
        ("from config.shared import f", "config/shared.py"),
        ("def late():\n    import helpers", "lib/mine/helpers.py"),
    ],
)
def test_what_own_code_imports_is_part_of_it(tmp_path, monkeypatch, imported, file):
    mine = tmp_path / "lib" / "mine"
    mine.mkdir(parents=True)
    (mine / "model.py").write_text(imported + "\nimport torch, repro.api\n")
    (mine / "unrelated.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(mine.parent)
    assert sources_of(mine / "model.py") == [mine / "model.py"]  # nothing that is installed
    helper = tmp_path / file
    helper.parent.mkdir(parents=True, exist_ok=True)
    helper.write_text("import deeper\n")
    deeper = helper.with_name("deeper.py")
    deeper.write_text("from mine.model import x\n")  # a circle
    assert sources_of(mine / "model.py") == [mine / "model.py", helper, deeper]


@pytest.mark.fault
def test_paths_numbers_and_tuples_of_any_kind_are_accepted(home, monkeypatch):
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
def test_invalid_counts_and_seeds_are_named(count, home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match=r"num_samples: .* whole number, 1 or more"):
        api.evaluate("nowhere", num_samples=count)
    if count != 0:
        with pytest.raises(ConfigError, match=r"particles: .* whole number, 0 or more"):
            api.evaluate("nowhere", particles=count)
        with pytest.raises(ConfigError, match=r"seed: .* whole number, 0 or more"):
            api.train("dmm", "linear_gaussian", seed=count)

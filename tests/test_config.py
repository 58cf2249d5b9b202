"""Configuration: every preset is valid, every mistake has its sentence."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, families, spec

from repro.config import recipes as configuration
from repro.config.traits import declared
from repro.errors import ConfigError
from repro.models import build


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def merged(preset="smoke"):
    config = {}
    for name in ("datasets", "models", preset):
        content = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
        config = configuration.merge(config, content)
    return config


@pytest.mark.parametrize("preset", configuration.presets() or ["starter"])
def test_every_preset_is_valid_and_resolves(preset):
    config = configuration.load(preset)
    for dataset, model in configuration.cells(config):
        recipe = configuration.resolve(config, dataset, model)
        assert recipe["model"]["name"] == model and recipe["dataset"]["name"] == dataset


def test_readme_and_starter_say_how_many_models_starter_runs():
    config = configuration.load("starter")
    models = {model for _, model in configuration.cells(config)}
    said = f"{len(models)} of the {len(config['models'])} models"
    starter = (ROOT / "config" / "starter.yaml").read_text()
    for page in ("README.md", "docs/quickstart.md"):
        assert said in " ".join((ROOT / page).read_text().split())
    assert said in config["description"] and starter.count(said) == 2
    assert len(config["seeds"]) == 3


def change(path, value):
    def apply(config):
        *parents, last = path.split(".")
        for key in parents:
            config = config[int(key) if key.isdecimal() else key]
        config[last] = value

    return apply


def trained_by(model, objective):
    training = {"objective": objective, "samples": 2}
    experiment = {"datasets": ["bach_chorales"], "models": [model], "training": training}
    return change("experiments", [experiment])


def sized(model, **sizes):
    experiment = {"datasets": ["bach_chorales"], "models": [model], "sizes": sizes}
    return change("experiments", [experiment])


BROKEN = [
    (
        change("experiments.0.models", ["dmn"]),
        r"no model 'dmn' in config/models.yaml; did you mean 'dmm'",
    ),
    (
        change("experiments.0.datasets", ["bach_choral"]),
        r"no data set 'bach_choral'.*did you mean 'bach_chorales'",
    ),
    (change("experiments.0.models", ["rnn-gmm"]), r"model 'rnn-gmm' has no head for binary data"),
    (change("experiments.0.models", ["exact"]), r"'exact' (has no head|needs a data set)"),
    (
        change("experiments.0.training", {"segment": 5}),
        r"model 'dmm' on bach_chorales: its inference reads whole",
    ),
    (change("experiments.0.training", {"objective": "iwae"}), r"'samples' is a required property"),
    (trained_by("tsbn", "fivo"), r"model 'tsbn' on bach_chorales: its z is discrete"),
    (trained_by("rnn", "iwae"), r"model 'rnn' on bach_chorales: it has no latent variables"),
    (change("corpora", "/nowhere"), r"corpora: /nowhere is not a directory"),
    (change("seeds", 3), r"seeds: 3 is not of type 'array'"),
    (change("seeds", ["x"]), r"seeds.0: 'x' is not of type 'integer'"),
    (change("seeds", [1.0]), r"seeds.0: 1.0 is not of type 'integer'"),
    (change("experiments.0.training", {"batch_size": 20.0}), r"20.0 is not of type 'integer'"),
    (change("seeds", [1, 1]), r"seeds: .*non-unique"),
    (change("colour", "red"), r"'colour' was unexpected"),
    (change("device", "gpu"), r"device: 'gpu' is not one of"),
    (change("threads", 0), r"threads: 0 is less than the minimum"),
    (
        change("experiments.0.training", {"max_epoch": 1}),
        r"models.dmm on bach_chorales: .*'max_epoch' was unexpected",
    ),
    (
        change("experiments.0.training", {"learning_rate": "fast"}),
        r"learning_rate: 'fast' is not of type 'number'",
    ),
    (
        change("experiments.0.sizes", {"latent": 1.5}),
        r"models.dmm on bach_chorales: .*1.5 is not of type 'integer'",
    ),
    (change("experiments.0.sizes", {"layers": 2}), r"'layers' was unexpected"),
    (sized("transformer", context=0), r"models.transformer.*context: 0 is less than the minimum"),
    (sized("tcn", kernel=0), r"models.tcn.*kernel: 0 is less than the minimum"),
    (sized("transformer", heads=[4]), r"models.transformer.*heads: \[4\] is not of type 'integer'"),
    (sized("dmm", flows=1), r"models.dmm.*'flow_hidden' is a dependency of 'flows'"),
    (
        sized("dmm", flows=3, flow_hidden=4),
        r"models.dmm.*flows: 3 is greater than the maximum of 2",
    ),
    (sized("gru-latent", past_family="dmm"), r"gru-latent.*past_family: 'dmm' is not one of"),
    (
        sized("gru-latent", past_family="tcn"),
        r"gru-latent.*'(blocks|kernel)' is a required property",
    ),
    (change("preset", "a/b"), r"preset: 'a/b' does not match"),
    (change("evaluation.num_samples", 0), r"num_samples: 0 is less than the minimum"),
    (change("datasets.jsb_chorales.sources.0.file", "../x"), r"does not match"),
]


@pytest.mark.parametrize(("mistake", "words"), BROKEN, ids=[words for _, words in BROKEN])
def test_a_mistake_is_named_with_its_position(mistake, words):
    config = copy.deepcopy(merged())
    mistake(config)
    with pytest.raises(ConfigError, match=words) as error:
        configuration.check(config)
    assert len(str(error.value).splitlines()) <= 2


@pytest.mark.parametrize("family", [*families(), "linear_gaussian"])
def test_what_a_familys_file_declares_is_what_its_class_says(family):
    model = build(spec(family))
    assert declared(ROOT / "repro" / "models" / f"{family}.py") == model.traits
    assert model.traits.latent == bool(model.latent)
    assert model.traits.true_parameters == (not list(model.parameters()))


@pytest.mark.parametrize(
    ("traits", "training", "words"),
    [
        ("whole_sequences=True", {"segment": 5}, "its inference reads whole sequences"),
        ("discrete=True", {"objective": "fivo", "samples": 2}, "its z is discrete"),
        ("latent=False", {"objective": "iwae", "samples": 2}, "it has no latent variables"),
        ("needed_option='parameters'", {}, "needs a data set with `parameters`"),
    ],
)
def test_an_own_family_gets_the_same_checks(traits, training, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", "config")
    Path("config/mine.py").write_text(f"class Mine:\n    traits = Traits({traits})\n")
    config = merged()
    config["models"]["rnn"] |= {"family": "config/mine.py:Mine"}
    config["experiments"] = [
        {"datasets": ["bach_chorales"], "models": ["rnn"], "training": training}
    ]
    with pytest.raises(ConfigError, match=f"model 'rnn' on bach_chorales: .*{words}"):
        configuration.check(config)
    Path("config/mine.py").write_text("class Mine:\n    traits = Traits()\n")
    configuration.check(config)


def test_licensed_data_are_those_that_the_folder_of_corpora_lacks(tmp_path):
    config = configuration.load("paper-speech")
    licensed = ["timit", "accent", "blizzard"]
    assert configuration.not_supplied(config) == licensed
    (tmp_path / "timit").mkdir()
    config["corpora"] = str(tmp_path)
    assert configuration.not_supplied(config) == licensed[1:]
    assert configuration.not_supplied(configuration.load("starter")) == []


def test_a_recipe_keeps_only_what_decides_its_training():
    model = configuration.resolve(configuration.load("starter"), "bach_chorales", "dmm")["model"]
    assert model["heads"] == {"binary": "bernoulli"} and "citation" not in model


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="no preset 'startr' in config/; did you mean 'starter'"):
        configuration.load("startr")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (["0", "1"], [0, 1]),
        ("true", True),
        ("null", None),
        ({"num_samples": "50", "curve": ["1", "5"]}, {"num_samples": 50, "curve": [1, 5]}),
        ([{"training": {"learning_rate": "1.0e-3"}}], [{"training": {"learning_rate": 0.001}}]),
        ("2026-01-01", "2026-01-01"),
        ("[unclosed", "[unclosed"),
        ({"title": "a: b"}, {"title": "a: b"}),
    ],
)
def test_words_of_the_command_line_are_what_yaml_reads(text, value):
    assert configuration.typed(text) == value


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", "1.0e-3"), ("1e3", "1.0e+3"), ("-2E5", "-2.0e+5"), ("1.5e3", "1.5e+3")],
)
def test_numbers_that_yaml_reads_as_text_are_written_out(text, number):
    assert yaml.safe_load(text) == text and yaml.safe_load(number) == float(text)
    config = merged()
    config["experiments"][0]["training"] = {"learning_rate": text}
    with pytest.raises(ConfigError, match=re.escape(f"write {number} (see")):
        configuration.check(config)


@pytest.mark.fault
@pytest.mark.parametrize("word", ["on", "off", "yes", "no"])
def test_a_word_that_yaml_reads_as_a_boolean_is_explained(word):
    config = merged() | {"wandb": yaml.safe_load(word)}
    with pytest.raises(ConfigError, match=r"wandb: .*disabled.*YAML reads a bare on, off"):
        configuration.check(config)


@pytest.mark.fault
@pytest.mark.parametrize("other", ["starter", "smoke", "nobody"])
def test_a_preset_is_named_like_its_file(other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", "config")
    text = Path("config/smoke.yaml").read_text().replace("preset: smoke", f"preset: {other}")
    Path("config/copied.yaml").write_text(text)
    with pytest.raises(ConfigError, match="write `preset: copied`") as error:
        configuration.load("copied")
    assert f"says `preset: {other}`" in str(error.value)
    with pytest.raises(ConfigError, match="write `preset: copied`"):
        configuration.require_own_name(Path("config/copied.yaml").absolute())
    Path("config/copied.yaml").write_text(text.replace(f"preset: {other}", "preset: copied"))
    assert configuration.load("copied")["preset"] == "copied"
    Path("config/copied.yaml").rename("config/copied.yml")
    with pytest.raises(ConfigError, match=r"rename it to copied\.yaml"):
        configuration.load("copied")


def test_a_file_of_another_preset_is_not_made_under_this_one():
    own = [
        "all",
        "runs/smoke/report.html",
        "runs/data/fsdd/raw.json",
        "runs/own-own/x/y/seed0.json",
    ]
    configuration.require_own_targets(own, "smoke")
    with pytest.raises(ConfigError, match="belongs to preset starter, not smoke"):
        configuration.require_own_targets(["runs/starter/linear_gaussian/dmm/seed0.json"], "smoke")


def test_an_old_name_of_a_setting_is_read_with_a_warning():
    config = configuration.load("smoke")
    with pytest.warns(FutureWarning, match="together: this setting is now called stack_seeds"):
        assert configuration.check({**config, "together": True})["stack_seeds"] is True
    with pytest.raises(ConfigError, match="stack_seeds"), pytest.warns(FutureWarning):
        configuration.check({**config, "together": "perhaps"})


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    config = merged() | {"mirror": "~/mine", "corpora": "~/mine"}
    config["datasets"]["linear_gaussian"]["local"] = "~/mine"
    found = configuration.check(config)
    assert found["mirror"] == found["corpora"] == str(tmp_path / "mine")
    assert found["datasets"]["linear_gaussian"]["local"] == str(tmp_path / "mine")


def test_later_experiments_override_earlier_ones_key_by_key():
    config = merged()
    config["experiments"] += [
        {"datasets": ["bach_chorales"], "models": ["dmm"], "sizes": {"latent": 7}}
    ]
    sizes = configuration.resolve(config, "bach_chorales", "dmm")["model"]["sizes"]
    assert sizes["latent"] == 7 and sizes["transition"] == 16


def test_every_setting_is_described():
    schema = configuration.read_yaml(ROOT / "config" / "schema.yaml")
    described = {**schema["properties"], **schema["$defs"]["training"]["properties"]}
    for name, entry in described.items():
        assert "description" in entry or name in ("evaluation", "datasets", "models"), name


def test_frozen_recipe_reads_back(tmp_path):
    recipe = configuration.resolve(configuration.load("starter"), "linear_gaussian", "dmm")
    configuration.freeze(recipe, tmp_path / "config.yaml")
    path = tmp_path / "config.yaml"
    assert configuration.thaw(path, "linear_gaussian", "dmm") == recipe
    with pytest.raises(ConfigError, match="is the recipe of dmm on linear_gaussian, not dmm on x"):
        configuration.thaw(path, "x", "dmm")
    with pytest.raises(ConfigError, match="is not a recipe"):
        configuration.thaw(ROOT / "config" / "smoke.yaml", "linear_gaussian", "dmm")


@pytest.mark.parametrize("text", ["a: [1", "just text", ""])
def test_files_that_hold_no_settings_are_named(text, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"x.yaml (is not YAML|must hold a mapping)"):
        configuration.read_yaml(path)

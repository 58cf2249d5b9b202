"""The package where there is no clone: what it reads, where it writes, what it asks for."""

import sys
import tomllib

import pytest
import yaml
from test_cli import ROOT, fails, run

from repro import api
from repro.config import recipes
from repro.errors import ConfigError
from repro.evaluation.midi import write_midi
from repro.results.stored import stored_results
from repro.runtime import paths
from repro.runtime.extras import EXTRAS, require


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, without REPRO_RUNS."""
    monkeypatch.delenv("REPRO_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_registers_presets_and_stored_results_are_found(elsewhere):
    assert "starter" in recipes.presets()
    assert recipes.load("smoke")["preset"] == "smoke"
    assert set(stored_results(task="linear_gaussian", model="dmm").preset) == {"starter"}
    assert list(elsewhere.iterdir()) == []


def test_a_wheel_reads_its_copies(elsewhere, monkeypatch):
    carried = elsewhere / "package" / "shipped"
    carried.mkdir(parents=True)
    monkeypatch.setattr(paths, "shipped", lambda: carried)
    assert paths.config_folder() == carried / "config"
    assert paths.results_folder() == carried / "results"
    monkeypatch.chdir(ROOT)  # but a clone has its own
    assert paths.config_folder().absolute() == ROOT / "config"


def test_a_training_lands_in_the_folder_that_is_named(elsewhere, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", "mine")
    checkpoint = api.train("dmm", "linear_gaussian", preset="smoke", max_epochs=1)
    assert checkpoint.is_relative_to("mine")
    assert api.evaluate(checkpoint, num_samples=10).dataset == "linear_gaussian"
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]


def test_the_command_line_names_the_folder_too(elsewhere):
    run(elsewhere, "--runs", "mine", "configure", "--dataset", "linear_gaussian", "--model", "dmm")
    assert (elsewhere / "mine/starter/linear_gaussian/dmm/config.yaml").is_file()


def test_what_to_do_first_is_a_command_that_works_here(elsewhere):
    assert "snakemake" not in fails(elsewhere, "tables")
    (elsewhere / "config").symlink_to(ROOT / "config")
    assert "run `snakemake --cores 8 all` or `repro train" in fails(elsewhere, "tables")


def test_own_presets_are_found_beside_those_of_the_suite(elsewhere):
    (elsewhere / "config").mkdir()
    preset = yaml.safe_load((ROOT / "config/smoke.yaml").read_text()) | {"preset": "mine"}
    (elsewhere / "config/mine.yaml").write_text(yaml.safe_dump(preset))
    assert {"mine", "starter"} <= set(recipes.presets())
    assert recipes.load("mine")["preset"] == "mine"


@pytest.mark.fault
def test_an_own_preset_may_not_hide_one_of_the_suite(elsewhere):
    (elsewhere / "config").mkdir()
    (elsewhere / "config/starter.yaml").write_text("preset: starter\n")
    (elsewhere / "config/starter.yaml").write_text("preset: starter\nexperiments: []\n")
    assert recipes.load("smoke")["preset"] == "smoke"
    with pytest.raises(ConfigError, match=r"config/starter.yaml: the suite already has a preset"):
        recipes.load("starter")


@pytest.mark.fault
def test_a_config_folder_of_another_program_is_none_of_ours(elsewhere):
    (elsewhere / "config").mkdir()
    (elsewhere / "config/app.yaml").write_text("db: {host: x}\n")
    (elsewhere / "config/broken.yaml").write_text("{:::")
    (elsewhere / "config/folder.yaml").mkdir()
    assert not {"app", "broken", "folder"} & set(recipes.presets())
    with pytest.raises(ConfigError, match="is not YAML"):
        recipes.load("broken")


@pytest.mark.fault
@pytest.mark.parametrize("command", ["accept", "paper-tables"])
def test_commands_that_change_the_repository_need_a_clone(elsewhere, command):
    assert "run it in a clone's root folder" in fails(elsewhere, command)


@pytest.mark.fault
@pytest.mark.parametrize("library", EXTRAS)
def test_a_missing_library_is_one_sentence_with_the_command_that_adds_it(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    extra = EXTRAS[library]
    with pytest.raises(ConfigError, match=rf"needs {library}, .*pip install .*\[{extra}\]"):
        require(library)


@pytest.mark.fault
def test_writing_midi_without_its_library_leaves_nothing(elsewhere, monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    with pytest.raises(ConfigError, match=r"repro-sequential\[music\]"):
        write_midi([[0] * 88], elsewhere / "roll.mid")
    assert list(elsewhere.iterdir()) == []


def test_every_extra_is_in_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for library, extra in EXTRAS.items():
        assert any(line.startswith(library) for line in extras[extra])
        assert not any(line.startswith(library) for line in project["dependencies"])
    assert extras["all"] == [f"{project['name']}[workflow,figures,music,audio]"]

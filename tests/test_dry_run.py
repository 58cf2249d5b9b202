"""What Snakemake would run, and what it refuses before it runs anything."""

import pytest
from test_workflow import SMOKE, copy_workflow, snakemake

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the workflow, in which nothing is run."""
    folder = tmp_path_factory.mktemp("home") / "my copy"
    copy_workflow(folder)
    return folder


# What each preset's settings are is tests/test_config.py's; here, that Snakemake can plan them.
@pytest.mark.parametrize("preset", ["starter", "paper-music", "half-speech"])
def test_a_preset_can_be_planned(preset, home):
    done = snakemake(home, "all", "--dry-run", "--config", f"preset={preset}")
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout + done.stderr


@pytest.mark.fault
def test_a_file_of_another_preset_names_it(home):
    done = snakemake(home, "runs/starter/linear_gaussian/dmm/seed0.json", "--dry-run", *SMOKE)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "belongs to preset starter, not smoke" in done.stderr


def test_settings_inside_settings_can_be_given_on_the_command_line(home):
    inside = "evaluation={num_samples: 7, curve: [1, 3]}"
    done = snakemake(home, "all", "--dry-run", *SMOKE, inside, "stack_seeds=true")
    assert done.returncode == 0, done.stderr
    assert "--num-samples 7 --curve 1 --curve 3" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("preset=nothing", "no preset 'nothing' in config/"),
        ("colour=red", "'colour' was unexpected"),
        ("seeds=3", "seeds: 3 is not of type 'array'"),
        ("mirror=/nowhere", "mirror: /nowhere is not a directory"),
        ("evaluation={num_samples: 0}", "num_samples: 0 is less than the minimum"),
    ],
)
def test_a_wrong_setting_is_one_line_without_a_traceback(setting, words, home):
    done = snakemake(home, "all", "--dry-run", "--config", setting)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ConfigError")]
    assert words in line

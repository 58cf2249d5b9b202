"""Small models and data that several test files use."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import repro
from repro.data import prepared
from repro.models import build
from repro.models.base import ModelSpec
from repro.tasks.task import of_file

ROOT = Path(__file__).parent.parent

RECOGNITION = {
    "embedding": 5,
    "inference_network": "st-r",
    "inference_hidden": 6,
    "forget_bias": -0.5,
    "initial_cell": 1.0,
    "dropout": 0.0,
}
SIZES = {
    "rnn": {"features": [5, 4], "hidden": 6, "decoder": [5]},
    "transformer": {
        "features": [5, 4],
        "hidden": 8,
        "blocks": 2,
        "heads": 2,
        "context": 3,
        "feedforward": 7,
        "decoder": [5],
    },
    "tcn": {"features": [5, 4], "hidden": 6, "blocks": 3, "kernel": 2, "decoder": [5]},
    "minimal_rnn": {
        "features": [8, 6],
        "hidden": 6,
        "blocks": 2,
        "minimal_cell": "mingru",
        "feedforward": 7,
        "decoder": [5],
    },
    "lru": {"features": [8, 6], "hidden": 6, "blocks": 2, "states": 4, "decoder": [5]},
    "mamba": {"features": [8, 6], "hidden": 6, "blocks": 2, "states": 3, "decoder": [5]},
    "latent_autoregressive": {
        "past_family": "rnn",
        "features": [5, 4],
        "hidden": 6,
        "latent": 3,
        "features_z": [4, 3],
        "encoder": [8, 8],
        "prior": [8],
        "decoder": [8],
    },
    "vrnn": {
        "latent": 3,
        "hidden": 5,
        "features_x": [4],
        "features_z": [4, 3],
        "encoder": [6, 4],
        "prior": [4],
        "decoder": [5],
    },
    "dmm": {
        "latent": 3,
        "transition": 5,
        "emission": 4,
        **RECOGNITION,
    },
    "storn": {"latent": 3, "hidden": 5, "recognition": 4, "decoder": [6]},
    "vae": {"latent": 3, "encoder": [5, 4], "decoder": [4, 6]},
    "srnn": {
        "latent": 3,
        "features": [4, 3],
        "hidden": 5,
        "smoother": 4,
        "prior": [6, 4],
        "posterior": [5],
        "decoder": [6],
    },
    "tsbn": {"latent": 3, "previous_x": True, "baseline": 4},
    "sbn": {"layers": [3, 2, 2], "baseline": 4},
    "fixed_linear": RECOGNITION,
    "two_parameters": RECOGNITION,
}
VARIANTS = {
    "rnn": {"lstm": {}, "gru": {"cell": "gru"}, "tanh": {"cell": "tanh"}},
    "latent_autoregressive": {
        "gru": {"cell": "gru"},
        "transformer": {**SIZES["transformer"], "past_family": "transformer"},
        "lru": {**SIZES["lru"], "past_family": "lru"},
    },
    "minimal_rnn": {cell: {"minimal_cell": cell} for cell in ("mingru", "minlstm")},
    "vrnn": {"vrnn": {}, "vrnn-i": {"prior": None}},
    "dmm": {
        "dmm-aug": {"previous_x": True},
        "dmm-relu": {"inference_cell": "relu", "embedding": None},
        "dmm-iaf": {"flows": 1, "flow_hidden": 5},
        "dmm-iaf-2": {"flows": 2, "flow_hidden": 4, "inference_network": "mf-lr"},
        **{
            f"dmm-{name}": {"inference_network": name}
            for name in ("st-l", "st-r", "st-lr", "mf-l", "mf-lr")
        },
    },
    "storn": {"": {}},
    "vae": {"": {}},
    "srnn": {"": {}},
    "tsbn": {"tsbn": {}, "hmsbn": {"previous_x": False}},
    "sbn": {"": {}},
    "fixed_linear": {name: {"inference_network": name} for name in ("st-r", "mf-lr")},
    "two_parameters": {"st-r": {}},
}
BINARY = ["bernoulli", "nade", "made", "rbm"]
HEADS = [*BINARY, "gaussian", "gaussian_mixture", "bivariate_mixture", "autoregressive"]
LINEAR = {  # three latent, two observed dimensions
    "transition_matrix": [[0.9, 0.1, 0.0], [0.0, 0.5, 0.2], [0.3, 0.0, 0.7]],
    "transition_offset": [0.1, -0.2, 0.3],
    "transition_covariance": [[0.5, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 2.0]],
    "emission_matrix": [[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]],
    "emission_offset": [0.2, -0.1],
    "emission_covariance": [[0.3, 0.0], [0.0, 0.6]],
}


def heads_of(family: str) -> list[str]:
    """The heads a family can have; one with a known emission has none to choose."""
    return ["gaussian"] if family in ("fixed_linear", "two_parameters") else HEADS


def dim_of(head: str) -> int:
    """Pen trajectories have three values per step; the other heads take any number."""
    return 3 if head.startswith("bivariate") else 2


torch.set_num_threads(1)  # several workers share the cores

KINDS = {"oracle": "oracles checked", "fault": "faults injected", "fuzz": "tests of hostile input"}
INPUTS = {"given": 0}  # to readers, by tests of hostile input in this process


def count_input() -> None:
    """Count one damaged or hostile input, for the summary of `pytest -m trust`."""
    INPUTS["given"] += 1


LONGEST = ["test_workflow", "test_faults", "test_own", "test_dry_run", "test_fuzz"]


def pytest_collection_modifyitems(items):
    for item in items:
        if any(item.get_closest_marker(kind) for kind in KINDS):
            item.add_marker("trust")
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))  # others stay as they are


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    before = INPUTS["given"]
    yield
    item.user_properties.append(("inputs", INPUTS["given"] - before))


def pytest_terminal_summary(terminalreporter):
    """Say what was checked, over all workers."""
    passed = terminalreporter.stats.get("passed", [])
    counts = {text: sum(kind in r.keywords for r in passed) for kind, text in KINDS.items()}
    inputs = sum(count for r in passed for name, count in r.user_properties if name == "inputs")
    if any(counts.values()):
        summary = ", ".join(f"{count} {text}" for text, count in counts.items())
        terminalreporter.write_line(f"trust: {summary} with {inputs} inputs; all passed")


def spec(family: str, head: str = "gaussian", dim: int | None = None, **sizes) -> ModelSpec:
    """A small model's specification; large initial weights, so that every part matters."""
    dim = dim or dim_of(head)
    heads = {"components": 3, "frame_hidden": 4, "nade_hidden": 4, "made_hidden": 9}
    heads |= {"rbm_hidden": 4, "rbm_gibbs_steps": 2, "rbm_chains": 5, "rbm_temperatures": 10}
    general = {"initial_weights": 0.6, "made_orders": 2, **heads}
    all_sizes = {**general, **SIZES.get(family, {}), **sizes}
    options = {"parameters": LINEAR}
    return ModelSpec(family, family, head, all_sizes, dim, [0.0] * dim, [1.0] * dim, options)


def families() -> list[str]:
    """Every trainable family, found by its file, so that a new one is tested automatically."""
    files = sorted((ROOT / "repro" / "models").glob("*.py"))
    shared = {"__init__", "base", "terms", "time_loop", "markov", "autoregressive"}
    return [f.stem for f in files if f.stem not in {*shared, "linear_gaussian"}]


@pytest.fixture(scope="session")
def walk(tmp_path_factory):
    """Random walks of ragged lengths, prepared."""
    rng = np.random.default_rng(0)
    parts = {
        part: [rng.standard_normal((n, 2)).cumsum(0) for n in rng.integers(2, 9, size=count)]
        for part, count in (("train", 10), ("valid", 5), ("test", 6))
    }
    path = tmp_path_factory.mktemp("data") / "walk" / "sequences.safetensors"
    prepared.save(parts, "walk", {"kind": "real", "normalise": "global"}, path)
    return path


CASES_OF_LOOPS = [
    (family, "gaussian", sizes)
    for family in families()
    for sizes in VARIANTS.get(family, {"": {}}).values()
]


@pytest.fixture
def small_model():
    """Build a small float64 model: small_model(family, head, dim=…, **sizes)."""

    def make(family, head="gaussian", dim=None, **sizes):
        torch.manual_seed(1)
        return build(spec(family, head, dim, **sizes)).double().eval()

    return make


@pytest.fixture
def ragged():
    """Make a ragged batch: x (T, B, D), lengths (B,), noise (T, K, B, Z), in float64."""

    def make(head="gaussian", dim=None, lengths=(5, 2, 4), samples=2, latent=3, seed=0):
        g, dim = torch.Generator().manual_seed(seed), dim or dim_of(head)
        x = torch.randn(max(lengths), len(lengths), dim, generator=g, dtype=torch.float64)
        if head in BINARY:
            x = (x > 0).double()
        if head.startswith("bivariate"):
            x[..., 0] = (x[..., 0] > 0).double()
        for b, length in enumerate(lengths):
            x[length:, b] = 0.0
        shape = (max(lengths), samples, len(lengths), latent)
        return x, torch.tensor(lengths), torch.randn(shape, generator=g, dtype=torch.float64)

    return make


@pytest.fixture
def datasets():
    return yaml.safe_load((ROOT / "config" / "datasets.yaml").read_text())["datasets"]


def task_of(folder, parts, kind="real", normalise="per_dimension", units="original"):
    """The task of sequences, prepared below a folder."""
    path = folder / "own" / "sequences.safetensors"
    prepared.save(parts, "own", {"kind": kind, "normalise": normalise}, path)
    return of_file(path, "none", units)


@pytest.fixture(scope="session")
def tasks_home(tmp_path_factory):
    """A folder with the settings, and few sequences of linear_gaussian, prepared."""
    folder = tmp_path_factory.mktemp("tasks")
    shutil.copytree(ROOT / "config", folder / "config")
    path = folder / "config" / "datasets.yaml"
    datasets = yaml.safe_load(path.read_text())
    sequences = {"train": 40, "valid": 10, "test": 10}
    datasets["datasets"]["linear_gaussian"]["options"]["sequences"] = sequences
    path.write_text(yaml.safe_dump(datasets))
    return folder


@pytest.fixture(scope="session")
def linear(tasks_home):
    """The task linear_gaussian, of few sequences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tasks_home)
        return repro.task("linear_gaussian")


@pytest.fixture
def rolls(tmp_path):
    """A task of two bits a step."""
    rng = np.random.default_rng(0)
    parts = {
        part: [(rng.random((n, 2)) < 0.4).astype(float) for n in (4, 1, 6, 3)]
        for part in ("train", "valid", "test")
    }
    return task_of(tmp_path, parts, "binary", "none")

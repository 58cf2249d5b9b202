"""From the files in config/ to one frozen recipe per run.

No torch here: the Snakefile imports this module for every job it starts.
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from repro.config.plugins import sources_of
from repro.config.traits import Traits, declared, misfit
from repro.config.validation import validate
from repro.errors import ConfigError, hint
from repro.runtime.files import sha256, visible_files, write_text
from repro.runtime.paths import config_folder, in_clone

USER_CONFIG = Path("config")  # in the working directory; in a clone it is the suite's own
# The keys of an entry in datasets.yaml on which its prepared file depends, and the keys of a source
# that identify its bytes.
DECIDES_BYTES = ("reader", "kind", "normalise", "local", "options", "expected")
IDENTIFIES_SOURCE = ("file", "sha256", "content", "content_sha256")
RENAMED_SETTINGS = {"together": "stack_seeds"}
# What may be subtracted and divided out of data of a kind: bits and the pen stay as they are.
NORMALISATIONS = {
    "binary": ("none",),
    "real": ("none", "global", "per_dimension"),
    "strokes": ("none", "offsets"),
}

# libyaml's, where PyYAML was built with it: ten times as fast as the one in Python.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def merge(base: dict, extra: dict) -> dict:
    """Return `base` with `extra` over it: dictionaries key by key, everything else whole."""
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read_yaml(path: Path) -> dict:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a day 32
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, not {type(content).__name__}.")
    return content


def presets() -> list[str]:
    """Return the names of the presets."""
    return sorted(preset_files())


def preset_files() -> dict[str, Path]:
    """Return the files of presets by name: the suite's, and outside a clone those in config/ here.

    A folder called config/ may be of another program: there, only files with experiments count.
    """
    not_presets = {"datasets", "models", "schema", "targets"}
    found = {p.stem: p for p in config_folder().glob("*.yaml") if p.stem not in not_presets}
    user_files = (
        {} if in_clone() else {p.stem: p for p in USER_CONFIG.glob("*.yaml") if _has_experiments(p)}
    )
    return user_files | found


def _has_experiments(path: Path) -> bool:
    try:
        return "experiments" in read_yaml(path)
    except ConfigError:
        return False


def preset_file(preset: str) -> Path:
    """Return the path of a preset's file.

    Raises:
        ConfigError: there is no such preset (names the nearest), or its file has another name
            under `preset:`.
    """
    if (USER_CONFIG / f"{preset}.yml").exists():
        raise ConfigError(f"config/{preset}.yml is not read; rename it to {preset}.yaml.")
    found, user_file = preset_files(), USER_CONFIG / f"{preset}.yaml"
    if not in_clone() and user_file.is_file():
        if preset in found and found[preset] != user_file:
            raise ConfigError(
                f"config/{user_file.name}: the suite already has a preset of this name; rename "
                "yours."
            )
        found.setdefault(preset, user_file)  # and reading it says what is wrong
    if preset not in found:
        raise ConfigError(f"preset: {unknown('preset', preset, found)}")
    require_own_name(found[preset])
    return found[preset]


def require_own_name(path: Path) -> None:
    """Refuse a preset's file whose `preset:` names another preset, whose runs it would overwrite.

    Raises:
        ConfigError: says what to write.
    """
    if path.absolute().parent != USER_CONFIG.absolute():
        return  # a settings file outside config/ may change a preset's settings
    name = read_yaml(path).get("preset", path.stem)
    if name != path.stem:
        raise ConfigError(
            f"config/{path.name} says `preset: {name}`, and its runs would overwrite those of that "
            f"preset; a preset is named like its file: write `preset: {path.stem}`."
        )


def require_own_targets(targets: Iterable[str], preset: str) -> None:
    """Refuse target files that belong to another preset than the chosen one.

    Raises:
        ConfigError: says which preset to set.
    """
    for target in targets:
        root, *rest = Path(str(target)).parts or ("",)
        if root == "runs" and len(rest) > 1 and rest[0] != preset and rest[0] in presets():
            raise ConfigError(
                f"{target} belongs to preset {rest[0]}, not {preset}: add "
                f"`--config preset={rest[0]}`."
            )


def require_own_data(config: dict) -> None:
    """Refuse a preset whose own data do not exist, before anything reads them.

    Raises:
        ConfigError: names the setting.
    """
    for dataset in dict.fromkeys(dataset for dataset, _ in cells(config)):
        local = config["datasets"][dataset].get("local")
        if local is not None and not Path(local).is_dir():
            raise ConfigError(
                f"datasets.{dataset}.local: {local} is not a directory; put the data there or "
                "correct the setting."
            )


def typed(value: Any) -> Any:
    """Return a command-line value as YAML would read it: Snakemake leaves words as text."""
    if isinstance(value, dict):
        return {key: typed(part) for key, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    if not isinstance(value, str):
        return value
    try:
        read = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return read if isinstance(read, bool | int | float) or value in ("null", "~") else value


def load(preset: str) -> dict:
    """Return the checked configuration of a preset, as the Snakefile sees it."""
    return check(merge(registers(), read_yaml(preset_file(preset))))


def registers(preset: str = "") -> dict:
    """Return all data sets and models, unchecked; with those of a preset that has a file."""
    folder = config_folder()
    config = merge(read_yaml(folder / "datasets.yaml"), read_yaml(folder / "models.yaml"))
    return merge(config, read_yaml(preset_file(preset))) if preset in presets() else config


def check(config: dict) -> dict:
    """Return `config` with `~` in its paths expanded, after every check that needs no data.

    Raises:
        ConfigError: the first problem: a key, type or value against config/schema.yaml; a model
            or data set that does not exist; a model whose heads do not fit a data set.
    """
    schema = read_yaml(config_folder() / "schema.yaml")
    config = _renamed(config)
    validate(config, schema)
    config = _expanded(config)
    for setting in ("mirror", "corpora"):
        if config.get(setting) is not None and not Path(config[setting]).is_dir():
            raise ConfigError(
                f"{setting}: {config[setting]} is not a directory; correct or remove the setting."
            )
    for dataset, described in config["datasets"].items():
        check_normalisation(dataset, described)
    for dataset, model in cells(config):
        resolved = resolve(config, dataset, model)["model"]
        _validate_part(resolved, schema, f"models.{model} on {dataset}")
    return config


def check_normalisation(dataset: str, described: dict) -> None:
    """Refuse a data set's entry whose kind cannot be normalised as it says.

    Raises:
        ConfigError: names the choices.
    """
    kind, how = described["kind"], described["normalise"]
    if how not in NORMALISATIONS[kind]:
        raise ConfigError(
            f"datasets.{dataset}: {kind} data cannot have `normalise: {how}`; set it to "
            f"{' or '.join(NORMALISATIONS[kind])}."
        )


def cells(config: dict) -> list[tuple[str, str]]:
    """Return the (data set, model) pairs of the preset, each once, in the order of the file."""
    pairs = [
        (dataset, model)
        for experiment in config["experiments"]
        for dataset in experiment["datasets"]
        for model in experiment["models"]
    ]
    return list(dict.fromkeys(pairs))


def not_supplied(config: dict) -> list[str]:
    """Return the licensed data sets of the preset that the folder `corpora` does not have."""
    names = dict.fromkeys(dataset for dataset, _ in cells(config))
    corpora = config.get("corpora")
    return [
        name
        for name in names
        if "licensed" in config["datasets"][name]
        and not (corpora and (Path(corpora) / name).is_dir())
    ]


def resolve(config: dict, dataset: str, model: str) -> dict:
    """Return the recipe of one cell: everything that decides a training, except its seed.

    Later experiments of the preset override earlier ones; a cell that no experiment lists
    runs as config/models.yaml says.

    Raises:
        ConfigError: the model or data set does not exist, or its heads do not fit the data.
    """
    data, chosen = entry(config, "data set", dataset), entry(config, "model", model)
    for experiment in config["experiments"]:
        if dataset in experiment["datasets"] and model in experiment["models"]:
            changes = {key: experiment[key] for key in ("sizes", "training") if key in experiment}
            chosen = merge(chosen, changes)
    if data["kind"] not in chosen["heads"]:
        fitting = [name for name, m in config["models"].items() if data["kind"] in m["heads"]]
        raise ConfigError(
            f"model '{model}' has no head for {data['kind']} data such as {dataset}; "
            f"models that do: {', '.join(fitting)}."
        )
    traits = traits_of(chosen["family"])
    reason = misfit(traits, chosen["training"], data["options"])
    if reason:
        raise ConfigError(f"model '{model}' on {dataset}: {reason}")
    source_sha256 = _source_digest(chosen["family"], f"models.{model}.family")
    return {
        "preset": config["preset"],
        "dataset": {"name": dataset, "kind": data["kind"], "options": data["options"]},
        # Without the heads for other kinds of data: changing those must not cause a new training.
        "model": {
            "name": model,
            **{key: value for key, value in chosen.items() if key not in ("title", "citation")},
            "heads": {data["kind"]: chosen["heads"][data["kind"]]},
            **({"source_sha256": source_sha256} if source_sha256 else {}),
        },
    }


def describe(config: dict, dataset: str) -> dict:
    """Return what decides a data set's prepared bytes, with the SHA-256 of its own files.

    Titles, licences and URLs are left out, so that correcting one does not cause data to be
    prepared, or models to be trained, again. See `with_content`.
    """
    whole = entry(config, "data set", dataset)
    described = {key: whole[key] for key in DECIDES_BYTES if key in whole}
    described["sources"] = [
        {key: source[key] for key in IDENTIFIES_SOURCE if key in source}
        for source in whole["sources"]
    ]
    if "licensed" in whole:
        described["licensed"] = {}
    if "local" in described:
        described["local"] = Path(described["local"]).as_posix()  # without a slash at its end
    return with_content(described, f"datasets.{dataset}")


def with_content(described: dict, where: str) -> dict:
    """Return a data set's entry with the SHA-256 of every file it names that a user can change.

    That is every file below `local`, hidden ones aside, and the file of a user's own reader.

    Raises:
        ConfigError: the reader's file does not exist.
        ReproError: a file may not be read.
    """
    found = {key: described[key] for key in described if key not in ("content", "reader_sha256")}
    if "local" in found:
        folder = Path(found["local"])
        files = {p.relative_to(folder).as_posix(): sha256(p) for p in visible_files(folder)}
        found["content"] = files
    reader = _source_digest(found["reader"], f"{where}.reader")
    return {**found, "reader_sha256": reader} if reader else found


def traits_of(family: str) -> Traits:
    """Return the traits that a family's file declares (`declared`)."""
    return declared(_family_source(family))


def _family_source(family: str) -> Path:
    """Return the file that a family is written in; installed modules are not searched for."""
    name = family.partition(":")[0]
    return Path(name) if ":" in family else Path(__file__).parent.parent / "models" / f"{name}.py"


def _source_digest(name: str, where: str) -> str:
    # A user's own code, in a file or an installed module, counts as part of what it makes. The
    # package's readers and families have a bare name and do not.
    module, _, _ = name.partition(":")
    path = Path(module)
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"{where}: {path} is not a file in the working directory.")
    elif "." in module:
        try:
            spec = importlib.util.find_spec(module)
        except ImportError:
            spec = None  # reported when it is loaded
        if spec is None or not spec.origin or not Path(spec.origin).is_file():
            return ""
        path = Path(spec.origin)
    else:
        return ""
    digests = [sha256(source) for source in sources_of(path)]
    if len(digests) == 1:
        return digests[0]
    # Not the modules' names: the same code in another folder makes the same thing.
    return hashlib.sha256("".join([digests[0], *sorted(digests[1:])]).encode()).hexdigest()


def entry(config: dict, what: str, name: str) -> dict:
    """Return the entry of a "data set" or "model".

    Raises:
        ConfigError: there is none of that name; names the nearest.
    """
    register = {"data set": "datasets", "model": "models"}[what]
    if name not in config[register]:
        raise ConfigError(unknown(what, name, config[register], f"{register}.yaml"))
    return config[register][name]


def require_cell(dataset: str, model: str) -> None:
    """Refuse names that are in no register.

    Raises:
        ConfigError: names the nearest.
    """
    known = registers()
    entry(known, "data set", dataset)
    entry(known, "model", model)


def as_text(recipe: dict) -> str:
    """Return a recipe as YAML, to be frozen next to the run it belongs to."""
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


def freeze(recipe: dict, path: Path) -> None:
    """Write a recipe to a file; the run reads nothing else."""
    write_text(path, as_text(recipe))


def thaw(path: Path, dataset: str, model: str) -> dict:
    """Return a frozen recipe.

    Raises:
        ConfigError: the file is missing, is not a recipe, or belongs to another cell.
    """
    recipe = read_yaml(path)
    try:
        found = recipe["dataset"]["name"], recipe["model"]["name"]
    except (KeyError, TypeError):
        raise ConfigError(f"{path} is not a recipe; make one with `repro configure`.") from None
    if found != (dataset, model):
        raise ConfigError(
            f"{path} is the recipe of {found[1]} on {found[0]}, not {model} on {dataset}."
        )
    recipe["model"].pop("title", None)  # recipes had one once; no training depends on it
    return recipe


def _renamed(config: dict) -> dict:
    # Old names of settings, which users' own presets may still use for one release.
    for old, new in RENAMED_SETTINGS.items():
        if old in config:
            warnings.warn(
                f"{old}: this setting is now called {new}; the old name goes in 0.3.",
                FutureWarning,
                stacklevel=3,
            )
            config = {new: config[old], **config}
            del config[old]
    return config


def _expanded(config: dict) -> dict:
    folders = {key: config[key] for key in ("mirror", "corpora") if config.get(key) is not None}
    return {
        **config,
        **{key: str(Path(folder).expanduser()) for key, folder in folders.items()},
        "datasets": {name: expanded(entry) for name, entry in config["datasets"].items()},
    }


def expanded(entry: dict) -> dict:
    """Return a data set's entry with the `~` of its own folder, if it has one, expanded."""
    if "local" not in entry:
        return entry
    return {**entry, "local": str(Path(entry["local"]).expanduser())}


def _validate_part(model: dict, schema: dict, where: str) -> None:
    part = {"$ref": "#/$defs/model", "$defs": schema["$defs"]}
    try:
        added = ("name", "source_sha256")
        stated = {key: value for key, value in model.items() if key not in added}
        validate({**stated, "title": "", "citation": ""}, part)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def unknown(what: str, name: str, known: Iterable[str], file: str = "") -> str:
    """Return the sentence about a name that does not exist, with the nearest that does."""
    return f"no {what} '{name}' in config/{file}; {hint(name, sorted(known))}"

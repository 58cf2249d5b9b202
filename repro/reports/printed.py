"""The papers' printed numbers: paper_tables/, one folder per table, checked as they are read."""

import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from repro.config.recipes import read_yaml
from repro.errors import ConfigError, hint

# How a number is known, and its mark: read in the paper, read as a quotation in another text, or
# written from memory and found in no text.
EVIDENCE = {"read": "", "quoted": " (quoted)", "recalled": " (recalled)"}
INCONSISTENT, OTHER_DATA = "printed cell inconsistent", "other data"
INFERRED = f"{OTHER_DATA} (inferred)"
# Verdicts that are known beforehand: our results cannot be compared with such a number.
KNOWN_VERDICTS = (INCONSISTENT, OTHER_DATA, INFERRED)
TEXT = ["paper", "arxiv", "table", "dataset", "model", "model_as_printed", "metric", "relation",
        "unit", "evidence", "source", "verdict", "verdict_note", "printed_on", "note",
        "rerun_source"]  # fmt: skip
COLUMNS = [*TEXT, "value", "samples", "rerun"]
NUMBER, COUNT = r"-?[0-9]+(\.[0-9]+)?", r"([1-9][0-9]*)?"  # samples may be absent
NAME_PATTERN = "[a-z0-9_-]+"  # as in config/schema.yaml
SETTINGS: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "preset": (str, dict),
    "our_recipe": dict,
    "models": list,
    "instead": dict,
    "without_results": dict,
    "open": dict,
    "printed_on": str,
}


def read_table(
    folder: Path, metrics: Collection[str], units: Collection[str]
) -> tuple[dict, pd.DataFrame]:
    """Return table.yaml and published.csv of a folder, rows in the order of the table's models.

    Args:
        metrics, units: the known ones.
    Raises:
        ConfigError: a file is missing or has something unknown in it; says in which line.
    """
    settings = _settings(folder / "table.yaml")
    path = folder / "published.csv"
    published = _rows(path)
    for line, row in enumerate(published.to_dict("records"), start=2):
        _check_row(f"{path}, line {line}", row, settings, metrics)
    if published["unit"].nunique() != 1 or published["unit"].iloc[0] not in units:
        raise ConfigError(f"{path}: all numbers need the same unit, one of {', '.join(units)}.")
    # Sorted by model as table.yaml lists them, then by data set as the file does.
    orders = {"model": settings["models"], "dataset": published["dataset"].unique().tolist()}
    return settings, published.sort_values(
        ["model", "dataset"], key=lambda names: names.map(orders[names.name].index), kind="stable"
    )


def preset_of(settings: dict, dataset: str) -> str:
    """Return the preset whose Results are compared with the print: one for all, or by data set.

    That of our recipe, if the table has no other.
    """
    preset = settings["preset"] if "preset" in settings else settings["our_recipe"]["preset"]
    return preset if isinstance(preset, str) else preset[dataset]


def _settings(path: Path) -> dict:
    settings = read_yaml(path)
    for key, value in settings.items():
        if key not in SETTINGS:
            raise ConfigError(f"{path}: {_unknown('setting', key, SETTINGS)}")
        if not isinstance(value, SETTINGS[key]):
            raise ConfigError(f"{path}: {key} cannot be {value!r}.")
    for key, value in settings.items():
        if not _names_only(key, value):
            raise ConfigError(f"{path}: {key} cannot hold {value!r}.")
    needed = {"title", "models"} | ({"preset"} if "our_recipe" not in settings else set())
    missing = needed - set(settings)
    if missing:
        raise ConfigError(f"{path} lacks the setting(s) {', '.join(sorted(missing))}.")
    if "our_recipe" in settings:
        _check_recipe(path, settings["our_recipe"], settings.get("preset", {}))
    return settings


def _names_only(key: str, value: Any) -> bool:
    # Whether a setting contains only text, and for each data set in `instead` a name and a note.
    if key == "instead":
        return all(
            isinstance(other, dict) and set(other) == {"dataset", "note"} and _names_only("", other)
            for other in value.values()
        )
    if isinstance(value, dict) and key != "our_recipe":
        return all(isinstance(text, str) for pair in value.items() for text in pair)
    return not isinstance(value, list) or all(isinstance(text, str) for text in value)


def _check_recipe(path: Path, ours: dict, preset: str | dict) -> None:
    kinds = {"preset": str, "marks": dict, "differs": str}
    if set(ours) != set(kinds) or not all(isinstance(ours[k], kinds[k]) and ours[k] for k in kinds):
        raise ConfigError(
            f"{path}: our_recipe needs preset, differs (what differs from the paper's recipe) and "
            "marks (training settings that only our recipe has, with their values)."
        )
    if ours["preset"] in ([preset] if isinstance(preset, str) else preset.values()):
        raise ConfigError(
            f"{path}: {ours['preset']} cannot be the preset of both recipes; each needs its own."
        )


def _rows(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ConfigError(
            f"{path} is missing: a table needs published.csv and table.yaml."
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not CSV: {' '.join(str(error).split())}") from None
    if sorted(table.columns) != sorted(COLUMNS):
        differing = sorted(set(table.columns) ^ set(COLUMNS))
        raise ConfigError(
            f"{path}: columns missing or unknown: {', '.join(differing) or 'one appears twice'}; "
            f"needed: {', '.join(COLUMNS)}."
        )
    if table.empty:
        raise ConfigError(f"{path} has no numbers.")
    return table


def _check_row(where: str, row: dict, settings: dict, metrics: Collection[str]) -> None:
    # Every word that decides something comes from a list; what needs a reason has one.
    for column, words in (
        ("evidence", EVIDENCE),
        ("metric", metrics),
        ("model", settings["models"]),
        ("verdict", ("", *KNOWN_VERDICTS)),
    ):
        if row[column] not in words:
            raise ConfigError(f"{where}: {_unknown(column, row[column], words)}")
    for column, pattern, what in (
        ("value", NUMBER, "a number"),
        ("samples", COUNT, "a number"),
        ("dataset", NAME_PATTERN, "a name"),
        ("printed_on", f"({NAME_PATTERN})?", "a name"),
        ("rerun", f"({NUMBER})?", "a number"),
    ):
        if not re.fullmatch(pattern, row[column]):
            raise ConfigError(f"{where}: {column} '{row[column]}' is not {what}.")
    if (row["evidence"] == "recalled") == bool(row["source"]):
        raise ConfigError(
            f"{where}: evidence is '{row['evidence']}' and source '{row['source']}'; a number that "
            "was read or quoted needs its source, a recalled one has none."
        )
    if bool(row["rerun"]) != bool(row["rerun_source"]):
        raise ConfigError(
            f"{where}: rerun is '{row['rerun']}' and rerun_source '{row['rerun_source']}'; a "
            "number by others needs its source, and a source its number."
        )
    other = row["verdict"] in (OTHER_DATA, INFERRED)
    if other != bool(row["verdict_note"]):
        raise ConfigError(
            f"{where}: verdict_note is for the verdict 'other data', and says which data."
        )
    if row["printed_on"] and not (row["verdict"] == OTHER_DATA and "printed_on" in settings):
        raise ConfigError(
            f"{where}: printed_on needs the verdict '{OTHER_DATA}', and a setting printed_on in "
            "table.yaml, the preset of the results on those data."
        )
    preset = settings.get("preset")
    if isinstance(preset, dict) and row["dataset"] not in preset:
        raise ConfigError(f"{where}: table.yaml has no preset for {row['dataset']}.")


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    return f"no {what} '{word}'; {hint(word, [name for name in known if name])}"

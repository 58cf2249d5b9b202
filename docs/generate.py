"""Write into the pages what other files decide: rendered tables, settings, presets, data sets.

Run it in the repository's root after any of those files changed: python docs/generate.py. A page
says what it shows between two comments, and everything between them is replaced:

    <!-- show: table paper_tables/starter/bach_chorales.md -->
    <!-- end of show -->
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from repro.config.recipes import cells, load, presets, read_yaml, registers
from repro.config.traits import SAMPLED
from repro.reports.tables import with_error
from repro.reports.verdicts import METRICS, compare_published, with_seed_error
from repro.results.comparison import estimator
from repro.results.leaderboard import leaderboard
from repro.results.record import Result, paired_difference, read_cell

SCHEMA = Path("config/schema.yaml")
NUMBERS = ("integer", "number")  # JSON types that may have limits
MARKED = re.compile(r"(<!-- show: (\w+) ?(\S*) -->\n).*?(<!-- end of show -->)", re.DOTALL)


def rows(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(header)
    lines = [names, ["---"] * len(names), *body]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def escaped(text: str) -> str:
    """Return what a cell of a Markdown table must say to show a text."""
    return text.replace("|", "\\|")


def table(path: str) -> str:
    """Return a rendered table and its caption, without its heading."""
    return Path(path).read_text(encoding="utf-8").partition("\n\n")[2].strip("\n")


def measured(folder: str) -> str:
    """Return the numbers of a published table that were run, by the paper's recipe."""
    _, compared = compare_published(Path(folder), Path("results"))
    return rows(
        ("Model", "Data set", "Number", "Published", "Ours", "Difference", "Seeds", "Verdict"),
        (
            (
                printed["model_as_printed"],
                f"`{printed['dataset']}`",
                METRICS[printed["metric"]].symbol,
                printed["value"],
                ours.value,
                ours.difference,
                ours.seeds,
                ours.verdict,
            )
            for printed, ours, *_ in compared
            if ours.value
        ),
    )


def ranks(task: str) -> str:
    """Return the ranking of all stored results on a data set, without its caption."""
    return leaderboard(task, stored=Path("results")).text("pipe")


def paired(pairs: str) -> str:
    """Return the differences of pairs of stored models, "preset/data set/model:other,…".

    Each model has its estimate closest to log p(x); differences are paired by test sequence.
    """
    lines = []
    for pair in pairs.split(","):
        cell_name, other = pair.split(":")
        preset, dataset, model = cell_name.split("/")
        found = [read_cell(Path("results"), preset, dataset, name) for name in (model, other)]
        one, two = found
        difference = with_error(*paired_difference(one, estimator(one), two, estimator(two)))
        shown = [text for cell in found for text in (cell[0].title, number(cell))]
        lines.append([f"`{dataset}`", *shown, difference])
    header = ("Data set", "Model", "Nats per step", "Other model", "Nats per step", "Difference")
    return rows(header, lines)


def number(cell: list[Result]) -> str:
    """Return a cell's estimate closest to log p(x), in nats per step, and how it was made."""
    metric, seeds = estimator(cell), f"{len(cell)} seed{'s' * (len(cell) > 1)}"
    how = "particle filter, " if metric == "fivo" else "IS, "
    how = how if cell[0].likelihood == SAMPLED else ""
    return f"{with_seed_error([r.per_step(metric) for r in cell])} ({how}{seeds})"


def settings(section: str) -> str:
    """Return the keys of a section of the schema: what values they take and what they mean.

    Args:
        section: its path below the root, such as `properties` or `$defs.training.properties`.
    """
    schema = read_yaml(SCHEMA)
    found, *outer = schema, schema
    for name in section.split("."):
        found, outer = found[name], found
    required = set(outer.get("required", []))
    return rows(
        ("Key", "Values", "Meaning"),
        (
            (
                f"`{name}`" + (", required" if name in required else ""),
                values(entry, schema),
                description(entry),
            )
            for name, entry in found.items()
        ),
    )


def all_sizes(_: str) -> str:
    """Return every size that a family of the package takes: which families, and what it means."""
    schema = read_yaml(SCHEMA)
    families: dict[str, list[str]] = {}
    entries: dict[str, dict] = {}
    for case in schema["$defs"]["model"]["allOf"]:
        section = case["then"]["properties"]["sizes"].get("$ref", "").rpartition("/")[2]
        named = case["if"]["properties"]["family"]
        for name, entry in schema["$defs"].get(section, {}).get("properties", {}).items():
            families.setdefault(name, []).extend(named.get("enum", [named.get("const")]))
            if not entries.get(name, {}).get("description"):
                entries[name] = entry
    return rows(
        ("Key", "Values", "Families", "Meaning"),
        (
            (f"`{name}`", values(entry, schema), ", ".join(families[name]), description(entry))
            for name, entry in sorted(entries.items())
        ),
    )


def description(entry: dict) -> str:
    """Return what an entry of the schema says of itself."""
    return " ".join(entry.get("description", "").split())


def values(entry: dict, schema: dict) -> str:
    """Return in words which values an entry of the schema takes."""
    while "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rpartition("/")[2]]
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(values(one, schema) for one in entry["anyOf"])
    kinds = entry["type"] if isinstance(entry["type"], list) else [entry["type"]]
    return " or ".join(kind_in_words(kind, entry, schema) for kind in kinds)


def kind_in_words(kind: str, entry: dict, schema: dict) -> str:
    """Return a JSON type with its limits in words."""
    if kind == "array":
        return f"list: {values(entry['items'], schema)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "null": "`null`"}
    words |= {"boolean": "`true`, `false`", "object": "settings"}
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {entry[name]}" for name, sign in limits.items() if name in entry]
    return " ".join([words[kind], ", ".join(found)]).strip() if kind in NUMBERS else words[kind]


def all_presets(_: str) -> str:
    """Return every preset of the repository: its seeds, its cells, what it is for."""
    loaded = {name: load(name) for name in presets() if name != "own"}
    return rows(
        ("Preset", "Cells", "Seeds", "What it is for"),
        (
            (f"`{name}`", str(len(cells(c))), str(len(c["seeds"])), description(c))
            for name, c in loaded.items()
        ),
    )


def all_datasets(_: str) -> str:
    """Return every data set: its kind, its sequences, where it comes from, what it is."""
    return rows(
        ("Data set", "Kind", "Sequences: train / valid / test", "From", "What"),
        (
            (f"`{name}`", entry["kind"], counts(entry), origin(entry), description(entry))
            for name, entry in registers()["datasets"].items()
        ),
    )


def counts(entry: dict) -> str:
    """Return the sizes of the three parts, where they are known before the data are read."""
    parts = ("train", "valid", "test")
    known = entry.get("expected", {}).get("sequences") or entry["options"].get("sequences")
    return " / ".join(str(known[part]) for part in parts) if known else "by its files"


def origin(entry: dict) -> str:
    """Return where a data set's bytes come from."""
    if "licensed" in entry:
        return "your licensed copy"
    if not entry["sources"]:
        return f"generated, seed {entry['options']['seed']}"
    package = entry["sources"][0].get("package", "").partition("==")[0]
    return f"the package {package}" if package else "download"


SHOWN = {
    "table": table,
    "measured": measured,
    "ranks": ranks,
    "paired": paired,
    "settings": settings,
    "sizes": all_sizes,
    "presets": all_presets,
    "datasets": all_datasets,
}


def filled(text: str) -> str:
    """Return a page with everything between its comments as it should be."""

    def replace(match: re.Match) -> str:
        begin, what, argument, end = match.groups()
        return f"{begin}\n{SHOWN[what](argument)}\n\n{end}"

    return MARKED.sub(replace, text)


def main() -> None:
    """Rewrite the pages that changed, and name them."""
    for page in sorted(Path("docs").rglob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(page, file=sys.stderr)


if __name__ == "__main__":
    main()

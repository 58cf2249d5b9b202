"""What README and docs/ show exists: tables, settings, commands, links, files and names."""

import functools
import re
import runpy
import shlex
import tomllib
from importlib import import_module

import documented
import pytest
import typer
from conftest import ROOT
from documented import DOCS, PAGES, PROGRAMS
from markdown_it import MarkdownIt
from snakemake.cli import get_argument_parser

import repro
from repro.cli import app
from repro.config import recipes as configuration
from repro.runtime.paths import config_folder

RENDERED = sorted((ROOT / "paper_tables").glob("*/*.md"))
COMMAND_LINE = typer.main.get_command(app)
load = functools.cache(configuration.load)
# Files that a reader makes, or a run does.
THEIRS = re.compile(r"^(runs/|config/own|own_|mine\.yaml|corpora/)")


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def tokens(text):
    """Every token of a page, those inside lines too."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or []


# Tables and settings


@pytest.mark.parametrize("path", RENDERED, ids=lambda p: "/".join(p.parts[-2:]))
def test_every_rendered_table_is_on_a_page(path):
    body = path.read_text().partition("\n\n")[2].strip("\n")
    assert len(body) > 200
    pages = [page for page in DOCS if body in page.read_text()]
    assert len(pages) == 1, "python docs/generate.py"


def test_generated_parts_are_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    filled = runpy.run_path(str(ROOT / "docs" / "generate.py"))["filled"]
    for page in DOCS:
        assert filled(page.read_text()) == page.read_text(), "python docs/generate.py"


def test_generated_parts_replace_what_was_there(monkeypatch):
    monkeypatch.chdir(ROOT)
    filled = runpy.run_path(str(ROOT / "docs" / "generate.py"))["filled"]
    table = "<!-- show: table paper_tables/starter/bach_chorales.md -->"
    page = f"# A page\n\n{table}\nold\n<!-- end of show -->\n\nand more\n"
    found = filled(page)
    assert found.startswith(f"# A page\n\n{table}\n\n| Model") and "old" not in found
    assert found.endswith("<!-- end of show -->\n\nand more\n") and filled(found) == found


MEASURED = re.compile(
    r"^\| [^|]+ \| `\w+` \| [^|]+ \| (\S+) \| (-?[\d.]+)[^|]* \| ([+-][\d.]+) \| \d+ \|",
    re.MULTILINE,
)


def test_differences_to_printed_numbers_are_what_the_rows_say():
    found = [row for page in DOCS for row in MEASURED.findall(page.read_text())]
    assert len(found) > 30
    for printed, ours, difference in found:
        assert abs(float(ours) - float(printed) - float(difference)) < 0.0016


def test_the_configuration_page_describes_every_setting():
    schema = configuration.read_yaml(ROOT / "config" / "schema.yaml")
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)`.*?\|.*\| (.*?) \|$", page, re.MULTILINE))
    sections = [schema, *schema["$defs"].values()]
    keys = {key for section in sections for key in section.get("properties", {})}
    assert keys - {"train", "valid", "test"} == set(rows) - set(configuration.presets())
    described = schema["$defs"]["training"]["properties"] | schema["$defs"]["model"]["properties"]
    for key, entry in described.items():
        assert " ".join(entry["description"].split()).replace("|", "\\|") in page, key


def test_the_front_page_is_short_and_has_the_line_that_the_checks_run():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"^python3 -m venv .*&& pytest$", text, re.MULTILINE)) == 1


# Commands


COMMANDS = sorted(
    {
        (part, command.whole)
        for page in PAGES
        for command in documented.commands(page.read_text())
        for part in command.parts
    }
)


def require(line, whole):
    """Raise AssertionError if a command cannot be run as it is written."""
    program, *arguments = shlex.split(line, comments=True)
    checked = {"repro": require_repro, "snakemake": require_snakemake, "pytest": require_pytest}
    checked |= {"pip": require_pip, "python": require_file, "conda": require_conda}
    checked |= {"sphinx-build": require_sphinx}
    if program in checked:
        checked[program](arguments, whole)
    else:
        assert program in ("pre-commit", "python3", "."), f"what is {program}?"


def require_repro(arguments, whole):
    if arguments[:1] == ["--runs"]:
        arguments = arguments[2:]
    if not arguments or arguments[0].startswith("-"):
        assert set(arguments) <= {"--help", "--version", "--install-completion"}
        return
    name, *rest = arguments
    assert name in COMMAND_LINE.commands, f"repro has no command {name}"
    command = COMMAND_LINE.commands[name]
    if not whole and not rest:  # the command's name alone, in a sentence
        return
    try:
        given = command.make_context(name, rest, resilient_parsing=False).params
    except Exception as error:  # of click, or of typer's own copy of it
        raise AssertionError(f"{arguments}: {error}") from error
    preset = given.get("preset") or "starter"
    require_preset(preset)
    config = load(preset)
    for key in ("dataset", "model"):
        assert given.get(key) is None or given[key] in config[f"{key}s"], given[key]


def require_preset(name):
    assert name in configuration.presets() or name == "own", f"no preset {name}"


def require_snakemake(arguments, whole):
    try:
        given = get_argument_parser().parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(arguments) from error
    settings = dict(item.split("=", 1) for item in given.config or [])
    schema = configuration.read_yaml(config_folder() / "schema.yaml")
    assert set(settings) <= set(schema["properties"])
    preset = settings.get("preset", "starter")
    require_preset(preset)
    for profile in given.profile or []:
        assert (ROOT / profile / "config.yaml").is_file(), profile
    snakefile = (ROOT / "Snakefile").read_text()
    for target in given.targets:
        found = re.fullmatch(r"runs/([\w-]+)/(\w+)/([\w-]+)/seed(\d+)\.json", target)
        if found:
            where, *cell, seed = found.groups()
            config = load(preset)
            assert where == preset and tuple(cell) in configuration.cells(config), target
            assert int(seed) in config["seeds"]
        else:
            assert f"rule {target}:" in snakefile or f'"{target}"' in snakefile, target


def require_pytest(arguments, whole):
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    known = {marker.partition(":")[0] for marker in markers["markers"]}
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert set(options) <= {"-m"} and set(options.values()) <= known, arguments


def require_pip(arguments, whole):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for argument in arguments:
        for extra in re.findall(r"^\.\[(.*)\]$", argument):
            assert extra in project["optional-dependencies"], extra


def require_file(arguments, whole):
    assert (ROOT / arguments[0]).is_file(), arguments


def require_sphinx(arguments, whole):
    assert (ROOT / arguments[0] / "conf.py").is_file(), arguments


def require_conda(arguments, whole):
    files = {path: configuration.read_yaml(path) for path in (ROOT / "envs").glob("*.yaml")}
    if arguments[0] == "activate":
        assert arguments[1] in {found["name"] for found in files.values()}, arguments
    else:
        assert arguments[:3] == ["env", "create", "-f"] and ROOT / arguments[3] in files, arguments


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("line", "whole"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_every_command_exists(line, whole):
    require(line, whole)


def test_commands_were_found():
    for program in PROGRAMS:
        assert any(line.startswith(f"{program} ") for line, _ in COMMANDS), program
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(
    "line",
    [
        "repro trian --model dmm",
        "repro train --model dmm --sed 0",
        "repro train --model dmm --dataset linear_gaussian --seed x",
        "repro train --dataset linear_gaussian --seed 0",
        "repro train --model dm --dataset linear_gaussian --seed 0",
        "repro tables --preset paper-musik",
        "repro bench --device tpu",
        "snakemake --cores 8 al",
        "snakemake --cores 8 all --config preset=paper-musik",
        "snakemake --cores 8 all --config prest=smoke",
        "snakemake --coress 8 all",
        "snakemake --profile profiles/slrum all",
        "snakemake --cores 1 runs/starter/bach_chorales/vrnn-gauss/seed0.json",
        "snakemake --cores 1 runs/starter/bach_chorales/dmm/seed7.json",
        "pytest -m trsut",
        "pip install -e '.[tests]'",
        "python docs/generator.py",
        "sphinx-build doc runs/site",
        "conda env create -f envs/cpus.yaml",
        "conda activate repro-tpu",
        "rerpo list",
    ],
)
def test_commands_that_do_not_exist_are_found(line):
    with pytest.raises(AssertionError):
        require(line, True)


# Whether they are run, by tests/documented.py


def test_every_command_that_is_not_run_says_why():
    for page in PAGES:
        for command in documented.commands(page.read_text()):
            assert command.reason is None or command.reason in documented.REASONS, command
            if command.is_run:
                never = [part for part in command.parts if part.startswith(documented.NEVER)]
                assert never == [], f"{page.name}: mark it with <!-- not run: … -->"


def test_every_mark_belongs_to_a_command():
    for page in PAGES:
        marks = documented.MARK.findall(page.read_text())
        found = list(documented.commands(page.read_text()))
        reasons = [command.reason for command in found if command.reason]
        assert set(marks) == set(reasons) and len(marks) <= len(reasons), page


def test_the_lines_that_the_checks_take_are_on_the_front_page():
    script = (ROOT / ".ci" / "run").read_text()
    found = [c.line for c in documented.commands((ROOT / "README.md").read_text())]
    for pattern in documented.RUN_BY_CI:
        assert pattern in script and any(re.fullmatch(pattern, line) for line in found), pattern


MARKED = """\
See `repro list`, `repro list models`, `repro trust --out x`<!-- not run: minutes -->, `repro plan`:

```
repro tables
```

<!-- not run: GPU -->
```
pytest -m gpu
repro bench && repro bench --quick
```

```
repro check
```

In hours:<!-- not run: hours -->
```
snakemake all
```

| a | b |
|---|---|
| `pip list` | `pip freeze`<!-- not run: network --> |

```python
repro
```
"""


def test_marks_belong_to_the_block_or_the_code_before_or_after_them():
    found = {c.line: (c.reason, c.is_run) for c in documented.commands(MARKED)}
    assert found == {
        "repro list": (None, False),  # a name
        "repro list models": (None, True),
        "repro trust --out x": ("minutes", False),
        "repro plan": (None, False),
        "repro tables": (None, True),
        "pytest -m gpu": ("GPU", False),
        "repro bench && repro bench --quick": ("GPU", False),
        "repro check": (None, True),
        "snakemake all": ("hours", False),
        "pip list": (None, True),
        "pip freeze": ("network", False),
    }


@pytest.mark.parametrize(
    ("line", "check"),
    [
        ("repro bench --quick", "repro bench --help"),
        ("repro --install-completion", "repro --help"),
        ("snakemake --cores 8 all", "snakemake --cores 8 all --dry-run"),
        (
            "snakemake all --config mirror=/path/to/x",
            "snakemake all --config mirror=brought/x --dry-run",
        ),
        ("snakemake --report a.html", "snakemake --help"),
        ("pip install -e '.[docs]'", "pip install --help"),
        ("pytest -m gpu", "pytest --help"),
        (". .venv/bin/activate", "python3 -m venv --help"),
    ],
)
def test_what_is_not_run_is_checked(line, check):
    assert documented.check_of(line) == check


def test_a_command_that_fails_is_reported(tmp_path):
    assert documented.failure_of("echo much; exit 3", tmp_path) == "echo much; exit 3\nmuch\n"
    assert documented.failure_of("true", tmp_path) == ""


# Links, files and names


def links(text):
    for token in tokens(text):
        for name in ("href", "src"):
            target = token.attrGet(name)
            if target and not target.startswith(("http://", "https://")):
                yield target


def slug(heading):
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(page, text):
    """Return the relative links of a page that lead nowhere."""
    broken = []
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            broken += [] if anchor in map(slug, headings) else [target]
    return broken


ALL_TEXTS = [*PAGES, ROOT / "CHANGELOG.md"]


@pytest.mark.parametrize("page", ALL_TEXTS, ids=names(ALL_TEXTS))
def test_every_relative_link_resolves(page):
    assert broken_links(page, page.read_text()) == []


def test_broken_links_are_found():
    page = ROOT / "docs" / "data.md"
    text = "[a](nowhere.md) [b](data.md#nothing) ![c](../x.svg) [d](data.md#stand-ins) [e](#data)"
    assert broken_links(page, text) == ["nowhere.md", "data.md#nothing", "../x.svg"]


def test_every_page_is_in_the_contents():
    for page in DOCS:
        index = page.parent / "index.md"
        if page == index:
            index, name = ROOT / "docs" / "index.md", f"{page.parent.name}/index"
        else:
            name = page.stem
        if page != index:
            assert re.search(rf"^{name}$", index.read_text(), re.MULTILINE), page


def missing_files(text):
    """Return the files of the repository that a text names and that do not exist."""
    found = re.findall(r"`((?:repro|config|tests|docs|profiles|envs|paper_tables)/[\w./-]*)", text)
    found += [name for name in re.findall(r"`([\w-]+\.(?:md|cff))`", text)]
    return [name for name in found if not (ROOT / name).exists() and not THEIRS.match(name)]


def missing_names(text):
    """Return the dotted names of the package that a text uses and that cannot be imported."""
    missing = []
    for name in re.findall(r"`(repro(?:\.\w+)+)`", text):
        module, _, attribute = name.rpartition(".")
        try:
            if not hasattr(import_module(module), attribute):
                import_module(name)
        except ImportError:
            missing.append(name)
    return missing


@pytest.mark.parametrize("page", ALL_TEXTS, ids=names(ALL_TEXTS))
def test_every_file_and_name_exists(page):
    text = page.read_text()
    if page.name == "CHANGELOG.md":  # which says what a module was called before
        text = text.replace("`repro.nn.heads`", "")
    assert missing_files(text) == [] and missing_names(text) == []


def test_missing_files_and_names_are_found():
    text = "`repro/together.py` `repro/api.py` `repro.bounds.elbo` `repro.inference.bounds` `X.md`"
    assert missing_files(text) == ["repro/together.py", "X.md"]
    assert missing_names(text) == ["repro.bounds.elbo"]


# Versions


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = configuration.read_yaml(ROOT / "CITATION.cff")
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)[1]
    assert project["version"] == citation["version"] == newest == repro.__version__
    section = changes.split(f"## {newest}\n")[1].partition("\n## ")[0]
    assert len(section.strip().splitlines()) <= 20

"""The notebooks of docs/notebooks run as they are, and say what their text says."""

import runpy

import matplotlib
import matplotlib.pyplot as plt
import pytest
from conftest import ROOT

from repro.tasks import mistakes

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.py"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a notebook where config/ and results/ are, and return its variables."""
    for name in ("config", "results"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    yield lambda name: runpy.run_path(str(ROOT / "docs" / "notebooks" / f"{name}.py"))
    plt.close("all")


@pytest.mark.oracle
def test_is_my_number_right(run, tmp_path):
    names = run("is_my_number_right")
    assert names["too_good"].per_step("is") > 0  # the truth is about −1.1
    assert mistakes.LOOK_AHEAD in {f.reason for f in names["found"].failed}
    assert {f.reason for f in names["found_again"].failed} == {mistakes.MISSING_LOG_SIGMA}
    assert names["passed"].failed == []
    table = names["standing"].table.set_index("model")
    assert table.nats_per_step["AR(10)"] == pytest.approx(-1.12, abs=0.03)
    assert table.verdict["exact"] == "worse" and table.verdict["marginal"] == "better"
    assert (tmp_path / "runs" / "standing.svg").stat().st_size > 1000
    ranked = names["board"].table.set_index("model")
    assert ranked.source["AR(10)"] == "ar10.json" and "passed" in ranked.audit["AR(10)"]


@pytest.mark.oracle
def test_which_bound(run):
    names = run("which_bound")
    assert names["audit"].failed == []
    missing = names["missing"]
    longest, shortest = names["LENGTHS"][-1], names["LENGTHS"][0]
    assert missing(longest, 100, "bound") > 10 * missing(shortest, 100, "bound")
    assert missing(longest, 100, "bound") > missing(longest, 100, "is") > 5
    assert abs(missing(longest, 300, "fivo")) < missing(longest, 300, "is") / 4
    assert names["sizes"][longest] < 5 < names["sizes"][shortest]
    assert len(names["figure"].axes) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_cells_that_begin_with_their_question(path):
    cells = path.read_text().split("# %%")
    assert cells[0] == "" and cells[1].startswith(" [markdown]\n# # ") and "?" in cells[1]
    prose = [cell for cell in cells[1:] if cell.startswith(" [markdown]")]
    for cell in prose:
        assert all(line.startswith("#") for line in cell.splitlines()[1:] if line), cell
    assert len(cells) > 8 and len(prose) > 4


def test_every_notebook_is_on_a_page():
    page = (ROOT / "docs" / "examples.md").read_text()
    assert NOTEBOOKS and all(f"(notebooks/{path.name})" in page for path in NOTEBOOKS)

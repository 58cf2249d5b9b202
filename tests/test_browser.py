"""The report in a real browser, on a desk and a phone, light and dark; skipped without Chromium."""

import functools
import json
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime

import pytest
from commands import run
from test_cli import cell, make_home

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: chromium)")

# Runs in the page when it is loaded, and writes what it found into the title.
LOOK = """
<script>
const seen = {errors: []};
window.addEventListener("error", event => seen.errors.push(String(event.message)), true);
window.addEventListener("load", () => {
  const table = document.querySelectorAll("table")[1], heads = table.querySelectorAll("th");
  const bottom = name => document.querySelector(name).getBoundingClientRect().bottom;
  const light = (what, name) => {
    const colours = getComputedStyle(document.querySelector(name))[what].match(/[0-9]+/g);
    return colours.slice(0, 3).reduce((sum, colour) => sum + Number(colour), 0) / 765;
  };
  seen.bottoms = ["nav", ".facts", ".overview"].map(bottom);
  seen.contrasts = ["body", ".caption", ".facts dt", "nav a"].map(
    name => light("color", name) - light("backgroundColor", "body"));
  seen.page = light("backgroundColor", "body");
  seen.boxes = [...document.querySelectorAll("table")].filter(t => !t.closest(".scroll")).length;
  const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
  seen.tables = document.querySelectorAll("table").length;
  seen.pictures = document.querySelectorAll("svg").length;
  seen.loaded = performance.getEntriesByType("resource").length;
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  heads[2].click();
  seen.rising = names();
  heads[2].click();
  seen.falling = names();
  document.title = JSON.stringify(seen);
});
</script></head>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("browser"))
    for model in ("dmm", "exact"):
        for step in ("train", "evaluate", "sample"):
            assert run(home, *cell(step, model=model)).returncode == 0
    for command in ("trust", "tables", "figures", "report"):
        arguments = [] if command == "trust" else ["--preset", "smoke"]
        done = run(home, command, *arguments)
        assert done.returncode == 0, done.stderr
    text = (home / "runs/smoke/report.html").read_text()
    path = home / "looked-at.html"
    path.write_text(text.replace("</head>", LOOK, 1))
    return path


@functools.cache
def look(page, width, dark):
    """What a browser shows of the page at a width; `dark` is the setting of the reader's system."""
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    # A window of Chromium is at least 500 pixels wide: narrower pages are shown in a frame.
    framed = page.with_name(f"frame{width}.html")
    inner = page.read_text().replace("document.title =", "parent.document.title =")
    page.with_name("inner.html").write_text(inner)
    frame = f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>'
    framed.write_text(f"<title></title><body>{frame}</body>")
    with tempfile.TemporaryDirectory() as profile:
        command += [f"--user-data-dir={profile}", "--window-size=1500,950"]
        command += ["--allow-file-access-from-files"]
        command += [f"--blink-settings=preferredColorScheme={int(not dark)}", framed.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout)
    return json.loads(title)


@pytest.mark.parametrize("width", [1400, 400])
def test_everything_shows_and_nothing_is_loaded_over_a_network(width, page):
    seen = look(page, width, dark=False)
    assert seen["errors"] == [] and seen["loaded"] == 0
    assert seen["tables"] >= 4 and seen["pictures"] == 8
    assert seen["overflow"] <= 0, "the page is wider than the screen"
    assert seen["boxes"] == 0, "a table that does not scroll by itself"
    # Sorted by the estimate: the exact model is best.
    assert seen["falling"][0] == "Kalman (exact)" and seen["rising"] == seen["falling"][::-1]


@pytest.mark.parametrize("width", [1400, 400])
def test_the_first_screen_has_contents_facts_and_overview(width, page):
    bottoms = look(page, width, dark=False)["bottoms"]
    assert bottoms == sorted(bottoms) and bottoms[-1] < 900


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(dark, page):
    seen = look(page, 1400, dark)
    assert (seen["page"] < 0.2) == dark
    assert all((contrast > 0) == dark and abs(contrast) > 0.4 for contrast in seen["contrasts"])


def test_what_was_not_run_is_said(page):
    assert "<dd>bach_chorales (dmm, rnn, vrnn): not run</dd>" in page.read_text()


def test_when_it_was_run_is_said(page):
    now = datetime.now(UTC)
    (first, last) = re.findall(r"<dt>Finished</dt><dd>(.*) to (.*) UTC</dd>", page.read_text())[0]
    assert first <= last <= f"{now:%Y-%m-%d %H:%M}"

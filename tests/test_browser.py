"""The report in a real browser, at the width of a desk and of a phone; skipped without Chromium."""

import json
import re
import shutil
import subprocess

import pytest
from test_cli import cell, make_home, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: chromium)")

# Runs in the page when it is loaded, and leaves what it saw in the title.
LOOK = """
<script>
const seen = {errors: []};
window.addEventListener("error", event => seen.errors.push(String(event.message)), true);
window.addEventListener("load", () => {
  const table = document.querySelector("table"), heads = table.querySelectorAll("th");
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


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_shows_and_nothing_is_loaded_from_elsewhere(width, page, tmp_path):
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path}", f"--window-size={width},900", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (title,) = re.findall(r"<title>(.*?)</title>", done.stdout)
    seen = json.loads(title)
    assert seen["errors"] == [] and seen["loaded"] == 0
    assert seen["tables"] >= 3 and seen["pictures"] == 7
    assert seen["overflow"] <= 0, "the page is wider than the screen"
    # Sorted by the estimate: the exact model is best.
    assert seen["falling"][0] == "Kalman (exact)" and seen["rising"] == seen["falling"][::-1]


def test_what_was_not_run_is_said(page):
    assert re.search(r"Left out: bach_chorales \(dmm, rnn, vrnn\): not run", page.read_text())

"""A headless Chromium that opens a page, does what a reader would do, and tells what came of it.

No driver is needed: a script in a copy of the page dispatches the events and leaves a JSON report in the document,
which `--dump-dom` prints. A page that asks for anything from elsewhere shows up in its `resources`.
"""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIME_LIMIT_S = 120  # a browser starts in a second; a machine that runs many tests is slow
LISTEN = "<script>const wrong = []; addEventListener('error', (event) => wrong.push(event.message));</script>"
REPORT = """
<script>
addEventListener("load", async () => {
  const report = {}, pause = () => new Promise((done) => setTimeout(done, 100));
  try { %s } catch (error) { wrong.push(String(error.stack)); }
  report.wrong = wrong;
  report.resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  const left = Object.assign(document.createElement("pre"), { id: "report", textContent: JSON.stringify(report) });
  document.body.append(left);
});
</script>
"""


def chromium() -> str:
    """The browser's path; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(
            f"needs a Chromium to open the page: none of {', '.join(NAMES)} is installed (apt install chromium)"
        )
    return found


def visit(page: Path, script: str, *, fragment: str = "", size: str = "1280,800", dark: bool = False) -> dict[str, Any]:
    """Open a copy of a page, run a script in it that fills `report`, and return that.

    The report also has `wrong`, the errors of all scripts, and `resources`, what was loaded beside the page.
    """
    text = page.read_text(encoding="utf-8")
    assert text.count("<head>") == text.count("</body>") == 1
    copy = page.with_name("visited.html")
    copy.write_text(
        text.replace("<head>", f"<head>{LISTEN}").replace("</body>", f"{REPORT % script}</body>"), encoding="utf-8"
    )
    done = _run(copy, fragment, "--dump-dom", f"--window-size={size}", *_scheme(dark))
    found = re.search(r'<pre id="report">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr
    report: dict[str, Any] = json.loads(html.unescape(found[1]))
    report["wrong"] += re.findall(r".*CONSOLE.*", done.stderr)
    return report


def screenshot(page: Path, to: Path, *, fragment: str = "", size: str = "1280,800", dark: bool = False) -> None:
    """Draw a page into a PNG file."""
    _run(page, fragment, f"--screenshot={to}", f"--window-size={size}", "--hide-scrollbars", *_scheme(dark))


def print_page(page: Path, to: Path) -> None:
    """Print a page into a PDF file."""
    _run(page, "", f"--print-to-pdf={to}", "--no-pdf-header-footer")


def _scheme(dark: bool) -> list[str]:
    return [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]


def _run(page: Path, fragment: str, *options: str) -> subprocess.CompletedProcess[str]:
    profile = page.parent / "profile"
    # The sandbox needs rights that containers lack, and root may not have one at all; the page is our own.
    always = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr",
              "--no-first-run", "--disable-extensions", "--disable-background-networking",
              "--virtual-time-budget=20000", f"--user-data-dir={profile}", "--force-device-scale-factor=1")  # fmt: skip
    return subprocess.run(
        [chromium(), *always, *options, f"{page.as_uri()}{fragment}"],
        capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True, env={**os.environ, "HOME": str(page.parent)},
    )  # fmt: skip

"""A page in a real browser, without a window: what it shows, what it complains of, and the sheets that it prints."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")


def opened(page: Path) -> tuple[str, list[str]]:
    """The document as it stands after loading, and the lines of its console: a refused request is one of them."""
    done = _chromium(page, "--dump-dom")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def sheets(page: Path) -> int:
    """The sheets of A4 that it prints."""
    printed = page.with_suffix(".pdf")
    _chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", printed.read_bytes()))


def _chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command += [profile, "--enable-logging=stderr", "--v=0", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)

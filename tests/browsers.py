"""A real browser, the distribution's chromium, for tests of pages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.system import needed

# A machine that is busy draws slowly; what is waited for is a condition.
_PATIENCE_MS = 60_000
WIDTHS = {"phone": 360, "desk": 1280}


@contextmanager
def browser() -> Iterator[Browser]:
    """One browser for the block; what it opens is closed with it."""
    with sync_playwright() as playwright:
        expect.set_options(timeout=_PATIENCE_MS)
        made = playwright.chromium.launch(executable_path=needed("chromium", "chromium"), args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def visit(made: Browser, link: str, **options: Any) -> Iterator[Page]:
    """A page of a browser of its own, opened by a console's link, on its first page.

    Args:
        options: of the browser's context, such as `java_script_enabled`.
    """
    with made.new_context(**options) as context:
        context.set_default_timeout(_PATIENCE_MS)
        page = context.new_page()
        page.goto(link, wait_until="domcontentloaded")
        page.wait_for_url(link.partition("/enter")[0] + "/", wait_until="load")
        yield page

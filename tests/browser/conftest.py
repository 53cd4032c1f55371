"""Pages in a real browser: Debian's Chromium, driven by Playwright. Without one of them the tests skip."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
"""Options of Chromium that keep it off the network, and let it start as root."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a window; closed after the last test of this folder, for it occupies the event loop."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -c constraints.txt '.[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page of the browser, with all that it asked for and complained about.

    Attributes:
        page: The page of Playwright.
        requests: Addresses that were asked for.
        problems: Errors of scripts, and lines of the console that are warnings or errors.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def show(self, address: str | Path) -> Page:
        """Load a file, or an address, and return the page."""
        self.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address)
        return self.page


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens an empty page, with options of Playwright's `new_context`; no page may have had a problem at the end."""
    opened: list[Watched] = []

    def watched(**options: Any) -> Watched:
        page = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}).new_page()
        page.set_default_timeout(10_000)
        one = Watched(page)
        page.on("request", lambda request: one.requests.append(request.url))
        page.on("pageerror", lambda error: one.problems.append(str(error)))
        page.on("dialog", lambda dialog: (one.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "console",
            lambda line: one.problems.append(line.text) if line.type in ("error", "warning") else None,
        )
        opened.append(one)
        return one

    yield watched
    for one in opened:
        one.page.context.close()
    assert [one.problems for one in opened] == [[] for _ in opened]

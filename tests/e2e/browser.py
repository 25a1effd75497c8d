"""A real browser for a test, and what it asked the network for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

__all__ = ["Visit", "needs_chromium", "visiting"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


class Visit:
    """One tab: `page`, the addresses that it asked for, and what it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", self._told)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _told(self, message: ConsoleMessage) -> None:
        if message.type == "error":  # of which a breach of the page's policy is one
            self.complaints.append(message.text)

    @property
    def hosts(self) -> set[str]:
        """Whom the page asked, whether it was answered or not."""
        remote = [url for url in self.asked if not url.startswith(("data:", "blob:"))]
        return {urlsplit(url).netloc for url in remote}


@contextmanager
def visiting() -> Iterator[Visit]:
    """A tab of an own browser, with nothing remembered."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(90_000)
        yield Visit(page)
        browser.close()

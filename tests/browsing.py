"""Opens the report as a person does, in a browser: from disk, without a network.

These fixtures are loaded with every test, so what they need is imported where they are used.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

REQUIRED = "TRAK_REQUIRE_BROWSER"
# Without a sandbox, since tests may be run as root, and without what a browser says to the network.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


class Opens:
    """Opens pages from disk, without a network.

    Attributes:
        said: what they complained of, or asked the network for; it fails the test if anything is left.
    """

    def __init__(self, browser: "Browser") -> None:
        self.said: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def __call__(
        self, file: Path, address: str = "#/", *, scheme: str = "light", width: int = 1300
    ) -> "Page":
        context = self._browser.new_context(
            viewport={"width": width, "height": 850},
            color_scheme=scheme,  # type: ignore[arg-type]
            offline=True,
            accept_downloads=True,
        )
        self._contexts.append(context)
        opened = context.new_page()
        opened.on("console", lambda message: self.said.append(message.text))
        opened.on("pageerror", lambda error: self.said.append(str(error)))
        opened.on("request", lambda request: self._asked(request.url))
        opened.goto(f"file://{file}{address}")
        opened.wait_for_function("window.page !== undefined")
        return opened

    def _asked(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.said.append(url)

    def close(self) -> None:
        """Close all."""
        for context in self._contexts:
            context.close()


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium, if it is installed."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        why = "there is no Chromium (Debian: apt-get install chromium)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and {why}")
        pytest.skip(why)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def made_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 60 targets and 300 rows, hostile ones among them."""
    from pages import HOSTILE, made, page

    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(made(60, 300, texts=HOSTILE)), encoding="utf-8")
    return file


@pytest.fixture
def opens(browser: "Browser") -> Iterator[Opens]:
    """Whatever a page complains of fails the test."""
    made = Opens(browser)
    yield made
    made.close()
    assert not made.said

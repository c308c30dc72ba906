"""A browser for the tests of the report, where there is one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import Opens
from pages import HOSTILE, made, page
from playwright.sync_api import Browser, sync_playwright

REQUIRED = "TRAK_REQUIRE_BROWSER"
# Without a sandbox, since tests may be run as root, and without what a browser says to the network.
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, if it is installed."""
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
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(page(made(60, 300, texts=HOSTILE)), encoding="utf-8")
    return file


@pytest.fixture
def opens(browser: Browser) -> Iterator[Opens]:
    """Whatever a page complains of fails the test."""
    made = Opens(browser)
    yield made
    made.close()
    assert not made.said

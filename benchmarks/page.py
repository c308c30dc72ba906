"""The report: how large a page is, how soon it is seen, and how quick its lists are; and its picture.

    python -m benchmarks.page measure                              # results/page.json, docs/report.md
    python -m benchmarks.page picture results/demo/report.html     # docs/figures/report.png

A page of 1,000 targets × 20 + 20 rows of 100,000 made-up train rows, in Chromium, without a network.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from playwright.sync_api import Page, sync_playwright

sys.path.append("tests")

RESULTS, DOC = Path("benchmarks/results/page.json"), Path("docs/report.md")
PICTURE = Path("docs/figures/report.png")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
TARGETS, ROWS, WORDS = 1000, 100_000, 25
# What is searched for: in every text, in some, in one, in none.
SEARCHES = {"targets": ("market", "asked 7", "asked 777", "zzz"), "rows": ("market", "says 7", "zzz")}
TIMES = 5

app = typer.Typer(add_completion=False)


@contextmanager
def _browser(**context: Any) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(ARGUMENTS))
        yield browser.new_context(offline=True, **context).new_page()
        browser.close()


@app.command()
def measure() -> None:
    """Make a large page, and measure it."""
    from pages import made, page

    given = made(TARGETS, ROWS, length=WORDS)
    begun = time.perf_counter()
    text = page(given)
    found: dict[str, Any] = {"made_seconds": time.perf_counter() - begun}
    file = Path("results/.page.html").absolute()
    file.write_text(text, encoding="utf-8")
    found["megabytes"] = file.stat().st_size / 1e6
    try:
        with _browser() as opened:
            found |= _measured(opened, file)
    finally:
        file.unlink()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    DOC.write_text(with_table(DOC.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    print(table(found))


def _measured(page: Page, file: Path) -> dict[str, Any]:
    page.goto(f"file://{file}#/")
    page.wait_for_function("window.page !== undefined")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    ready = page.evaluate("performance.now()")
    found: dict[str, Any] = {
        "rows_shown": page.evaluate("page.run.rows.row.length"),
        "first_paint_ms": paint,
        "ready_ms": ready,
    }
    for view, searches in SEARCHES.items():
        found[f"{view}_list_ms"] = page.evaluate(
            "of => { const t = performance.now(); page.view(of); return performance.now() - t; }", view
        )
        times = [_search(page, view, text) for text in searches * TIMES]
        found[f"{view}_search_ms"] = max(times)
    times = [_choose(page, place) for place in range(20)]
    found["target_ms"] = max(times)
    return found


def _search(page: Page, view: str, text: str) -> float:
    """Milliseconds until what was typed is searched for and drawn."""
    took: float = page.evaluate(
        """([view, text]) => new Promise((done) => {
            location.hash = `#/${view}`;
            const table = page.views[view].table;
            const field = table.table().container().querySelector("input[type=search]");
            const start = performance.now();
            table.one("draw", () => {
                document.body.getBoundingClientRect();
                done(performance.now() - start);
            });
            field.value = text;
            field.dispatchEvent(new Event("input", { bubbles: true }));
        })""",
        [view, text],
    )
    return took


def _choose(page: Page, place: int) -> float:
    """Milliseconds until a target is shown with what made its answer."""
    took: float = page.evaluate(
        """(place) => {
            const start = performance.now();
            history.replaceState(null, "", `#/targets/validation/${place}`);
            page.show(false);
            document.body.getBoundingClientRect();
            return performance.now() - start;
        }""",
        place,
    )
    return took


def table(found: dict[str, Any]) -> str:
    """What was measured, for the page of the docs."""
    rows = [
        ("size of the page", "15 MB", f"{found['megabytes']:.1f} MB"),
        ("first paint", "2 s", f"{found['first_paint_ms'] / 1000:.2f} s"),
        ("everything unpacked", "", f"{found['ready_ms'] / 1000:.2f} s"),
        ("a search of 1,000 targets, the slowest", "100 ms", f"{found['targets_search_ms']:.0f} ms"),
        (
            f"a search of {found['rows_shown']:,} train rows that are named, the slowest",
            "100 ms",
            f"{found['rows_search_ms']:.0f} ms",
        ),
        ("a target with its lists, the slowest of 20", "", f"{found['target_ms']:.0f} ms"),
        ("making it, by the step", "", f"{found['made_seconds']:.1f} s"),
    ]
    head = ["| what | at most | measured |", "| --- | --- | --- |"]
    return "\n".join([*head, *(f"| {what} | {most} | {of} |" for what, most, of in rows)])


def with_table(text: str, made: str) -> str:
    """A page with its table made anew, between its markers."""
    pattern = r"(<!-- page -->\n).*?(\n<!-- end -->)"
    return re.sub(pattern, lambda found: f"{found[1]}{made}{found[2]}", text, flags=re.DOTALL)


@app.command()
def picture(
    report: Path,
    address: Annotated[str, typer.Option(help="What is shown.")] = "#/targets/validation/0",
) -> None:
    """Take the README's picture of a page."""
    with _browser(viewport={"width": 1280, "height": 640}, device_scale_factor=1) as opened:
        opened.goto(f"file://{report.absolute()}{address}")
        opened.wait_for_function("window.page !== undefined")
        opened.screenshot(path=PICTURE)
    print(f"wrote {PICTURE}: {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    app()

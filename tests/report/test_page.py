"""The report in a real browser: from disk, without a network, with hostile texts among its rows."""

import csv
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import Opens
from pages import HOSTILE
from playwright.sync_api import Page, expect

VIEWS = ("#/", "#/targets", "#/targets/validation/3", "#/rows", "#/rows/50", "#/run")

REFUSED = """async () => {
    const refused = [];
    document.addEventListener("securitypolicyviolation", (of) => refused.push(of.effectiveDirective));
    const image = "<img id=x src=https://example.org/x.png onerror=1>";
    document.body.insertAdjacentHTML("beforeend", image);
    const script = document.createElement("script");
    script.textContent = "document.title = 'broken'";
    document.body.append(script);
    await fetch("https://example.org").catch(() => undefined);
    await new Promise((done) => setTimeout(done, 200));
    document.getElementById("x").remove();
    return refused;
}"""


def rows_of(page: Page, table: str) -> list[str]:
    """The texts of a table's rows that are shown."""
    return page.locator(f"#{table} tbody tr").all_inner_texts()


def info(page: Page, table: str) -> str:
    """How many rows a table says that it has."""
    return page.locator(f"#{table}_info").inner_text()


@pytest.mark.parametrize("address", VIEWS)
def test_it_opens_from_disk_and_asks_for_nothing(opens: Opens, made_page: Path, address: str) -> None:
    page = opens(made_page, address)
    expect(page.locator("main > section:visible")).to_have_count(1)
    expect(page.locator("header nav a[aria-current]")).to_have_count(1)
    expect(page.locator("#failed")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_axe_finds_nothing(opens: Opens, made_page: Path, scheme: str, width: int) -> None:
    for address in VIEWS:
        page = opens(made_page, address, scheme=scheme, width=width)
        found = Axe().run(page)
        assert found.violations_count == 0, f"{address}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address


def test_hostile_texts_are_shown_and_do_nothing(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/targets")
    title = page.title()
    shown = page.locator("#target-table").inner_text()
    for text in HOSTILE[:5]:
        assert text in shown
    for place in range(len(HOSTILE)):
        page.goto(f"file://{made_page}#/targets/validation/{place}")
        expect(page.locator("#target .subject")).to_contain_text(HOSTILE[place].replace("\x07", "")[:10])
        page.goto(f"file://{made_page}#/rows/{10 * (place + 1)}")
        expect(page.locator("#row .subject")).to_contain_text(HOSTILE[place][:10])
    # A search decodes what it looks through.
    page.locator("#row-filters").wait_for()
    page.keyboard.press("/")
    page.keyboard.type("onerror")
    expect(page.locator("#row-table_info")).to_contain_text("1 train rows of 300")
    assert page.title() == title
    assert page.locator("main img:not([src^='data:'])").count() == 0
    assert page.locator("main svg:not(.bar)").count() == 0


def test_the_policy_refuses_what_is_not_of_the_page(opens: Opens, made_page: Path) -> None:
    page = opens(made_page)
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    refused = page.evaluate(REFUSED)
    assert {"img-src", "script-src-elem", "script-src-attr", "connect-src"} <= set(refused)
    assert page.title() != "broken"
    assert opens.said
    opens.said.clear()


def test_targets_are_searched_filtered_and_sorted(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/targets")
    assert info(page, "target-table") == "60 targets"
    page.get_by_label("Search targets").fill("asked 41")
    expect(page.locator("#target-table_info")).to_have_text("1 targets of 60")
    assert "asked 41" in rows_of(page, "target-table")[0]
    page.get_by_label("Search targets").fill("")
    page.locator("#target-filters").get_by_label("Show").select_option("wrong")
    wrong = rows_of(page, "target-table")
    assert wrong
    assert all(row.split("\t")[-1].startswith("−") for row in wrong)
    page.locator("#target-filters").get_by_label("Margin from").fill("-1")
    narrower = rows_of(page, "target-table")
    assert 0 < len(narrower) < len(wrong)
    # The address names it all, and opens as it was.
    assert re.search(r"show=wrong.*from=-1", page.url)
    again = opens(made_page, page.url.partition(made_page.name)[2])
    assert rows_of(again, "target-table") == narrower
    for direction in ("ascending", "descending"):
        page.locator("#target-table th").filter(has_text="Margin").click()
        expect(page.locator("#target-table th[aria-sort]")).to_have_attribute("aria-sort", direction)
    assert rows_of(page, "target-table") == narrower[::-1]


def test_a_target_shows_its_proponents_and_opponents(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/targets/validation/7")
    expect(page.locator("#target h3")).to_contain_text("Target 7")
    for side, sign in (("proponent", "+"), ("opponent", "−")):
        listed = page.locator(f"#target .influences.{side} li")
        assert listed.count() > 0
        assert all(text.startswith(sign) for text in listed.locator(".score").all_inner_texts())
    # The same row's influence elsewhere is one click away, and a target from there.
    page.locator("#target .influences a").first.click()
    expect(page.locator("#row h3")).to_contain_text("Train row")
    expect(page.locator("#row")).to_contain_text("Targets that it speaks for")
    page.locator("#row .influences a[href*='#/targets/validation/7']").first.click()
    expect(page.locator("#target h3")).to_contain_text("Target 7")


def test_an_address_that_the_page_does_not_have_is_said(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/targets/validation/999")
    expect(page.locator("#target")).to_contain_text("no target validation/999")
    page.goto(f"file://{made_page}#/rows/7")
    expect(page.locator("#row")).to_contain_text("no train row 7")
    page.goto(f"file://{made_page}#/rows/%E0%A4%A")
    expect(page.locator("#row")).to_contain_text("no train row %E0%A4%A")
    page.goto(f"file://{made_page}#/nowhere")
    expect(page.locator("#overview")).to_be_visible()


def test_decisions_are_made_by_keyboard_kept_and_exported(
    opens: Opens, made_page: Path, tmp_path: Path
) -> None:
    page = opens(made_page, "#/rows?show=suspects")
    assert info(page, "row-table") == "30 train rows of 300"
    assert [row.split("\t")[-2] for row in rows_of(page, "row-table")[:3]] == ["1", "2", "3"]
    page.keyboard.press("n")
    first = page.locator("#row h3").inner_text().removeprefix("Train row ")
    # Keys that follow each other at once are for what each shows.
    for key in "lnr":
        page.keyboard.press(key)
    second = page.locator("#row h3").inner_text().removeprefix("Train row ")
    assert first != second
    page.keyboard.press("p")
    assert page.locator("#row h3").inner_text() == f"Train row {first}"
    page.reload()
    page.wait_for_function("window.page !== undefined")
    expect(page.locator("#decided")).to_have_text("2 decided")
    expect(page.locator("#row button[aria-pressed=true]")).to_contain_text("relabel")
    page.locator("#row-filters").get_by_label("Show").select_option("undecided")
    assert info(page, "row-table") == "28 train rows of 300"
    with page.expect_download() as downloading:
        page.locator("#export").click()
    downloading.value.save_as(tmp_path / "decisions.csv")
    assert downloading.value.suggested_filename.endswith("-decisions.csv")
    with (tmp_path / "decisions.csv").open(newline="", encoding="utf-8") as file:
        decided = list(csv.DictReader(file))
    assert [(row["row"], row["decision"], row["suspect"]) for row in decided] == [
        (first, "relabel", "1"),
        (second, "remove", "2"),
    ]
    # The same key once more takes it back.
    page.keyboard.press("l")
    expect(page.locator("#decided")).to_have_text("1 decided")


def test_two_tabs_keep_each_others_decisions(opens: Opens, made_page: Path) -> None:
    first = opens(made_page, "#/rows/10")
    second = first.context.new_page()
    second.goto(f"file://{made_page}#/rows/20")
    second.wait_for_function("window.page !== undefined")
    first.keyboard.press("k")
    second.keyboard.press("r")
    first.reload()
    first.wait_for_function("window.page !== undefined")
    expect(first.locator("#decided")).to_have_text("2 decided")
    # A decision leaves the focus where it is.
    button = first.locator("#row button", has_text="unsure")
    button.focus()
    first.keyboard.press("Enter")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-pressed", "true")


def test_a_spreadsheet_is_handed_no_formula(opens: Opens, tmp_path: Path) -> None:
    from pages import made, page

    file = tmp_path / "report.html"
    file.write_text(page(made(5, 40), labels=('=HYPERLINK("x")', "+b")), encoding="utf-8")
    opened = opens(file, "#/rows/10")
    opened.keyboard.press("k")
    with opened.expect_download() as downloading:
        opened.locator("#export").click()
    downloading.value.save_as(tmp_path / "decisions.csv")
    with (tmp_path / "decisions.csv").open(newline="", encoding="utf-8") as lines:
        (row,) = csv.DictReader(lines)
    assert row["label"] in ('\'=HYPERLINK("x")', "'+b")


def test_an_order_is_kept_and_named_by_the_address(opens: Opens, made_page: Path) -> None:
    opened = opens(made_page, "#/rows")
    opened.locator("#row-table th").filter(has_text="Influence").click()
    expect(opened.locator("#row-table th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    opened.locator("#row-filters").get_by_label("Label").select_option("entailment")
    expect(opened.locator("#row-table th[aria-sort]")).to_have_attribute("aria-sort", "ascending")
    shown = rows_of(opened, "row-table")
    again = opens(made_page, opened.url.partition(made_page.name)[2])
    assert rows_of(again, "row-table") == shown


def test_keys_are_left_to_who_writes(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/rows/50")
    page.keyboard.press("/")
    page.keyboard.type("kurl")
    expect(page.get_by_label("Search train rows")).to_have_value("kurl")
    expect(page.locator("#decided")).to_have_text("0 decided")


def test_the_same_text_stands_once_in_a_list(opens: Opens, tmp_path: Path) -> None:
    from pages import made, page

    found = made(5, 40)
    same = found.rows
    for column in same.texts:
        column[:] = [column[0]] * len(column)
    same.label[:] = 0
    file = tmp_path / "report.html"
    file.write_text(page(found), encoding="utf-8")
    opened = opens(file, "#/targets/validation/0")
    items = opened.locator("#target .influences.proponent li")
    assert items.count() == 1
    expect(items).to_contain_text("and 19 more rows with this text")


def test_words_that_are_shared_are_marked(opens: Opens, tmp_path: Path) -> None:
    from pages import made, page

    found = made(5, 400)
    found.sets[0].texts[0][0] = "Who founded Monburg in the market?"
    listed = int(found.rows.places(found.sets[0].lists["proponent"]["row"][0, 0]))
    found.rows.texts[1][listed] = "MONBURG has a market."
    file = tmp_path / "report.html"
    file.write_text(page(found), encoding="utf-8")
    opened = opens(file, "#/targets/validation/0")
    # A market has every text.
    first = opened.locator("#target .influences.proponent li").first
    assert first.locator("mark").all_inner_texts() == ["MONBURG"]


def test_it_prints(opens: Opens, made_page: Path) -> None:
    page = opens(made_page, "#/targets/validation/3", scheme="dark")
    page.emulate_media(media="print")
    expect(page.locator("#target .influences").first).to_be_visible()
    expect(page.locator("header.top")).to_be_hidden()
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"

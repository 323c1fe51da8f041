"""The site in a real browser, from disk: no error, sorts, filters, keys, a phone's width. Skipped where none is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.show.site import write_site
from tests.make import NEGATIVE, make_board

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed (Debian: apt-get install chromium)")

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_site(make_board(tmp_path_factory.mktemp("board")), folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser of its own: a new profile in each launch."""
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*ARGUMENTS, "--disable-component-update", "--disable-sync"]
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page on a desk; fails where the console said anything, or a file did not load."""
    context, complaints = browser.new_context(viewport=DESK), []
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    yield opened
    context.close()
    assert not complaints


def column(page: Any, place: int) -> list[str]:
    """One column of the rows that can be seen."""
    return [
        row.locator("th,td").nth(place).inner_text().strip() for row in page.locator(".board tbody tr:visible").all()
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_loads_from_disk_at_both_widths(page: Any, site: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    backgrounds = set()
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        for size in (DESK, PHONE):
            page.set_viewport_size(size)
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path.name
        page.evaluate("for (const picture of document.images) picture.loading = 'eager'")
        page.wait_for_function("[...document.images].every((picture) => picture.complete)")
        assert page.evaluate("[...document.images].every((picture) => picture.naturalWidth > 0)"), path.name
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(16, 20, 24)"}


def test_a_click_on_a_columns_name_sorts_and_another_turns_it_round(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    assert column(page, 0) == [str(number) for number in range(9, 0, -1)]
    for name, place in (("val loss", 3), ("gain", 5), ("p", 7), ("stmts", 11)):
        head = page.get_by_role("columnheader", name=name, exact=True)
        for direction in ("ascending", "descending"):
            head.get_by_role("button").click()
            assert head.get_attribute("aria-sort") == direction
            cells = column(page, place)
            values = [float(cell) for cell in cells if cell]
            assert values == sorted(values, reverse=direction == "descending")
            assert cells == [cell for cell in cells if cell] + [""] * cells.count("")
        assert page.locator("[aria-sort]").count() == 1


def test_the_filter_finds_words_numbers_and_results_and_is_part_of_the_address(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    find = page.get_by_role("searchbox")
    for words, found in (("QK_", ["3"]), ("#2", ["2"]), ("idea record", ["8"]), ("pocket 2026-11", ["3", "2", "1"])):
        find.fill(words)
        assert column(page, 0) == found, words
        assert page.get_by_role("status").inner_text() == f"{len(found)} of 9"
    find.fill("")
    page.get_by_label("negative").uncheck()
    assert column(page, 0) == ["8", "2", "1"]
    find.fill("idea")
    sent = page.evaluate("location.href")
    assert "q=idea" in sent
    page.goto("about:blank")
    page.goto(sent)
    assert column(page, 0) == ["8"]
    assert not page.get_by_label("negative").is_checked()
    find.fill("no such thing")
    assert column(page, 0) == []
    page.get_by_role("button", name="Show all").click()
    assert len(column(page, 0)) == 9


def test_everything_is_within_reach_of_the_keyboard(page: Any, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("/qk")
    assert page.get_by_role("searchbox").input_value() == "/qk"
    page.get_by_role("searchbox").fill("qk")
    page.get_by_role("columnheader", name="val loss").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert page.locator("[aria-sort=ascending]").count() == 1
    page.get_by_role("link", name="+qk_norm").first.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(re.escape(NEGATIVE.name)))
    assert page.get_by_role("heading", level=1).inner_text() == "3 +qk_norm"


def test_without_script_the_boards_are_whole(browser: Any, site: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert page.locator(".board tbody tr:visible").count() == 9
    assert page.get_by_role("searchbox").count() == 0
    context.close()

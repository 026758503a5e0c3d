"""The page in headless Chromium, where one is installed: sorting, filters, plots, keyboard, narrow, dark, printed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.tree_of_exports import make_tree
from yolo26_executorch.report import page as report
from yolo26_executorch.report import tree

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)"),
    pytest.mark.slow,
]

COLUMNS = ["name", "task", "outcome", "size_mb", "latency_ms", "parity", "accuracy", "backend", "precision", "device"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_tree(tmp_path_factory.mktemp("browser") / "exports")
    path = base / "report.html"
    path.write_text(report.render(base, tree.read(base)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # A container's root has no sandbox.
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, file: Path) -> Iterator[Any]:
    """Open the page; afterwards there must have been no error and no request but for the page."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(120_000)  # five MB of script, on machines that are busy
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("window.hacked") is None
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def names(page: Any) -> list[str]:
    found: list[str] = page.locator(".variants tbody tr:visible th a").all_inner_texts()
    return found


def head(page: Any, key: str) -> Any:
    return page.locator(f'.variants thead th[data-key="{key}"]')


def test_sorting_by_every_column(page: Any) -> None:
    unsorted = names(page)
    for key in COLUMNS:
        column = COLUMNS.index(key)
        cells = f"rows => rows.map(row => row.cells[{column}].dataset.value)"
        for direction in ("ascending", "descending"):
            head(page, key).locator("button").click()
            assert head(page, key).get_attribute("aria-sort") == direction
            assert page.locator('th[aria-sort="none"]').count() == len(COLUMNS) - 1
            values = page.locator(".variants tbody tr").evaluate_all(cells)
            known = [value for value in values if value]
            assert values[len(known) :] == [""] * (len(values) - len(known)), key  # what is not known comes last
            number = key == "name" or head(page, key).get_attribute("data-kind") == "number"
            expected = sorted(known, key=float if number else str, reverse=direction == "descending")
            assert known == expected, key
    head(page, "latency_ms").locator("button").click()
    assert names(page)[:2] == ["yolo26n-pose", "yolo26n"]
    head(page, "name").locator("button").click()
    assert names(page) == unsorted
    assert page.locator("#status").inner_text() == "Sorted by Variant, ascending"


def test_filtering_by_task_and_size(page: Any) -> None:
    def toggle(name: str, value: str) -> None:
        page.locator(f'[data-filter="{name}"] label', has=page.locator(f'input[value="{value}"]')).click()

    for task in ("segment", "pose", "obb", "classify"):
        toggle("task", task)
    assert names(page) == ["yolo26n", "yolo26s", "yolo26m"]
    assert page.locator("#status").inner_text() == "3 of 8 shown"
    toggle("size", "s")
    assert names(page) == ["yolo26n", "yolo26m"]
    assert page.locator("article:visible h3").count() == 2
    assert plotted(page, "size") == ["n", "m"]
    toggle("task", "detect")
    assert names(page) == []
    assert page.locator(".none").is_visible()
    page.get_by_role("button", name="Show all").click()
    sync_api.expect(page.locator(".variants tbody tr:visible")).to_have_count(8, timeout=60_000)
    assert plotted(page, "accuracy") == ["n", "s"]


def plotted(page: Any, name: str) -> list[str]:
    """The texts of all points of a plot."""
    found: list[str] = page.evaluate(f"document.getElementById('plot-{name}').data.flatMap(trace => trace.text)")
    return found


def test_the_plots_are_there_and_tell_about_a_point(page: Any) -> None:
    assert plotted(page, "accuracy") == ["n", "s"]
    assert plotted(page, "size") == ["n", "s", "m", "n", "x", "best"]
    for name, title in (("accuracy", "accuracy, 0..1"), ("size", "file size, MB")):
        assert page.locator(f"#plot-{name} .points path").count() == len(plotted(page, name))
        titles = page.locator(f"#plot-{name} .g-xtitle, #plot-{name} .g-ytitle").all_text_contents()
        assert titles == ["latency p50, ms", title]
    page.locator("#plot-accuracy").scroll_into_view_if_needed()
    page.locator("#plot-accuracy .points path").first.hover(force=True)
    told = page.locator("#plot-accuracy .hovertext").text_content()
    for words in ("yolo26n", "XNNPACK fp32, CPU", "latency p50 5.50 ms", "box mAP50-95 0.3550, on data.yaml, val"):
        assert words in told


def test_everything_is_reached_by_keyboard(page: Any) -> None:
    """The skip link first; every control in the order of the page, each with a visible focus; space and enter work."""
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        what = page.evaluate("document.activeElement.value || document.activeElement.innerText")
        if page.evaluate("document.activeElement.tagName") == "INPUT":
            assert page.evaluate("getComputedStyle(document.activeElement.nextElementSibling).outlineStyle") == "solid"
            if what == "pose":
                page.keyboard.press("Space")
        else:
            assert page.evaluate(outline) == "solid", what
        reached.append(what.split("\n")[0].strip())
        if reached[-1].startswith("Latency p50"):
            page.keyboard.press("Enter")
            break
    for words in ("Table", "Plots", "detect", "classify", "n", "own checkpoint", "Show all", "Variant"):
        assert words in reached, words
    assert head(page, "latency_ms").get_attribute("aria-sort") == "ascending"
    assert names(page)[0] == "yolo26n"  # pose, the fastest, was filtered out


def test_a_link_leads_to_the_model(page: Any) -> None:
    page.get_by_role("link", name="yolo26l-seg").click()
    article = page.locator("article:target")
    assert "At the stage “lower”" in article.inner_text()
    assert article.locator("pre").is_visible()


def test_nothing_is_cut_off_on_narrow_screens(page: Any) -> None:
    for width in (320, 390, 768, 1024, 1180):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(300)  # plotly follows
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".variants tbody td").first.is_visible()
        assert head(page, "latency_ms").locator("button").is_visible()


CONTRAST = """
() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (element) => {
    for (; element; element = element.parentElement) {
      const rgba = numbers(getComputedStyle(element).backgroundColor);
      if (rgba.length < 4 || rgba[3] > 0) return rgba;
    }
    return [255, 255, 255];
  };
  const seen = (e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.querySelectorAll("body *:not(script):not(svg *)")].filter(seen).map((e) => {
    const [a, b] = [light(numbers(getComputedStyle(e).color)), light(back(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + " " + e.textContent.trim().slice(0, 30)];
  }).filter(([ratio]) => ratio < 4.5);
}
"""


def test_texts_stand_out_in_light_and_dark(page: Any) -> None:
    for scheme, back, text in (("light", "rgb(255, 255, 255)", "#1b1f24"), ("dark", "rgb(20, 23, 27)", "#e6e9ed")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == back
        assert page.evaluate(CONTRAST) == [], scheme
        page.wait_for_timeout(100)  # the plots follow
        assert page.evaluate("document.getElementById('plot-size').layout.font.color") == text


def test_printed_it_is_light_open_and_without_controls(page: Any) -> None:
    page.emulate_media(color_scheme="dark", media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".filters").is_visible()
    sync_api.expect(page.locator("details:not([open])")).to_have_count(0, timeout=60_000)
    page.set_viewport_size({"width": 740, "height": 1050})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 740
    page.emulate_media(media="screen")
    sync_api.expect(page.locator("details:not([open])")).not_to_have_count(0, timeout=60_000)

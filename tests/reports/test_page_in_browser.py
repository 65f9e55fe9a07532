"""The page in a real browser, from a file: drawn, pointed at, switched, sorted, copied and filtered, with nothing
loaded, nothing evaluated and not a word in the console.

Runs with the extra `browser` (Playwright) and a Chromium of the system (Debian: apt install chromium).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.reports import write_report

pytest.importorskip("playwright", reason="Playwright is not installed; make test-extras has it")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium here (Debian: apt install chromium)", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402  # pyright: ignore[reportMissingImports]

HOSTILE = '</script><script>window.ran = 1</script><img src=x onerror="window.ran = 1">'
SCROLL = """async () => {
  for (const part of document.querySelectorAll('details')) part.open = true;
  for (const figure of document.querySelectorAll('figure[data-chart]')) {
    figure.scrollIntoView();
    while (!figure.querySelector('.plot.drawn')) await new Promise((done) => setTimeout(done, 20));
  }
  scrollTo(0, 0);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = [] if os.getuid() else ["--no-sandbox"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def written(make_record: Any, make_run: Any, tmp_path: Path) -> Path:
    """A page of every kind of chart: two methods, one of two runs and with a paper's numbers, at two epsilons."""
    strongest = {"type": "AutoAttack", "threat": {"type": "Linf", "epsilon": 8 / 255}}
    paper = {
        "columns": {"natural": 90.0, "AA": 46.0},
        "spread": {"natural": 0.5, "AA": 0.25},
        "measured": {"AA": [strongest]},
    }
    for model, seed, wrong in (("TRADES", 0, 18), ("TRADES", 1, 20), ("AT", 0, 24)):
        pgd = [
            {"type": "PGD", "threat": {"type": "Linf", "epsilon": e / 255}, "step_size": e / 1020, "steps": 20}
            for e in (4, 8)
        ]
        weak = make_record(attacks={"PGD-20": range(wrong // 2)}, settings=pgd[0]).attacks
        strong = make_record(attacks={"PGD-20": range(wrong)}, settings=pgd[1]).attacks
        aa = make_record(attacks={"AutoAttack": range(wrong + 1)}, settings=strongest).attacks
        record = make_record(
            model=model,
            seed=seed,
            natural_wrong=range(wrong // 8),
            notes={"published": paper} if model == "TRADES" else {},
        )
        folder = make_run(dataclasses.replace(record, attacks=[*weak, *strong, *aa]), gallery=seed == 0)
        if model == "AT":
            points = {"natural": [[0.0, 1.0], [2.0, 1.5]], "robust": [[1.0, 0.0], [1.0, 2.0]]}
            told = {"labels": [0, 1], "classes": ["zero", "one"], "epochs": [{"epoch": 1, "points": points}]}
            (folder / "t-sne.json").write_text(json.dumps(told))
    return write_report(folder.parent, tmp_path / "page.html")


@pytest.fixture
def opened(browser: Browser, written: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end nothing was said, asked for or gone wrong."""
    said: list[str] = []
    contexts = []

    def make(path: Path = written, width: int = 1280, scheme: Any = "light", scripts: bool = True) -> Page:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.on("console", lambda message: said.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.on("request", lambda request: None if local(request.url, path) else said.append(f"asks for {request.url}"))
        page.goto(path.as_uri())
        if scripts:
            page.evaluate(SCROLL)
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []


def local(url: str, path: Path) -> bool:
    return url == path.as_uri() or url.startswith(("data:", "blob:"))


def column(page: Page, place: int) -> list[str]:
    rows = page.locator("#accuracy tbody tr:not(.part)")
    return [rows.nth(row).locator("th, td").nth(place).inner_text().strip() for row in range(rows.count())]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_chart_is_drawn_at_every_width_in_both_schemes(
    opened: Callable[..., Page], width: int, scheme: str
) -> None:
    page = opened(width=width, scheme=scheme)
    drawn = page.locator("figure[data-chart] .plot.drawn .live svg")
    assert drawn.count() == page.locator("figure[data-chart]").count() >= 8
    assert page.locator(".plot > svg:visible").count() == 0, "the static pictures are gone"
    assert page.evaluate("document.documentElement.scrollWidth") == width, "the page itself does not scroll sideways"
    for figure in page.locator("figure[data-chart]").all():
        outer, inner = figure.bounding_box(), figure.locator(".live svg").bounding_box()
        assert outer is not None and inner is not None and inner["width"] <= outer["width"]
    ink = "getComputedStyle(document.querySelector('.live .role-axis-label text')).fill"
    assert page.evaluate(ink) == {"light": "rgb(89, 98, 111)", "dark": "rgb(163, 172, 184)"}[scheme]


def test_without_scripts_the_static_pictures_are_seen(opened: Callable[..., Page]) -> None:
    page = opened(scripts=False)
    pictures = page.locator("figure .plot > svg")
    assert pictures.count() >= 8 and pictures.first.is_visible()
    assert page.locator("button").count() == 0 and page.locator(".filters").is_hidden()


def test_a_click_in_the_legend_switches_a_method_off_in_every_chart_of_it(opened: Callable[..., Page]) -> None:
    page = opened()
    button = page.locator("#training .legend button", has_text="AT").filter(has_not_text="TRADES")
    lines = page.locator("#training .live .mark-line path")
    before, charts = lines.count(), page.locator("#training figure").count()
    button.click()
    expect(lines).to_have_count(before - charts)
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(lines).to_have_count(before)
    expect(button).to_have_attribute("aria-pressed", "true")
    page.locator("#trade-off .legend button", has_text="TRADES").dblclick()
    expect(page.locator("#trade-off .live .mark-text.role-mark text")).to_have_text(["TRADES", "published"])


def test_a_papers_point_is_hollow(opened: Callable[..., Page]) -> None:
    page = opened()
    fills = page.locator("#trade-off .live .mark-symbol path").evaluate_all(
        "all => all.map((one) => one.getAttribute('fill'))"
    )
    assert fills.count("var(--card)") == 1 and len(fills) == 3


def test_pointing_says_value_interval_and_number(opened: Callable[..., Page]) -> None:
    page, tip = opened(), ".tip:visible"
    page.locator("#trade-off .live .mark-symbol path").first.hover()
    said = page.locator(tip).inner_text()
    assert all(part in said for part in ("method AT", "natural 92.50", "95 % interval 80.14 to 97.42", "runs 1")), said
    page.locator("#epsilon .live .mark-symbol path").first.hover()
    assert "epsilon" in page.locator(tip).inner_text() and "95 % interval" in page.locator(tip).inner_text()
    page.locator("#training .live svg").first.hover()
    assert {"epoch", "value", "runs", "mean - std"} <= set(page.locator(f"{tip} span").all_inner_texts())
    page.locator("#classes .live .mark-rect path").nth(1).hover(force=True)
    assert "images 10" in page.locator(tip).inner_text()


def test_a_table_is_sorted_by_a_click_and_comes_back(opened: Callable[..., Page]) -> None:
    page = opened()
    first = column(page, 1)
    values = [float(text.split()[0]) for text in first]
    head = page.locator("#accuracy thead th", has_text="natural")
    for order, expected in (("descending", sorted(values, reverse=True)), ("ascending", sorted(values))):
        head.locator("button").click()
        assert [float(text.split()[0]) for text in column(page, 1)] == expected
        assert head.get_attribute("aria-sort") == order
    head.locator("button").click()
    assert column(page, 1) == first and head.get_attribute("aria-sort") == "none"
    page.locator("#accuracy thead th button", has_text="method").click()
    assert column(page, 0) == sorted(column(page, 0), key=str.lower)


def test_a_table_is_copied_as_it_is_seen(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#accuracy thead th button", has_text="natural").click()
    page.get_by_role("button", name="Copy", exact=True).first.click()
    page.get_by_text("Copied").wait_for()
    rows = [line.split("\t") for line in page.evaluate("navigator.clipboard.readText()").rstrip("\n").split("\n")]
    assert rows[0][:2] == ["method", "natural"] and [row[0] for row in rows[1:]] == column(page, 0)
    assert [row[1] for row in rows[1:]] == column(page, 1) and any("± 0.00 (std, 2)" in row[1] for row in rows)
    page.get_by_role("button", name="Copy as CSV").first.click()
    page.get_by_text("Copied").nth(1).wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith("method,natural,")


def test_the_gallery_is_filtered(opened: Callable[..., Page]) -> None:
    page = opened()
    tiles, output = page.locator(".tile:visible"), page.locator(".filters output")
    assert output.inner_text() == "4 of 4 examples"
    page.locator(".filters select[name=label]").select_option("zero")
    assert tiles.count() == 2 and output.inner_text() == "2 of 4 examples"
    page.locator(".filters select[name=run]").select_option("1")
    assert tiles.count() == 1 and output.inner_text() == "1 of 4 examples"
    page.locator(".filters select[name=outcome]").select_option("withstood")
    assert tiles.count() == 0 and output.inner_text() == "0 of 4 examples"


def test_a_confusion_matrix_is_chosen(opened: Callable[..., Page]) -> None:
    page = opened()
    numbers = page.locator("#classes figure.wide .live .mark-text.role-mark text")
    natural = numbers.all_inner_texts()
    page.locator("#classes figure.wide select").select_option(index=1)
    expect(numbers).not_to_have_count(len(natural))
    assert numbers.all_inner_texts() != natural


def test_a_chart_is_saved_as_a_file_of_its_own(opened: Callable[..., Page], tmp_path: Path) -> None:
    page = opened()
    figure = page.locator("#trade-off figure")
    figure.hover()
    with page.expect_download() as download:
        figure.get_by_role("button", name="SVG").click()
    download.value.save_as(tmp_path / "saved.svg")
    text = (tmp_path / "saved.svg").read_text()
    assert text.startswith("<svg") and "var(" not in text and "published" in text


def test_what_records_say_is_never_run(
    opened: Callable[..., Page], make_record: Any, make_run: Any, tmp_path: Path
) -> None:
    record = make_record(
        model=HOSTILE, run=HOSTILE, group=HOSTILE, classes=[HOSTILE, *"bcd"], attacks={HOSTILE: [1]}, device=HOSTILE
    )
    page = opened(write_report(make_run(record, name="hostile", gallery=True), tmp_path / "hostile.html"))
    assert page.evaluate("window.ran") is None and page.locator("img[src=x]").count() == 0
    page.locator("#trade-off .live .mark-symbol path").first.hover()
    assert HOSTILE in page.locator(".tip").inner_text() and page.locator(".tip img").count() == 0


def test_the_policy_stops_scripts_evaluation_and_loading(browser: Browser, written: Path) -> None:
    page = browser.new_page()
    page.goto(written.as_uri())
    stopped = page.evaluate(
        """async () => {
          const stopped = [];
          addEventListener('securitypolicyviolation', (event) => stopped.push(event.effectiveDirective));
          const script = document.createElement('script');
          script.textContent = 'window.ran = 1';
          document.body.append(script);
          await fetch('https://example.org/').catch(() => 0);
          try { setTimeout('window.ran = 1', 0); } catch { /* it may also throw */ }
          await new Promise((done) => setTimeout(done, 200));
          return [window.ran ?? null, ...stopped];
        }"""
    )
    page.close()
    assert stopped[0] is None and {"script-src-elem", "connect-src"} <= set(stopped[1:])

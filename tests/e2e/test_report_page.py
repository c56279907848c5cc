"""The page that ``report`` writes of real runs and their audits, as a browser shows it."""

import json
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, Browser
from tests.e2e.conftest import ONLINE, done

pytestmark = pytest.mark.slow
WIDTHS = (1400, 390)
TREATED = (("none", "ST"), ("none", "FREEZE"), ("accumulative", "ST"), ("accumulative", "CLIP"))
COLUMN = "[...document.querySelectorAll('#table-outcomes tbody tr')].map(row => row.cells[{0}].textContent)"


@pytest.fixture(scope="module")
def logs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make runs on a clean and on a poisoned stream, audit one, and report them."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        for seed in ("0", "1"):
            for attack, defense in (
                ("none", "ST"),
                ("none", "FREEZE"),
                ("accumulative", "ST"),
                ("accumulative", "CLIP"),
            ):
                place = folder / f"{attack}-{defense}-<b>{seed}"
                types = "coast,clean" if attack == "none" else "coast,adversarial"
                options = ("--attack", attack, "--med", defense, "--trigger", types, "--seed", seed)
                done(*ONLINE, *options, "--out", place)
        done("audit", "--run", folder / "accumulative-ST-<b>0")
        done("report", folder)
    return folder


def test_a_report_is_the_same_bytes_when_it_is_made_again(logs: Path, tmp_path: Path) -> None:
    first = (logs / "report.html").read_bytes()
    done("report", logs, "--out", tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first
    assert b"<b>" not in first
    assert b"accumulative-ST-&lt;b&gt;0" in first
    env = json.loads((logs / "accumulative-ST-<b>0" / "env.json").read_text())
    assert f"Computed in {env['precision']} on {env['device_name']}." in first.decode()


def test_audits_give_their_figures(logs: Path, tmp_path: Path) -> None:
    done("report", logs, "--format", "svg,json", "--out", tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    figures = ("curves", "before-after", "discrepancy", "accuracy-exposure", "roc")
    assert written >= {"report.json", *(f"{name}.svg" for name in figures)}
    assert "report.html" not in written
    points = (logs / "accumulative-ST-<b>0" / "audit" / "stream" / "roc.csv").read_text().splitlines()
    assert points[0] == "attack,fpr,tpr"
    assert points[-1].endswith(",1,1")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome is installed")
def test_a_browser_shows_the_page(logs: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.size(WIDTHS[0])
        browser.open(logs / "report.html")
        check_sorting(browser)
        check_columns(browser)
        check_legend(browser)
        check_values(browser)
        check_widths(browser)
        assert browser.complaints == []


def check_sorting(browser: Browser) -> None:
    headings = browser.run("[...document.querySelectorAll('#table-outcomes th')].map(cell => cell.textContent)")
    for name in ("after", "defence"):
        place = headings.index(name)
        press = f"document.querySelectorAll('#table-outcomes th')[{place}].querySelector('button').click()"
        found = []
        for _ in range(2):
            browser.run(press)
            found.append([_key(text) for text in browser.run(COLUMN.format(place))])
        assert len(set(found[0])) > 1
        assert found[0] == sorted(found[0])
        assert found[1] == sorted(found[1], reverse=True)


def _key(text: str) -> tuple[float, str]:
    """Return what a cell is sorted by: its first number, or its words."""
    first = text.partition(",")[0]
    return (float(first), "") if first.replace(".", "").isdigit() else (0.0, text)


def check_columns(browser: Browser) -> None:
    count = "[...document.querySelectorAll('#table-outcomes th')].filter(cell => cell.offsetWidth).length"
    few = browser.run(count)
    browser.run("document.querySelector('[aria-controls=table-outcomes]').click()")
    every = browser.run(count)
    browser.run("document.querySelector('[aria-controls=table-outcomes]').click()")
    assert few < every
    assert browser.run(count) == few


def check_legend(browser: Browser) -> None:
    shown = (
        "[...document.querySelectorAll('#curves [data-series=\"0\"]')]"
        ".filter(part => part.getBoundingClientRect().width).length"
    )
    assert browser.run(shown) > 0
    browser.run("document.querySelector('#curves .legend button').click()")
    assert browser.run(shown) == 0
    browser.run("document.querySelector('#curves .legend button').click()")
    assert browser.run(shown) > 0


def check_values(browser: Browser) -> None:
    browser.run(
        "(() => { const mark = document.querySelector('#curves [data-series] title').parentNode;"
        "const box = mark.getBoundingClientRect();"
        "document.querySelector('#curves svg[role=img]').dispatchEvent(new PointerEvent('pointermove',"
        "{clientX: box.left, clientY: box.top})) })()"
    )
    assert ", update 0: " in browser.run("document.querySelector('#curves output').textContent")


def check_widths(browser: Browser) -> None:
    for width in WIDTHS:
        for dark in (False, True):
            browser.size(width, dark=dark)
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), width
            wide = browser.run("[...document.querySelectorAll('figure, header, footer')].map(part => part.scrollWidth)")
            assert max(wide) <= width
        ink = "getComputedStyle(document.body).color"
        assert browser.run(ink) == "rgb(230, 232, 235)"

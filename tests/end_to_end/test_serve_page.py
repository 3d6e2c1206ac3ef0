"""The command and its page, as people use them: a real model, a real browser, a keyboard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from browser import Browser, chromium

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")

from bench.serve import Service


def serving(words: list[str], weights: Path, **environment: str) -> Service:
    """`fusiform serve` in a process of its own."""
    command = ["-m", "fusiform", "serve", *words, "--port", "0"]
    return Service(command, FUSIFORM_WEIGHTS=str(weights), **environment)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small untrained encoder without heads: what the page shows of it is small, and real."""
    pytest.importorskip("torch")
    from fusiform.config import ViTConfig
    from fusiform.encoder import Encoder
    from fusiform.measurement import Crop

    vit = ViTConfig(image_size=64, patch_size=8, width=48, depth=2, heads=3)
    folder = tmp_path_factory.mktemp("model")
    Encoder.untrained(vit, Crop("loose", 64, "test")).save(folder)
    return folder


@pytest.fixture(scope="module")
def served(model, weights_dir, tmp_path_factory) -> Iterator[Service]:
    runs = tmp_path_factory.mktemp("runs")
    (runs / "report.html").write_text(
        "<!doctype html><title>r</title><style>h1{color:rgb(1,2,3)}</style><h1>A report</h1>"
        "<script>top.location='https://evil.example/'</script>"
    )
    service = serving([str(model), "--runs", str(runs)], weights_dir)
    yield service
    code = service.stop()
    assert code == 0, "".join(service.said)
    with pytest.raises(URLError):
        urlopen(service.address, timeout=5)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    pytest.importorskip("websocket")
    if chromium() is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM to its path")
    page = Browser(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def photos(data_dir) -> list[Path]:
    found = sorted((data_dir / "real" / "cc0_one_person").glob("zoom_*.jpg"))
    if len(found) < 2:
        pytest.skip("no real photos with a free licence in the data folder")
    return found


def text(browser: Browser, id: str) -> str:
    return str(browser.evaluate(f"document.getElementById('{id}').textContent"))


def test_a_photo_is_looked_at_and_the_answer_is_announced(served, browser, photos):
    served.ready()
    browser.complaints.clear()
    browser.open(served.address + "/")
    browser.wait("document.getElementById('model').textContent.includes('encoder')")
    assert browser.evaluate("document.getElementById('said').getAttribute('aria-live')") == "polite"
    browser.choose("#photo", photos[0])
    browser.wait("document.getElementById('said').textContent.includes('One face was found')")
    assert browser.evaluate("document.querySelectorAll('.face img').length") == 3, "crop, and attention over it"
    ink = "(() => { const c = document.getElementById('canvas'); const d = c.getContext('2d')"
    ink += ".getImageData(0, 0, c.width, c.height).data; let n = 0;"
    ink += "for (let i = 0; i < d.length; i += 4) if (d[i] == 0 && d[i+1] == 255 && d[i+2] == 140) n++; return n; })()"
    assert browser.evaluate(ink) > 68, "points are drawn"
    browser.evaluate("document.querySelector('[data-layer=points]').click()")
    assert browser.evaluate(ink) == 0, "and taken away"
    assert browser.complaints == [], "neither an exception nor a violated policy"


def test_a_file_that_is_no_photo_is_refused_in_words(served, browser, tmp_path):
    served.ready()
    wrong = tmp_path / "wrong.jpg"
    wrong.write_bytes(b"this is a letter")
    browser.open(served.address + "/")
    browser.choose("#photo", wrong)
    browser.wait("!document.getElementById('problem').hidden")
    assert "of no image format" in text(browser, "problem")
    assert browser.evaluate("document.getElementById('problem').getAttribute('role')") == "alert"


def test_everything_is_reached_with_the_keyboard(served, browser, photos):
    served.ready()
    browser.open(served.address + "/")
    browser.wait("document.getElementById('model').textContent.includes('encoder')")
    order = []
    for _ in range(3):
        browser.press("Tab")
        order.append(browser.focused())
    assert order == ["A", "tab-look", "photo"], "the link past the head, the chosen view, its photo"
    browser.evaluate("document.getElementById('tab-look').focus()")
    browser.press("ArrowRight")
    assert browser.focused() == "tab-compare"
    assert browser.evaluate("!document.getElementById('compare').hidden && document.getElementById('look').hidden")
    browser.choose("#photo-a", photos[0])
    browser.choose("#photo-b", photos[1])
    for _ in range(3):
        browser.press("Tab")
    assert browser.focused() == "compare-go"
    browser.press("Enter")
    browser.wait("!document.getElementById('alike').hidden")
    assert "Similarity" in text(browser, "said")
    assert "nothing is decided" in text(browser, "said")
    browser.evaluate("document.getElementById('tab-compare').focus()")
    browser.press("End")
    browser.wait("!!document.querySelector('#shelf button')")
    for _ in range(2):
        browser.press("Tab")
        if browser.focused() == "BUTTON":
            break
    assert browser.focused() == "BUTTON"
    browser.press(" ")
    browser.wait("document.getElementById('said').textContent.includes('is open')")
    time.sleep(0.5)
    assert browser.evaluate("location.href") == served.address + "/", "the report's script did not run"


@pytest.mark.parametrize("view", ["look", "compare", "runs"])
def test_narrow_screens_need_no_sideways_scrolling(served, browser, photos, view):
    served.ready()
    browser.open(served.address + "/", width=360, height=640, dark=True)
    browser.wait("document.getElementById('model').textContent.includes('encoder')")
    browser.evaluate(f"document.getElementById('tab-{view}').click()")
    if view == "look":
        browser.choose("#photo", photos[0])
        browser.wait("document.getElementById('said').textContent.includes('found')")
    if view == "compare":
        browser.choose("#photo-a", photos[0])
        browser.wait("!document.getElementById('canvas-a').hidden")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 360
    small = "[...document.querySelectorAll('button, input[type=file]')].filter((e) => e.offsetParent"
    small += " && e.getBoundingClientRect().height < 40).map((e) => e.id)"
    assert browser.evaluate(small) == [], "large enough for a thumb"


def contrast(browser: Browser, selector: str) -> float:
    """WCAG 2 contrast of an element's text with the page."""
    code = f"""(() => {{
      const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = (c) => parse(c).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
      const node = document.querySelector({selector!r});
      const style = getComputedStyle(node);
      const own = style.backgroundColor === 'rgba(0, 0, 0, 0)' ? document.body : node;
      const back = getComputedStyle(own).backgroundColor;
      const [a, b] = [light(style.color), light(back)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    }})()"""
    return float(browser.evaluate(code))


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_in_both_schemes(served, browser, dark):
    served.ready()
    browser.open(served.address + "/", dark=dark)
    for selector in ("h1", ".quiet", "#tab-look", "#tab-runs", "#problem"):
        assert contrast(browser, selector) >= 4.5, selector


@pytest.mark.slow
def test_a_page_that_asks_for_a_key_works_with_it(model, weights_dir, browser, photos):
    key = "correct-horse-battery-staple"
    service = serving([str(model)], weights_dir, FUSIFORM_API_KEY=key).ready()
    try:
        browser.open(service.address + "/")
        browser.wait("!document.getElementById('key-form').hidden")
        browser.evaluate(f"document.getElementById('key').value = '{key}'")
        browser.evaluate("document.getElementById('key').focus()")
        browser.press("Enter")
        browser.wait("document.getElementById('model').textContent.includes('encoder')")
        browser.choose("#photo", photos[0])
        browser.wait("document.getElementById('said').textContent.includes('One face was found')")
    finally:
        assert service.stop() == 0
    assert key not in "".join(service.said)


AXE = """axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations.map(
  (each) => [each.id, each.impact, each.nodes.map((node) => node.target.join(' ') + ': ' + node.failureSummary)])))"""


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (360, True)])
def test_axe_finds_no_barrier_in_any_view(served, browser, photos, width, dark):
    """Names, roles, labels, contrast, headings: the rules of axe-core, on pages with content."""
    spec = find_spec("axe_core_python")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("axe-core-python is not installed")
    rules = (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")
    served.ready()
    browser.open(served.address + "/", width=width, height=800, dark=dark)
    browser.wait("document.getElementById('model').textContent.includes('encoder')")
    browser.evaluate(rules + ";0")

    def barriers() -> list[object]:
        found: list[object] = json.loads(browser.evaluate(AXE))
        return found

    assert barriers() == []
    browser.choose("#photo", photos[0])
    browser.wait("document.getElementById('said').textContent.includes('found')")
    assert barriers() == []
    browser.evaluate("document.getElementById('tab-compare').click()")
    browser.evaluate("document.getElementById('compare-go').click()")
    browser.wait("!document.getElementById('problem').hidden")
    assert barriers() == []
    browser.evaluate("document.getElementById('tab-runs').click()")
    browser.wait("!!document.querySelector('#shelf button')")
    assert barriers() == []
    # and the rules do find something, or they would not have been asked
    browser.evaluate("document.querySelector('label[for=photo-a]').remove()")
    browser.evaluate("document.getElementById('tab-compare').click()")
    assert [each[0] for each in barriers()] == ["label"]

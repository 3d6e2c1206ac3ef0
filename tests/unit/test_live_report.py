"""The page about a run that goes on."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusiform import recipes
from fusiform.errors import ConfigError, DataError
from fusiform.report.live import Series, live_page, panel, read
from fusiform.report.live_server import server
from fusiform.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    with Run.open(tmp_path / "a<b>", recipes.find("camd-quick")) as run:
        for step in range(0, 50, 10):
            run.log({"step": step, "epoch": step / 20, "loss": 3.0 - step / 50, "dense": 1.0, "faces_per_second": 90.0})
            look = {"rank": 20.0 - step / 10, "spread": 0.4, "identity": 0.2, "identity_chance": 0.1, "faces": 128}
            run.log({"step": step, "probes": look, "seconds": 0.25})
        run.log({"step": 40, "event": "alarm", "alarm": "collapse", "message": "rank fell <b>far</b>"})
        yield run.folder


def test_it_shows_what_was_logged(run: Path) -> None:
    page = read(run, refresh=5, age=3.0)
    assert page.state == "Under way; the last row was written 3 s ago."
    assert {words: value for value, words in page.tiles}["steps done"] == "41"
    assert ("16", "rank, of 128 at most") in page.tiles
    titles = [p.title for p in page.panels]
    assert titles[:4] == ["Loss", "Rank of the features (RankMe)", "Spread of the features", "Identity"]
    assert titles[-1] == "dense"
    identity = page.panels[3]
    assert [line.label for line in identity.lines] == ["nearest face", "guessing"]
    assert page.alarms == ((40, "rank fell <b>far</b>"),)


def test_text_from_files_is_escaped_and_nothing_is_loaded(run: Path) -> None:
    html = live_page(run, refresh=5, age=None)
    assert "<b>far</b>" not in html
    assert "&lt;b&gt;far" in html
    assert '<meta http-equiv="refresh" content="5">' in html
    assert "<script" not in html
    assert "src=" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")


def test_new_rows_appear_and_a_finished_run_asks_no_more(run: Path) -> None:
    before = live_page(run, refresh=5, age=None)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 50, "epoch": 2.5, "loss": 0.125}) + "\n" + '{"step": 60, "lo')
    assert "0.125" in live_page(run, refresh=5, age=None)
    assert "0.125" not in before
    (run / "done.json").write_text("{}")
    finished = live_page(run, refresh=5, age=None)
    assert "The run is finished." in finished
    assert 'http-equiv="refresh"' not in finished


def test_a_run_without_rows_has_a_page(tmp_path: Path) -> None:
    with Run.open(tmp_path / "new", recipes.find("mae-face-quick")):
        assert "has not logged a row yet" in live_page(tmp_path / "new", refresh=5, age=None)


def test_lines_stay_inside_the_chart() -> None:
    drawn = panel("x", "", [Series("a", ((0, -3.0), (10, 5.0))), Series("b", ((5, 7.5),))])
    assert drawn is not None
    assert len(drawn.lines) == 1
    assert all(0 <= float(n) <= 400 for n in drawn.lines[0].path.replace("M", "").replace("L", "").split())
    assert panel("x", "", [Series("a", ((0, 1.0),))]) is None


def test_it_is_served_to_this_machine_only(run: Path) -> None:
    with server(run, port=0, refresh=2, now=lambda: 2e9) as page:
        thread = threading.Thread(target=page.serve_forever, daemon=True)
        thread.start()
        try:
            assert page.server_address[0] == "127.0.0.1"
            address = f"http://127.0.0.1:{page.server_address[1]}"
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert "Alarm at step 40" in answer.read().decode()
                assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
            other = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
            for request, status in ((other, 403), (f"{address}/log.jsonl", 404)):
                with pytest.raises(urllib.error.HTTPError) as refused:
                    urllib.request.urlopen(request, timeout=10)
                assert refused.value.code == status
            with pytest.raises(ConfigError, match="cannot be used"):
                server(run, port=int(page.server_address[1]), refresh=2)
        finally:
            page.shutdown()
            thread.join(10)


def test_what_is_no_run_is_refused_before_serving(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        server(tmp_path, port=0, refresh=2)

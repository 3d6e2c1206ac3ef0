"""A service without weights, for tests of everything around the model: a face is where a picture is red.

As a program it serves that model in a process of its own: `python serving.py SECONDS-A-BATCH LIMITS-AS-JSON`.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.faces.align import Placement
from fusiform.faces.decode import decode
from fusiform.infer.results import Affect, Face, Photo, Points, Pose
from fusiform.serve.model import FaceModel, Point

CARD: dict[str, Any] = {
    "name": "red",
    "encoder_sha256": "0" * 64,
    "recipe": "none",
    "embedding": {"width": 3, "length": 1, "compare": "cosine"},
    "crop": {"template": "loose", "size": 32},
    "heads": [
        {
            "name": "affect",
            "task": "affect",
            "unit": "-1 to 1",
            "signs": "+ pleasant",
            "labels": ["valence", "arousal"],
            "never_labelled": [],
            "score": {"metric": "CCC", "value": 0.5, "dataset": "drawn", "n": 4},
        }
    ],
}


@dataclass
class Red:
    """Finds the red rectangle of a picture. Its embedding is the mean colour, of length 1."""

    seconds: float = 0.0
    """Time that a batch takes."""
    batches: list[int] = field(default_factory=list)

    def __call__(self, photos: Sequence[NDArray[np.uint8]]) -> list[Photo]:
        self.batches.append(len(photos))
        time.sleep(self.seconds)
        return [self._one(pixels) for pixels in photos]

    def _one(self, pixels: NDArray[np.uint8]) -> Photo:
        if (pixels == 7).all():
            raise RuntimeError("a picture of sevens breaks this model")
        height, width = pixels.shape[:2]
        red = (pixels[..., 0] > 200) & (pixels[..., 1] < 120)
        if not red.any():
            return Photo(width=width, height=height)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        x0, y0, x1, y1 = map(float, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        scale = 32 / max(x1 - x0, y1 - y0)
        colour = pixels[int(y0) : int(y1), int(x0) : int(x1)].reshape(-1, 3).mean(0).astype(np.float32)
        face = Face(
            (x0, y0, x1, y1),
            0.9,
            Placement(((scale, 0.0, -scale * x0), (0.0, scale, -scale * y0)), 32, "loose-32"),
            found=Points("arcface-5", np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1], [x0, y0]]), "drawn"),
            answers={"head-pose": Pose(10.0, -5.0, 3.0), "affect": Affect(0.25, float("nan"))},
            embedding=colour / np.linalg.norm(colour),
        )
        return Photo((face,), width=width, height=height)


class Here:
    """Decodes in the test's own process, which starts at once."""

    def __init__(self, *args: object, **settings: object) -> None: ...

    async def decode(self, data: bytes, max_pixels: float):
        return await asyncio.to_thread(decode, data, max_pixels=max_pixels)

    async def warm(self) -> None: ...
    def close(self) -> None: ...


def red_model(seconds: float = 0.0, point: Point | None = None) -> FaceModel:
    return FaceModel(Red(seconds), CARD, point=point)


def picture(
    face: tuple[int, int, int] | None = (255, 0, 0), *, size: tuple[int, int] = (60, 80), kind: str = "PNG"
) -> bytes:
    """A grey picture of (height, width) with a rectangle of that colour from (20, 10) to (50, 40)."""
    import PIL.Image

    pixels = np.full((*size, 3), 128, np.uint8)
    if face is not None:
        pixels[10:40, 20:50] = face
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def main() -> None:
    from fusiform.serve.running import listen, run
    from fusiform.serve.service import service
    from fusiform.serve.settings import Access, Limits

    def say(message: str) -> None:
        sys.stderr.write(f"fusiform serve: {message}\n")
        sys.stderr.flush()

    door = listen("127.0.0.1", 0)
    say(f"listening at http://127.0.0.1:{door.getsockname()[1]}/")
    limits = Limits(**json.loads(sys.argv[2]))
    run(service(limits, Access(), lambda: red_model(float(sys.argv[1]))), door, say=say)


if __name__ == "__main__":
    main()

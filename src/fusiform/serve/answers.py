"""The service's answers, as OpenAPI describes them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Photo(BaseModel):
    width: int = Field(description="Pixels, after the turn that EXIF asks for.")
    height: int
    format: str
    notes: list[str] = Field(description="What was done to the file's own pixels, such as 'cmyk' or 'first frame'.")


class Crop(BaseModel):
    matrix: list[list[float]] = Field(description="2x3, photo to crop, in pixels; pixel i covers [i, i + 1).")
    size: int
    template: str


class PointsFound(BaseModel):
    scheme: str = Field(description="Order of the points, such as ibug-68.")
    source: str = Field(description="The trained head or the model that they are from.")
    xy: list[list[float]] = Field(description="(x, y) in photo pixels.")


class FaceAnswer(BaseModel):
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1 in photo pixels; may reach out of it.")
    score: float = Field(description="The detector's confidence, 0 to 1.")
    placement: Crop = Field(description="Of the crop that the encoder saw.")
    presence: float | None = Field(default=None, description="The landmark model's certainty of a face, 0 to 1.")
    note: str | None = Field(default=None, description="What was unusual about finding it.")
    found: PointsFound | None = Field(default=None, description="Landmarks without a trained head.")
    found_pose: dict[str, Any] | None = Field(default=None, description="Head pose from those landmarks, in degrees.")
    answers: dict[str, dict[str, Any]] = Field(
        description="By head, in the unit and with the signs that /v1/models states (docs/infer.md)."
    )
    pictures: dict[str, str] = Field(
        description="PNG files in base64, in the place of the crop: those asked for that the model can make."
    )


class Analysis(BaseModel):
    photo: Photo
    faces: list[FaceAnswer] = Field(description="The largest first; none where no face was found.")
    faces_seen: int = Field(description="Faces found; more than `faces` holds where there were too many.")
    left_out: dict[str, int] = Field(description="Places taken for faces and not believed, by reason.")
    model: str = Field(description="SHA-256 of the encoder's weights.")


class Embedded(BaseModel):
    box: tuple[float, float, float, float]
    score: float
    embedding: list[float] = Field(description="Of length 1. Biometric data: treat it as you treat the photo.")


class Embeddings(BaseModel):
    photo: Photo
    faces: list[Embedded]
    faces_seen: int
    model: str
    compare: str = Field(description="How two embeddings are compared.")


class Compared(BaseModel):
    box: tuple[float, float, float, float] = Field(description="Of the face that was compared: the photo's largest.")
    score: float
    faces_seen: int


class Threshold(BaseModel):
    same_above: float
    different_up_to: float = Field(description="Between the two nothing is said.")
    far: float = Field(description="False-accept rate it was set for.")
    far_interval: tuple[float, float] | None = Field(default=None, description="95 % interval of that rate.")
    supported: bool = Field(description="False: too few pairs for that rate; claim the interval's upper end.")


class Comparison(BaseModel):
    similarity: float = Field(description="Cosine of the two embeddings, -1 to 1.")
    decision: str | None = Field(
        description="'same', 'different' or 'cannot tell'; null where the model has no threshold."
    )
    threshold: Threshold | None
    a: Compared
    b: Compared
    model: str


class Head(BaseModel):
    name: str
    task: str
    unit: str
    signs: str
    labels: list[str]
    never_labelled: list[str] = Field(description="Labels its training faces did not have: not answered.")
    score: dict[str, Any] | None = Field(description="What it scored on people it never saw.")


class ModelCard(BaseModel):
    name: str
    encoder_sha256: str
    recipe: str
    embedding: dict[str, Any] | None = Field(description="Null where an exported model makes none.")
    crop: dict[str, Any]
    heads: list[Head]
    pictures: list[str] = Field(description="What `pictures` may ask for.")


class Models(BaseModel):
    models: list[ModelCard]


class Shown(BaseModel):
    id: str
    name: str = Field(description="Path below the folder that is shown.")
    kind: str = Field(description="'run' or 'report'.")
    about: dict[str, Any]
    address: str | None = Field(description="Where a report is read: good for ten minutes, and without a key.")


class Listing(BaseModel):
    shown: list[Shown]
    unreadable: int = Field(description="Runs whose files are damaged.")
    more: int = Field(description="Entries above the limit, left out.")


class Problem(BaseModel):
    """RFC 9457, with the house's words."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What happened, with the value.")
    reason: str = Field(description="One word for programs: docs/serve.md lists them.")
    expected: str | None
    do: str | None

"""Results drawn into their photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.faces.parsing_map import UNLABELLED
from fusiform.infer.results import Face, Gaze, Points, Pose

Image = NDArray[np.uint8]
BOX, POINT, INK, PAPER = (255, 196, 0), (0, 255, 140), (255, 255, 255), (20, 20, 20)
LOOK = (255, 90, 220)
AXES = ((235, 70, 60), (70, 200, 80), (80, 130, 255))
"""x to the subject's left in red, y up in green, z out of the face in blue."""
# nineteen colours that neighbours in a face can be told apart by; background is left as it is
PALETTE = np.array(
    [
        *[(0, 0, 0), (235, 190, 160), (250, 140, 90), (90, 90, 220), (40, 160, 255), (0, 90, 200), (150, 80, 20)],
        *[(200, 120, 40), (255, 160, 200), (220, 100, 160), (120, 0, 40), (255, 60, 90), (200, 20, 60)],
        *[(110, 70, 160), (60, 150, 90), (255, 220, 60), (240, 200, 120), (190, 220, 150), (120, 180, 190)],
    ],
    np.float32,
)
_OPACITY = 0.45


def drawn(pixels: Image, faces: Sequence[Face]) -> Image:
    """(H, W, 3) RGB: a copy of the photo with parsing, box, points, pose, gaze and words for each face."""
    import cv2

    out = pixels.copy()
    for face in faces:
        if face.parsing is not None:
            _paint(out, face.parsing.in_photo(*out.shape[:2]))
    for face in faces:
        x0, y0, x1, y1 = face.box
        side = max(x1 - x0, y1 - y0)
        line = max(1, round(side / 150))
        cv2.rectangle(out, _at(x0, y0), _at(x1, y1), BOX, line, cv2.LINE_AA)
        if face.points is not None:
            _dots(out, face.points, max(1, round(side / 120)))
        if face.pose is not None:
            _axes(out, face, face.pose, side, line + 1)
        if face.gaze is not None:
            _arrow(out, face, face.gaze, side, line + 1)
        _words(out, words(face), x0, y1, side)
    return out


def words(face: Face) -> list[str]:
    """What is said in words under a face."""
    said = []
    if face.pose is not None:
        said.append(" ".join(f"{name} {_degrees(getattr(face.pose, name))}" for name in ("yaw", "pitch", "roll")))
    if face.gaze is not None:
        said.append(f"gaze yaw {_degrees(face.gaze.yaw)} pitch {_degrees(face.gaze.pitch)}")
    if face.age is not None:
        said.append(f"{face.age.years:.0f} years")
    if face.expression is not None:
        best = face.expression.best
        said.append(f"{best} {100 * face.expression.of[best]:.0f} %")
    if face.affect is not None:
        said.append(f"valence {face.affect.valence:+.2f} arousal {face.affect.arousal:+.2f}")
    if face.action_units is not None:
        strong = sorted(face.action_units.of.items(), key=lambda pair: -pair[1])[:3]
        said.append("  ".join(f"{name} {value:.1f}" for name, value in strong))
    if face.attributes is not None and face.attributes.yes:
        said.append(", ".join(face.attributes.yes[:4]))
    return said


def _degrees(angle: float) -> str:
    """Whole degrees with their sign, of which nothing has none but +."""
    said = f"{angle:+.0f}"
    return "+0" if said == "-0" else said


def _at(x: float, y: float) -> tuple[int, int]:
    """Nearest pixel, within what OpenCV can count."""
    return int(np.clip(round(x - 0.5), -30000, 30000)), int(np.clip(round(y - 0.5), -30000, 30000))


def _paint(out: Image, parsing: NDArray[np.uint8]) -> None:
    shown = (parsing != UNLABELLED) & (parsing > 0)
    colour = PALETTE[np.where(shown, parsing, 0)][shown]
    out[shown] = ((1 - _OPACITY) * out[shown] + _OPACITY * colour).astype(np.uint8)


def _dots(out: Image, points: Points, radius: int) -> None:
    import cv2

    for x, y in points.xy.tolist():
        if np.isfinite((x, y)).all():
            cv2.circle(out, _at(x, y), radius, POINT, -1, cv2.LINE_AA)


def _axes(out: Image, face: Face, pose: Pose, side: float, line: int) -> None:
    """The head's own axes, seen from far away, from the middle of the face."""
    import cv2

    x0, y0, x1, y1 = face.box
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    rotation = metrics.rotation_matrices(np.array([[pose.yaw, pose.pitch, pose.roll]]))[0]
    for axis, colour in zip(rotation.T, AXES, strict=True):
        end = centre + 0.45 * side * np.array([axis[0], -axis[1]])
        cv2.line(out, _at(*centre), _at(*end), colour, line, cv2.LINE_AA)


def _arrow(out: Image, face: Face, gaze: Gaze, side: float, line: int) -> None:
    """Where the eyes look, seen from far away, from between them: nothing but a dot where they look into the camera."""
    import cv2

    x0, y0, x1, y1 = face.box
    centre = np.array([(x0 + x1) / 2, y0 + 0.4 * (y1 - y0)])
    known = face.points or face.found
    if known is not None and known.scheme == "ibug-68" and np.isfinite(known.xy[36:48]).all():
        centre = known.xy[36:48].mean(0)
    x, y, _ = gaze.direction
    cv2.circle(out, _at(*centre), line + 1, LOOK, -1, cv2.LINE_AA)
    cv2.arrowedLine(
        out, _at(*centre), _at(*(centre + 0.8 * side * np.array([x, -y]))), LOOK, line, cv2.LINE_AA, 0, 0.25
    )


def _words(out: Image, said: Sequence[str], x: float, y: float, side: float) -> None:
    import cv2

    scale = float(np.clip(side / 320, 0.35, 2.0))
    widest = max((cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)[0][0] for text in said), default=1)
    scale = min(scale, 0.96 * out.shape[1] / widest)
    x = min(x, out.shape[1] - scale * widest - 2)
    height, halo, thick = round(30 * scale), max(1, round(1.25 * scale)), max(1, round(1.5 * scale))
    # the same strokes moved about, and no thicker ones: OpenCV 5 sets thick letters wider
    ways = [(dx * halo, dy * halo) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy]
    for number, text in enumerate(said):
        left, base = _at(x, min(y + height * (number + 1), out.shape[0] - height * (len(said) - number - 1) - 4))
        for dx, dy, colour in [*((dx, dy, PAPER) for dx, dy in ways), (0, 0, INK)]:
            at = (left + dx, base + dy)
            cv2.putText(out, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)

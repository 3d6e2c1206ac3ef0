"""How far an encoder may move while it is measured: a protocol is a value, and any task takes any of them.

`Cosine` compares embeddings and learns nothing. `KNN` and `LinearProbe` leave the encoder frozen and are deterministic:
they have no seed noise. `AttentiveProbe` trains a head with a look of its own at the frozen tokens. `FineTune` trains
every weight. All of them treat an untrained encoder exactly like a trained one, because the difference between the two
is the number that counts. Those that learn take `shots`: how few labels they may see.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from fusiform.config import LATER
from fusiform.errors import ConfigError
from fusiform.shots import Shots

Features = Literal["pooled", "whitened", "concat", "patches", "cls", "cls+pooled", "cls+concat"]
"""What is seen of the tokens: the mean of the patch tokens (D,), that mean whitened as the encoder says (D,), all
tokens side by side (P·D,), each by itself (P, D), the class token (D,), the class token and that mean side by side
(2D,), or it and all of them (D + P·D,)."""
Pooling = Literal["pooled", "whitened", "cls", "cls+pooled"]
"""The forms of an encoder's own vector of a face (`fusiform.encoder.Encoder.pooling`)."""
POOLINGS: tuple[Pooling, ...] = ("pooled", "whitened", "cls", "cls+pooled")
WholeFace = Literal["pooled", "whitened", "concat", "cls", "cls+pooled", "cls+concat"]

Head = Literal["linear", "attentive", "upernet", "heatmap", "rotation-6d", "by-task"]
"""What stands on the encoder. "by-task": for maps UPerNet, for points heatmaps, for rotations six numbers made
orthonormal, else one vector of the face and a linear layer: in `AttentiveProbe` the vector that attention takes."""
Select = Literal["val", "best-on-test"]
"""Whose faces choose among epochs and learning rates. "best-on-test" is how some releases got their numbers: it chooses
on the faces it reports, so its rows have that as their split and can be compared with nothing else."""

Begin = Literal["ridge", "mean"]
"""Where a trained head begins. "ridge": at the answer of a linear probe, to which training adds, and which stays unless
the choosing faces say surely that it became better; what was chosen is then trained again on the whole training side
where a set has no "val", as a linear probe is. "mean": at the mean target, as in published protocols. Heads under a
tanh warp begin at the mean."""

FewLabels = Annotated[Shots | None, tyro.conf.Suppress]
"""Set by --fraction and --per-class."""


@dataclass(frozen=True)
class Dense:
    """UPerNet and heatmaps (FaRL; Zheng et al., 2022)."""

    taps: tuple[int, ...] | None = None
    """The four blocks, from 0, whose tokens it sees; None: FaRL's, 3 5 7 11 of twelve and the same shares of others."""
    width: int | None = None
    """Channels; None: the encoder's, as in FaRL."""
    dropout: float = 0.1
    """Of channels before the last layer."""
    heatmap_size: int = 128
    """Side of a heatmap; one more than twice as fine as the four cells a patch that the head puts out is as fine as
    those."""
    heatmap_radius: float = 5.0
    """Around a point, in cells of such a heatmap, beyond which it asks for nothing."""

    def __post_init__(self) -> None:
        if (self.taps is not None and len(self.taps) != 4) or self.heatmap_size < 2 or self.heatmap_radius <= 0:
            raise ConfigError(
                f"A dense head on blocks {self.taps}, heatmaps of {self.heatmap_size}, radius {self.heatmap_radius}",
                expected="four blocks, two cells or more and a radius above 0",
            )


@dataclass(frozen=True)
class Cosine:
    """Cosine similarity of embeddings, for tasks that learn nothing (verification, identification)."""

    features: WholeFace | None = None
    """What is seen of the tokens; None: the encoder's own pooling, and where it has none the mean of the patch
    tokens."""
    layer: int | None = None
    """Block whose tokens are used, from 0; None: the encoder's output after its final norm."""

    @property
    def name(self) -> str:
        return "cosine"


@dataclass(frozen=True)
class KNN:
    """A weighted mean of the targets of the k nearest training faces: a vote for classes, an average for values.

    Weights are exp(cosine / temperature), as in Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", 2018, section 3.4. In fold mode the neighbours come from the other folds, so never from the person
    who is being tested.
    """

    k: int = 20
    """Neighbours asked. Fewer where the training faces are fewer."""
    temperature: float = 0.07
    """Small: only the nearest count; large: all k count alike."""
    features: WholeFace | None = None
    """What is seen of the tokens; None: the encoder's own pooling, and where it has none the mean of the patch
    tokens."""
    layer: int | None = None
    """Block whose tokens are used, from 0; None: the encoder's output after its final norm."""
    standardise: bool = True
    """Centre and scale each feature with the training faces' statistics before the cosine is taken. Tokens of masked
    autoencoders share a large constant part, which otherwise makes every cosine nearly 1."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.temperature <= 0:
            raise ConfigError(
                f"k-NN with k = {self.k} and temperature {self.temperature}",
                expected="k >= 1 and a temperature above 0",
            )

    shots: FewLabels = None

    @property
    def name(self) -> str:
        return "knn"


STRENGTHS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
"""1e-6 to 1e2 in half decades."""


@dataclass(frozen=True)
class LinearProbe:
    """Ridge regression from frozen, standardised features, solved in closed form.

    Classes are regressed as one-hot targets, which needs no iterations and no learning rate. On 2,026 rendered faces
    with 12,288 features of an untrained encoder it gave 43.3 % balanced accuracy in eight expressions, logistic
    regression with its strength chosen in the same way 40.0 % (95 % interval of either: +- 3.7).

    Strengths are multiples of the mean eigenvalue of the Gram matrix, so that one grid serves 192 and 12,288 features.
    The strength is the best of the grid on the "val" people by the task's own metric (ties: the stronger); a choice at
    the edge of the grid is said in the result row.
    """

    strengths: tuple[float, ...] = STRENGTHS
    """Ridge strengths that are tried, as multiples of the mean eigenvalue of the features' Gram matrix."""
    features: Features | None = None
    """What the head sees; None: of whole faces the encoder's own pooling, and where it has none, or the task predicts
    patches, what the task asks for."""
    layer: int | None = None
    """Block whose tokens are used, from 0; None: the encoder's output after its final norm."""
    balance: bool = True
    """In tasks where each face has one class: weight the training faces so that every class counts the same. Without it
    a rare class is hardly ever answered. Other tasks are not weighted."""
    shots: FewLabels = None

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or list(self.strengths) != sorted(set(self.strengths)):
            raise ConfigError(
                f"Ridge strengths {self.strengths}", expected="at least one, above 0, increasing without repeats"
            )

    @property
    def name(self) -> str:
        return "linear"


@dataclass(frozen=True)
class AttentiveProbe:
    """A head that looks at the frozen tokens for itself: a learned query attends to them, then one linear layer.

    As in I-JEPA, V-JEPA and CAPI: AdamW, warm-up and cosine, one head for each learning rate on the same tokens; the
    best learning rate and epoch on "val" are scored once on "test". What a mean of tokens hides, it finds; where an
    encoder's patch tokens differ in what they know, it beats every fixed pooling.
    """

    head: Head = "attentive"
    """What is trained. Tasks of maps, which one vector cannot answer, get UPerNet for "attentive". The dense heads see
    the frozen tokens of several blocks."""
    epochs: int | None = None
    """Passes over the training faces; None: 30, or where these are few as many as come to 400 optimizer steps."""
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Peak learning rates that are tried, side by side."""
    faces_per_step: int = 64
    """Faces in one optimizer step."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's momenta."""
    warmup: float = 0.1
    """Share of the run with a linearly rising learning rate."""
    label_smoothing: float = 0.0
    """Cross-entropy only: probability mass spread over all classes."""
    heads: int | None = None
    """Attention heads of the pooling; None: the encoder's."""
    queries: int = field(default=1, metadata=LATER)
    """Vectors that attention takes, side by side; several know more of where things are."""
    begin: Begin = field(default="ridge", metadata=LATER)
    """What the head says before it has learned anything."""
    layer: int | None = None
    """Block whose tokens are used, from 0; None: the encoder's output after its final norm."""
    dense: Dense = field(default_factory=Dense)
    """Settings of dense heads."""
    input_size: int | None = None
    """Side of the faces it is shown; positions are interpolated where that is not the encoder's own, which None is."""
    tanh_warp: float | None = None
    """Factor of the tanh warp (FaRL: .8) of what is shown, for dense heads; points and maps are unwarped again before
    they are scored. None shows crops as they are."""
    select: Select = "val"
    """Whose faces choose learning rate and epoch."""
    shots: FewLabels = None

    def __post_init__(self) -> None:
        none = (self.epochs is not None and self.epochs < 1) or self.queries < 1
        if none or self.faces_per_step < 2 or not self.lrs or min(self.lrs) <= 0:
            raise ConfigError(
                f"A probe of {self.epochs} epochs and {self.queries} queries, {self.faces_per_step} faces per step, at "
                f"{self.lrs}",
                expected="at least one epoch and query, two faces per step and learning rates above 0",
            )

    @property
    def name(self) -> str:
        return "attentive"

    def epochs_of(self, steps: int) -> int:
        """Passes, where one is so many optimizer steps."""
        return self.epochs if self.epochs is not None else max(30, math.ceil(400 / steps))

    @property
    def starts_at_ridge(self) -> bool:
        return self.begin == "ridge" and self.tanh_warp is None

    @property
    def features(self) -> None:
        """Nothing is fixed: the head decides what it sees."""
        return None


@dataclass(frozen=True)
class FineTune:
    """Every weight of the encoder trains together with a linear head; the best epoch on "val" is scored once on "test".

    AdamW with layer-wise learning-rate decay and a cosine schedule (He et al., "Masked Autoencoders Are Scalable Vision
    Learners", 2022, table 9). Squared error on standardised targets, cross-entropy where the task has classes.
    """

    epochs: int | None = None
    """Passes over the training faces; None: 50, or where these are few as many as come to 300 optimizer steps."""
    lr_per_256: float = 1e-3
    """Peak learning rate for 256 faces per step; scaled linearly with `faces_per_step`."""
    faces_per_step: int = 64
    """Faces in one optimizer step."""
    layer_decay: float = 0.75
    """Each block below the head learns this much slower than the one above it."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's momenta."""
    warmup: float = 0.1
    """Share of the run with a linearly rising learning rate."""
    drop_path: float = 0.1
    """Probability with which the last block is skipped in training; falls linearly to 0 at the first."""
    label_smoothing: float = 0.1
    """Cross-entropy only: probability mass spread over all classes."""
    flip: float = 0.5
    """Probability of mirroring a face, where the task says what that does to its targets; else it is ignored."""
    features: Features | None = None
    """What the head sees; None: of whole faces the encoder's own pooling, and where it has none, or the task predicts
    patches, what the task asks for."""
    clip: float | None = 1.0
    """Largest global gradient norm; None does not clip."""
    head: Head = "linear"
    """What is trained with the encoder."""
    begin: Begin = field(default="ridge", metadata=LATER)
    """What the head says before anything is trained."""
    head_lr: float = 1.0
    """The head's learning rate as a multiple of the last block's."""
    head_first: float = 0.0
    """Share of the epochs in which the head alone trains, so that it does not pull the encoder astray while it knows
    nothing (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022)."""
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    """After the warm-up: half a cosine to 0, no change, or a tenth in the last third of the run."""
    ema: float | None = None
    """Decay of the moving average of weights that is evaluated instead of them; in the first steps less."""
    mixup: float = 0.0
    """Parameter of the Beta distribution from which shares of two mixed faces are drawn; 0 does not mix. One value for
    each face only, not for maps and heatmaps."""
    heads: int | None = None
    """Attention heads of an attentive head; None: the encoder's."""
    dense: Dense = field(default_factory=Dense)
    """Settings of dense heads."""
    input_size: int | None = None
    """Side of the faces it is shown; positions are interpolated where that is not the encoder's own, which None is."""
    tanh_warp: float | None = None
    """Factor of the tanh warp (FaRL: .8) of what is shown, for dense heads; points and maps are unwarped again before
    they are scored. None shows crops as they are."""
    select: Select = "val"
    """Whose faces choose the epoch."""
    shots: FewLabels = None

    def __post_init__(self) -> None:
        if not (0 <= self.head_first < 1 and self.mixup >= 0 and (self.ema is None or 0 <= self.ema < 1)):
            raise ConfigError(
                f"Fine-tuning with head first {self.head_first}, mixup {self.mixup} and ema {self.ema}",
                expected="head first and ema from 0 up to 1, mixup 0 or more",
            )
        none = self.epochs is not None and self.epochs < 1
        if none or self.faces_per_step < 1 or self.lr_per_256 <= 0 or self.head_lr <= 0:
            raise ConfigError(
                f"Fine-tuning for {self.epochs} epochs of {self.faces_per_step} faces per step at {self.lr_per_256}",
                expected="at least one epoch, one face per step and a learning rate above 0",
            )

    @property
    def name(self) -> str:
        return "fine-tune"

    def epochs_of(self, steps: int) -> int:
        """Passes, where one is so many optimizer steps."""
        return self.epochs if self.epochs is not None else max(50, math.ceil(300 / steps))

    @property
    def starts_at_ridge(self) -> bool:
        return self.begin == "ridge" and self.tanh_warp is None

    @property
    def peak_lr(self) -> float:
        return self.lr_per_256 * self.faces_per_step / 256


FARL_PARSING = FineTune(
    epochs=300,
    faces_per_step=40,
    lr_per_256=1e-4 * 256 / 40,
    head_lr=10.0,
    layer_decay=1.0,
    weight_decay=1e-5,
    warmup=0.0,
    schedule="step",
    drop_path=0.0,
    flip=0.0,
    clip=None,
    ema=0.999,
    head="upernet",
    begin="mean",
    input_size=448,
    tanh_warp=0.8,
)
"""FaRL's face parsing: 448 pixels, UPerNet at 1e-3 on an encoder at 1e-4, a tenth from epoch 200 of 300. Its own
numbers are the best epoch on test; ours choose on val."""
FARL_ALIGNMENT = replace(FARL_PARSING, epochs=150, head="heatmap", head_lr=100.0, schedule="constant", tanh_warp=None)
"""FaRL's face alignment: heatmaps at 1e-2, 150 epochs (WFLW, AFLW-19; 300W takes 250)."""

Protocol = Cosine | KNN | LinearProbe | AttentiveProbe | FineTune


def settings(protocol: Protocol) -> dict[str, Any]:
    """Every setting of a protocol under its name: what a result row says about it. `shots` only where there are any."""
    named = {"name": protocol.name, **asdict(protocol)}
    shots = getattr(protocol, "shots", None)
    if shots is None:
        named.pop("shots", None)
    else:
        named["shots"] = {"name": shots.name, **asdict(shots)}
    plain: dict[str, Any] = json.loads(json.dumps(named))
    return plain


def read_out(protocol: Protocol, pooling: Pooling | None, asked: Features = "pooled") -> Features:
    """What a protocol sees of the tokens: its own choice, else what the task asks for and the encoder was trained for.

    A task that asks for all patches side by side, because it matters where things are, gets them from every encoder,
    and the class token with them where that was trained: the mean or the class token alone would take the places away.

    Args:
        pooling: of the encoder.
        asked: by the task; "patches" is a need and not a wish, except where neighbours vote for all patches at once.
    """
    if protocol.features is not None:
        return protocol.features
    if isinstance(protocol, Cosine | KNN):
        return pooling or "pooled"
    if isinstance(protocol, AttentiveProbe):
        return "patches"
    if pooling == "whitened":  # a head that is fitted scales directions by itself
        return asked
    if asked == "concat":
        return "concat" if pooling in (None, "pooled") else "cls+concat"
    return asked if asked == "patches" or pooling is None else pooling

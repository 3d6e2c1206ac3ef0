"""How far an encoder may move while it is measured: a protocol is a value, and any task takes any of them.

`Cosine` compares embeddings and learns nothing. `KNN` and `LinearProbe` leave the encoder frozen and are deterministic:
they have no seed noise. `FineTune` trains every weight. All of them treat an untrained encoder exactly like a trained
one, because the difference between the two is the number that counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fusiform.errors import ConfigError

Features = Literal["pooled", "concat", "patches", "cls", "cls+pooled"]
"""What is seen of the tokens: the mean of the patch tokens (D,), all of them side by side (P·D,), each by itself
(P, D), the class token (D,), or the class token and that mean side by side (2D,)."""
Pooling = Literal["pooled", "cls", "cls+pooled"]
"""The forms of an encoder's own vector of a face (`fusiform.encoder.Encoder.pooling`)."""
POOLINGS: tuple[Pooling, ...] = ("pooled", "cls", "cls+pooled")
WholeFace = Literal["pooled", "concat", "cls", "cls+pooled"]


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

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or list(self.strengths) != sorted(set(self.strengths)):
            raise ConfigError(
                f"Ridge strengths {self.strengths}", expected="at least one, above 0, increasing without repeats"
            )

    @property
    def name(self) -> str:
        return "linear"


@dataclass(frozen=True)
class FineTune:
    """Every weight of the encoder trains together with a linear head; the best epoch on "val" is scored once on "test".

    AdamW with layer-wise learning-rate decay and a cosine schedule (He et al., "Masked Autoencoders Are Scalable Vision
    Learners", 2022, table 9). Squared error on standardised targets, cross-entropy where the task has classes.
    """

    epochs: int = 50
    """Passes over the training faces."""
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

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.faces_per_step < 1 or self.lr_per_256 <= 0:
            raise ConfigError(
                f"Fine-tuning for {self.epochs} epochs of {self.faces_per_step} faces per step at {self.lr_per_256}",
                expected="at least one epoch, one face per step and a learning rate above 0",
            )

    @property
    def name(self) -> str:
        return "fine-tune"

    @property
    def peak_lr(self) -> float:
        return self.lr_per_256 * self.faces_per_step / 256


Protocol = Cosine | KNN | LinearProbe | FineTune


def settings(protocol: Protocol) -> dict[str, Any]:
    """Every setting of a protocol under its name: what a result row says about it."""
    return {"name": protocol.name, **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(protocol).items()}}


def read_out(protocol: Protocol, pooling: Pooling | None, asked: Features = "pooled") -> Features:
    """What a protocol sees of the tokens: its own choice, else the encoder's pooling, else what the task asks for.

    Args:
        pooling: of the encoder.
        asked: by the task; "patches" is a need and not a wish, except where neighbours vote for all patches at once.
    """
    if protocol.features is not None:
        return protocol.features
    if isinstance(protocol, Cosine | KNN):
        return pooling or "pooled"
    return asked if asked == "patches" or pooling is None else pooling

"""LAFS: landmark-based facial self-supervised learning.

Sun, Z., Feng, C., Patras, I., Tzimiropoulos, G. "LAFS: Landmark-based Facial Self-supervised Learning for Face
Recognition", CVPR 2024. It is DINO (Caron et al., ICCV 2021) whose crops are sets of landmark patches:

    l  = landmarks of a view + jitter;      dense set: all of them;      sparse set: a few, re-drawn
    s_v = head(encoder(patches of the view at l_v)),  every set v;       t_a likewise by the teacher, dense sets a only
    L  = mean over a, v ≠ a of -sum_k q_a log softmax(s_v / 0.1),        q_a = softmax((t_a - centre) / temperature)
    centre <- 0.9 centre + 0.1 mean t

Landmarks come from a grid, from the faces' own points, or from a network that stage 1 trained with identity labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fusiform.batch import FaceBatch
from fusiform.clock import Clock, Cosine
from fusiform.errors import ConfigError
from fusiform.methods.method import Losses, Method
from fusiform.nn.dino_head import DINOHead
from fusiform.nn.landmark_patches import RELEASED_SHIFT, drawn, grid_landmarks, pulled_to_points, sample_patches
from fusiform.nn.ranks import mean_over_ranks, own_rows
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.objectives import centred_targets, self_distillation

Source = Literal["grid", "points", "cnn"]
DENSE = 2
"""Views whose sets are dense: the first ones."""


@dataclass(frozen=True)
class LandmarkSets:
    """How sets of landmarks are drawn (section 3.2, "landmark-based augmentation"), for each view of each face anew."""

    jitter: float = 5.0
    """Standard deviation, in pixels, of what is added to each coordinate; nothing is clamped."""
    sparse: int = 36
    """Landmarks of a sparse set."""
    dense_order: Literal["keep", "permute"] = "keep"
    """Whether dense sets are shuffled."""
    replace: bool = True
    """Whether a sparse set may hold a landmark twice."""

    def dense_set(self, landmarks: Tensor, rng: torch.Generator) -> Tensor:
        """(B, N, 2) -> (B, N, 2)."""
        moved = self._jittered(landmarks, rng)
        if self.dense_order == "keep":
            return moved
        B, N, _ = moved.shape
        noise = own_rows(lambda faces: torch.rand(faces, N, generator=rng), B)
        return drawn(moved, noise.argsort(1).to(moved.device))

    def sparse_set(self, landmarks: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, N, 2) -> (B, sparse, 2), in the order of the draw; and which landmarks these are, (B, sparse)."""
        moved = self._jittered(landmarks, rng)
        B, N, _ = moved.shape
        if self.replace:
            indices = own_rows(lambda faces: torch.randint(N, (faces, self.sparse), generator=rng), B)
        else:
            noise = own_rows(lambda faces: torch.rand(faces, N, generator=rng), B)
            indices = noise.argsort(1)[:, : self.sparse]
        indices = indices.to(moved.device)
        return drawn(moved, indices), indices

    def _jittered(self, landmarks: Tensor, rng: torch.Generator) -> Tensor:
        # drawn on the CPU, so that a set does not depend on the device
        B, N, _ = landmarks.shape
        noise = own_rows(lambda faces: torch.randn(faces, N, 2, generator=rng), B)
        return landmarks + (noise * self.jitter).to(landmarks)


@dataclass(frozen=True)
class Temperatures:
    """Of the two softmaxes. The teacher's goes from `first` to `teacher` in a line, epoch by epoch."""

    student: float = 0.1
    teacher: float = 0.04
    first: float = 0.07
    epochs: int = 30
    """Epochs of that line; its last one has the final value."""

    def at(self, epoch: int) -> float:
        """The teacher's in epoch `epoch`, from 0."""
        along = min(1.0, epoch / max(self.epochs - 1, 1))
        return self.first + (self.teacher - self.first) * along


class LAFS(Method):
    encoder: ViT
    centre: Tensor

    def __init__(
        self,
        encoder: ViT,
        head: DINOHead,
        *,
        source: Source,
        sets: LandmarkSets,
        sparse_views: int,
        temperatures: Temperatures,
        momentum: Cosine,
        centre_momentum: float = 0.9,
        freeze_prototypes: float = 1.0,
        teacher_dropout: bool = True,
        positions: Literal["slot", "landmark"] = "slot",
        pooling: Literal["cls", "pooled"] = "cls",
    ) -> None:
        """
        Args:
            freeze_prototypes: epochs in which the head's last layer stays as it was drawn.
            teacher_dropout: whether the teacher drops out like the student.
            positions: whose position embedding a patch of a sparse set has: that of its place in the set, or that of
                its landmark.
            pooling: what is compared: class tokens, or means of patch tokens.
        """
        super().__init__()
        self.encoder, self.head = encoder, head
        self.teacher, self.teacher_head = Teacher(encoder), Teacher(head)
        self.source, self.sets, self.views = source, sets, DENSE + sparse_views
        self.temperatures, self.momentum, self.centre_momentum = temperatures, momentum, centre_momentum
        self.freeze_prototypes, self.teacher_dropout = freeze_prototypes, teacher_dropout
        self.positions, self.pooling = positions, pooling
        if encoder.landmarks is not None:
            encoder.landmarks.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, len(head.prototypes)))
        config = encoder.config
        self.register_buffer("anchors", grid_landmarks(config.grid, config.patch_size), persistent=False)
        self.means: list[Tensor] = []
        """Mean teacher logits of this step's micro-batches."""
        self.train(self.training)

    def forward(self, batch: FaceBatch, clock: Clock) -> Losses:
        torch.manual_seed(clock.stream_of_rank("dropout"))  # dropout knows no other generator
        rng = torch.Generator().manual_seed(clock.stream("landmarks"))
        landmarks = self.landmarks(batch)
        dense = [self.sets.dense_set(landmarks[:, v], rng) for v in range(DENSE)]
        sparse = [self.sets.sparse_set(landmarks[:, v], rng) for v in range(DENSE, self.views)]
        first, others = batch.images[:, :DENSE], batch.images[:, DENSE : self.views]
        return self.losses(
            [*self.patches(first, dense), *self.patches(others, [points for points, _ in sparse])],
            clock,
            torch.cat([which for _, which in sparse]) if self.positions == "landmark" else None,
        )

    def patches(self, images: Tensor, sets: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The patches of equally large sets, cut in one gather: (B, n, p*p*3) for each of the views (B, v, 3, H, W)."""
        pixels = self.encoder.normalised(images.transpose(0, 1).flatten(0, 1))
        return sample_patches(pixels, torch.cat(list(sets)), self.encoder.config.patch_size).chunk(len(sets))

    @torch.no_grad()
    def landmarks(self, batch: FaceBatch) -> Tensor:
        """All landmarks of all views, (B, V, N, 2) in their pixels."""
        anchors: Any = self.anchors
        B, V = len(batch), self.views
        if self.source == "cnn" and self.encoder.landmarks is not None:
            clean = _given(batch.clean, "views with their own colours", "--data.keep-clean")[:, :V].flatten(0, 1)
            found: Tensor = self.encoder.landmarks(self.encoder.normalised(clean))
            return (found + RELEASED_SHIFT).unflatten(0, (B, V))  # type: ignore[no-untyped-call]
        if self.source == "points":
            points = _given(batch.landmarks, "landmarks", "--data.landmarks")[:, :V].flatten(0, 1)
            moved = pulled_to_points(anchors, points, reach=self.encoder.config.patch_size)
            return moved.unflatten(0, (B, V))  # type: ignore[no-untyped-call]
        return torch.as_tensor(anchors).expand(B, V, -1, -1)

    def losses(self, sets: Sequence[Tensor], clock: Clock, places: Tensor | None = None) -> Losses:
        """From patches that are cut out already, (B, N, p*p*3) for each dense set, then (B, n, p*p*3) for each sparse
        one.

        Args:
            places: whose position each patch of the sparse sets has, (sparse views * B, n); None: its place in the set.
        """
        teacher = self.look(self.teacher.module, self.teacher_head, [sets[:DENSE]]).detach()
        student = self.look(self.encoder, self.head, [sets[:DENSE], sets[DENSE:]], clock, places)
        temperature = self.temperatures.at(int(clock.epoch))
        targets = centred_targets(teacher, self.centre, temperature)
        loss = self_distillation(student, targets, self.temperatures.student)
        if torch.is_grad_enabled():
            self.means.append(teacher.to(self.centre.dtype).mean((0, 1)).unsqueeze(0))
        entropy = -(targets * targets.clamp_min(1e-12).log()).sum(-1).mean()
        return Losses(total=loss, parts={"divergence": loss.detach() - entropy, "target_entropy": entropy})

    def look(
        self,
        encoder: Any,
        head: Any,
        groups: Sequence[Sequence[Tensor]],
        clock: Clock | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Logits (V, B, K) of the views; one pass of the encoder for each group of equally large sets. `places` are
        those of the last group."""
        encode = encoder.encode_class if self.pooling == "cls" else encoder.encode_mean
        where = [*[None] * (len(groups) - 1), places]
        with torch.set_grad_enabled(clock is not None and torch.is_grad_enabled()):
            sets = zip(groups, where, strict=True)
            faces = torch.cat([encode(torch.cat(list(group)), at) for group, at in sets if group])
            if clock is None:
                logits = head(faces)
            else:
                logits = head(faces, train_prototypes=clock.epoch >= self.freeze_prototypes)
        return torch.as_tensor(logits).unflatten(0, (-1, len(groups[0][0])))  # type: ignore[no-untyped-call]

    def after_step(self, clock: Clock) -> None:
        """The centre follows the teacher's logits, then the teacher follows the student."""
        if self.means:
            mean = mean_over_ranks(torch.stack(self.means).mean(0))
            self.centre.lerp_(mean, 1 - self.centre_momentum)
            self.means.clear()
        self.follow(self.momentum(clock))

    def follow(self, momentum: float) -> None:
        self.teacher.follow(self.encoder, momentum)
        self.teacher_head.follow(self.head, momentum)

    def train(self, mode: bool = True) -> LAFS:
        """The landmark network never trains; the teacher drops out only where the recipe says so."""
        super().train(mode)
        if not self.teacher_dropout:
            self.teacher.eval()
        for module in (self.encoder, self.teacher.module):
            if isinstance(module, ViT) and module.landmarks is not None:
                module.landmarks.eval()
        return self


def _given(value: Tensor | None, what: str, flag: str) -> Tensor:
    if value is None:
        raise ConfigError(f"The batches have no {what}, which this source of landmarks needs", do=flag)
    return value

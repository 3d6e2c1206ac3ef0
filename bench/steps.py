"""Whole pre-training steps (forward, backward, clipping, AdamW, teacher), against the plain transcription of their
equations in float32, and against other people's masked autoencoders as they are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench import apart, peak, peers, plain
from bench.rows import Row
from fusiform.batch import FaceBatch
from fusiform.clock import Cosine
from fusiform.config import DataConfig, LoopConfig, OptimConfig, Recipe, ViewConfig, ViTConfig
from fusiform.flops import cost
from fusiform.methods.lafs import LAFS, LandmarkSets, Temperatures
from fusiform.methods.method import Method
from fusiform.nn.dino_head import DINOHead
from fusiform.nn.positions import relative_geometry
from fusiform.nn.vit import ViT
from fusiform.recipes.camd import CAMDConfig
from fusiform.recipes.lafs import FVIT_SIZES
from fusiform.recipes.mae_face import MAEFaceConfig
from fusiform.training import Training
from fusiform.world import World

MINI = ViTConfig(image_size=64, patch_size=8, width=192, depth=12, heads=3)
MINI_112 = replace(MINI, image_size=112)
BASE = ViTConfig()
MINI_MAE = MAEFaceConfig(decoder_width=96, decoder_depth=4, decoder_heads=3)
CAMD_VIT = replace(MINI_112, final_norm=False)
CAMD_MINI = CAMDConfig(decoder_width=192, decoder_heads=16)
FP32, BF16 = "fp32", "bf16"
SAME = 1e-6
"""Largest relative difference of the two ways' MAE losses in fp32."""


def recipe(name: str, method: Any, vit: ViTConfig, precision: str, **optim: Any) -> Recipe:
    views = 2 if name == "camd" else 10 if name == "lafs" else 1
    return Recipe(
        name=name,
        method=method,
        vit=vit,
        data=DataConfig(more_views=(ViewConfig(),) * (views - 1), keep_clean=name == "lafs"),
        optim=OptimConfig(epochs=100, warmup_epochs=0, faces_per_step=256, lr_per_256=1e-4, **optim),
        loop=LoopConfig(device="cpu", precision=precision, threads=1),  # type: ignore[arg-type]
    )


def faces(batch: int, views: int, size: int) -> FaceBatch:
    images = torch.randint(0, 256, (batch, views, 3, size, size), dtype=torch.uint8)
    boxes = torch.tensor([[0.2, 0.1, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0]]).repeat(batch, views // 2 or 1, 1)[:, :views]
    flipped = torch.rand(batch, views) < 0.5
    return FaceBatch(images, torch.arange(batch), boxes, flipped, clean=images, template="loose")


def our_step(of: Recipe, method: Method, batch: FaceBatch) -> Callable[[], Tensor]:
    """What a run does in a step, by the run's own code; returns the loss."""
    world = World.start(of.loop)
    world.stop.restore()
    training = Training(of, method, 100, world)
    clock = training.clock(1)

    def step() -> Tensor:
        return training.step(batch, clock, world)["loss"]

    return step


def plain_step(
    module: nn.Module,
    loss: Callable[[], Tensor],
    *,
    precision: str = FP32,
    before: Callable[[], None] = lambda: None,
    clip: Callable[[], object] = lambda: None,
) -> Callable[[], float]:
    optimizer = plain.default_adamw(module)

    def step() -> float:
        before()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == BF16):
            value = loss()
        value.backward()
        clip()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def held_to_one_loss(what: str, ours: float, theirs: float, tolerance: float) -> None:
    if not abs(ours - theirs) <= tolerance * abs(theirs):
        raise AssertionError(f"{what}: the two ways have losses {ours:.7g} and {theirs:.7g}")


# --- MAE --------------------------------------------------------------------------------------------------------------


def mae(
    vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str, theirs: str = FP32
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """The plain step in the precision `theirs`, ours in `precision`, and the useful operations of a step."""
    of = recipe("mae", method, vit, precision)
    torch.manual_seed(0)
    shown, own, other = faces(batch, 1, vit.image_size), method.build(vit), method.build(vit)
    other.load_state_dict(own.state_dict())
    images = own.encoder.normalised(shown.images[:, 0])
    ours = our_step(of, own, shown)
    seed = Training(of, method.build(vit), 100).clock(1).stream("mask")
    with torch.no_grad():
        noise = torch.rand(batch, vit.patches, generator=torch.Generator().manual_seed(seed))
        expected = plain.mae_loss(other, images, noise).item()
    held_to_one_loss("MAE", float(ours()), expected, SAME if precision == FP32 else 5e-3)  # type: ignore[arg-type]
    step = plain_step(other, lambda: plain.mae_loss(other, images, torch.rand(batch, vit.patches)), precision=theirs)
    return step, ours, cost(of).training * batch


def mae_plain(vit: ViTConfig, method: MAEFaceConfig, batch: int) -> Callable[[], object]:
    module, images = method.build(vit), torch.randn(batch, 3, vit.image_size, vit.image_size)
    return plain_step(module, lambda: plain.mae_loss(module, images, torch.rand(batch, vit.patches)))


def mae_ours(
    vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str, threads: int = 1
) -> Callable[[], object]:
    of = recipe("mae", method, vit, precision)
    of = replace(of, loop=replace(of.loop, threads=threads))
    return our_step(of, method.build(vit), faces(batch, 1, vit.image_size))


def t6() -> Iterator[Row]:
    with apart.child("plain") as theirs, apart.child("ours") as ours:
        what = "T2's first row, plain with the default malloc, in two processes"
        yield Row("T6", what, theirs, ours, 2.6 * 1.05, 3.2 * 1.22, 64)


def t17() -> Iterator[Row]:
    """Of wall time: says something on an idle machine alone."""
    two = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    spin = {**two, "GOMP_SPINCOUNT": "2000"}
    for faces in (64, 256):
        with apart.child(f"ours-1-{faces}") as one:
            what = f"MAE step, 64 px, {faces} faces"
            for how, several, must in (
                ("two threads", apart.child(f"ours-2-{faces}", two), 1.8),
                ("two threads that wait a moment awake", apart.child(f"ours-2-{faces}", spin), None),
                ("two ranks, a step of their own each", apart.ranks(f"ours-1-{faces}", 2), 1.8),
            ):
                with several as both:
                    one(), both()  # processes have started, and sleep
                    others = peak.busy_cores()
                    note = f"wall time, {others:.2f} cores busy with others before it"
                    note += "; not idle: proves nothing" if others > 0.1 else ""
                    stretch = None if must is None else 2.0
                    yield Row("T17", f"{what}, {how}", one, both, must, stretch, faces * 5, note=note)


def t1() -> Iterator[Row]:
    step, ours, flops = mae(MINI, MINI_MAE, 64, FP32)
    yield Row("T1", "MAE step, 64 px, width 192, 64 faces, fp32", step, ours, 1.65, 1.95, 64, flops)


def t2() -> Iterator[Row]:
    for vit, batch in ((MINI, 64), (MINI_112, 32)):
        step, ours, flops = mae(vit, MINI_MAE, batch, BF16)
        what = f"MAE step, {vit.image_size} px, width 192, {batch} faces, bf16"
        yield Row("T2", what, step, ours, 2.6, 3.2, batch, flops)


def t3() -> Iterator[Row]:
    step, ours, flops = mae(BASE, MAEFaceConfig(), 8, BF16)
    yield Row("T3", "MAE step, ViT-B/16 at 224 px, 8 faces, bf16", step, ours, 3.3, 3.7, 8, flops, slow=True)


def t4() -> Iterator[Row]:
    step, ours, flops = mae(BASE, MAEFaceConfig(), 8, BF16, theirs=BF16)
    yield Row("T4", "the same, against the plain step in bf16 too", step, ours, 1.08, 1.3, 8, flops, slow=True)


def t5() -> Iterator[Row]:
    for name, build in (("Hugging Face", peers.hugging_face), ("lightly", peers.lightly), ("timm", peers.timm_blocks)):
        try:
            theirs = build(MINI, MINI_MAE, 64, BF16)
        except ImportError as error:
            yield Row("T5", f"MAE step against {name}: not installed ({error.name})", int, int)
            continue
        _, ours, flops = mae(MINI, MINI_MAE, 64, BF16)
        must, stretch = (None, None) if name == "timm" else (1.6, 2.0)
        what = f"MAE step, 64 px, width 192, against {name}, both bf16"
        yield Row("T5", what, theirs, ours, must, stretch, 64, flops)


# --- CAMD, LAFS -------------------------------------------------------------------------------------------------------


def t7() -> Iterator[Row]:
    for precision, must, stretch in ((FP32, 1.75, 2.0), (BF16, 2.6, 3.2)):
        step, ours, flops = camd(precision)
        yield Row("T7", f"CAMD step, 112 px, width 192, 8 faces, {precision}", step, ours, must, stretch, 8, flops)


def camd(precision: str, batch: int = 8) -> tuple[Callable[[], object], Callable[[], object], float]:
    of = recipe("camd", CAMD_MINI, CAMD_VIT, precision)
    torch.manual_seed(0)
    shown, own, other = faces(batch, 2, CAMD_VIT.image_size), CAMD_MINI.build(CAMD_VIT), CAMD_MINI.build(CAMD_VIT)
    other.load_state_dict(own.state_dict())
    crop, face = (own.encoder.normalised(shown.images[:, v]) for v in range(2))
    geometry = relative_geometry(shown.boxes, shown.flipped)
    clock = Training(of, CAMD_MINI.build(CAMD_VIT), 100).clock(1)

    def loss() -> Tensor:
        mask = other.masker(batch, CAMD_VIT.patches, clock.stream("mask"), crop.device)
        return plain.camd_loss(other, crop, face, mask, geometry)

    def follow() -> None:
        plain.average(other.teacher.module, other.encoder, 0.995)
        plain.average(other.teacher_projector.module, other.projector, 0.995)

    expected = loss().item()  # with gradients on: batch statistics are those of training either way
    ours = our_step(of, own, shown)
    held_to_one_loss("CAMD", float(ours()), expected, 1e-5 if precision == FP32 else 5e-3)  # type: ignore[arg-type]
    return plain_step(other, loss, before=follow), ours, cost(of).training * batch


def t9() -> Iterator[Row]:
    for precision, must, stretch in ((FP32, 1.65, 1.9), (BF16, 2.5, 3.0)):
        step, ours = lafs(precision)
        what = f"LAFS step, 10 views, width 192, 16,384 prototypes, 4 faces, {precision}"
        yield Row("T9", what, step, ours, must, stretch, 4)


LAFS_VIT = replace(FVIT_SIZES["tiny"], landmark_cnn=True)


def build_lafs() -> LAFS:
    """As the release's, without dropout, so that both ways can be held to one loss."""
    return LAFS(
        ViT(LAFS_VIT),
        DINOHead(LAFS_VIT.width, 16_384),
        source="cnn",
        sets=LandmarkSets(replace=True),
        sparse_views=8,
        temperatures=Temperatures(),
        momentum=Cosine(peak=0.996, end=1.0),
        freeze_prototypes=0.0,
    )


def lafs(precision: str, batch: int = 4) -> tuple[Callable[[], object], Callable[[], object]]:
    of = recipe("lafs", MAEFaceConfig(), LAFS_VIT, precision, clip_each=3.0)
    torch.manual_seed(0)
    shown, own, other = faces(batch, 10, LAFS_VIT.image_size), build_lafs(), build_lafs()
    other.load_state_dict(own.state_dict())
    views = [own.encoder.normalised(shown.images[:, v]) for v in range(own.views)]
    seed = Training(of, build_lafs(), 100).clock(1).stream("landmarks")
    temperature = own.temperatures.at(0)
    teachers: list[Tensor] = []

    def loss() -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        N, sets = LAFS_VIT.patches, own.sets
        noise, indices = [], []
        for v in range(own.views):
            noise.append(torch.randn(batch, N, 2, generator=rng) * sets.jitter)
            if v >= 2:
                indices.append(torch.randint(N, (batch, sets.sparse), generator=rng))
        teacher, student = plain.lafs_logits(other, views, views, plain.Draws(noise, indices))
        teachers.append(teacher.float())
        targets = ((teacher.float() - other.centre) / temperature).softmax(-1)
        return plain.pairwise_distillation(
            student.unflatten(0, (own.views, batch)), targets.unflatten(0, (2, batch)), own.temperatures.student
        )

    expected = loss().item()
    ours = our_step(of, own, shown)
    held_to_one_loss("LAFS", float(ours()), expected, 1e-5 if precision == FP32 else 5e-3)  # type: ignore[arg-type]
    step = plain_step(other, loss, clip=lambda: plain.clip_one_by_one(other, 3.0))

    def whole() -> object:
        value = step()
        with torch.no_grad():
            other.centre.mul_(0.9).add_(teachers.pop().mean(0, keepdim=True) * 0.1)
            teachers.clear()
            pairs = ((other.teacher, other.encoder), (other.teacher_head, other.head))
            for teacher, student in pairs:
                for k, q in zip(teacher.module.parameters(), student.parameters(), strict=True):
                    k.data.mul_(0.996).add_((1 - 0.996) * q.detach().data)
        return value

    return whole, ours

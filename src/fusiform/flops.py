"""What a recipe costs: training FLOPs a face, counted on its own forward and backward pass; parameters; memory.

A multiply-add is two operations. Counted is what `torch.utils.flop_counter` counts: matrix products and convolutions,
forward and backward, of everything that runs in a step: student, teacher, further views, decoders, frozen networks.
Elementwise work (norms, activations, softmax, the optimizer, the teacher's averaging, augmentation) is not counted; in
a ViT it is a few per cent of the arithmetic, and more than that of the time.

The products themselves are left out while counting (`Hollow`): a pass then costs what its elementwise operations cost,
and everything that depends on values or on random draws still runs as it does in training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fusiform.batch import FaceBatch
from fusiform.clock import Clock
from fusiform.config import Recipe, ViTConfig
from fusiform.methods.method import Method
from fusiform.nn.teacher import Teacher
from fusiform.nn.vit import ViT
from fusiform.optim import in_block, muon_flops

SMALL = (2, 4, 6)
"""Micro-batches that are counted. A larger one follows from them by the polynomial of degree two through the three:
losses that compare faces with faces are quadratic in the faces, all else is linear or the same for any number."""
BUILT = 3 * 10**7
"""Parameters up to which a method is built as it is; larger ones are built without values."""
NOMINAL_PEOPLE = 93_431
"""People that are counted where a recipe tells apart as many as its set has, and there is no set: those of MS1MV3."""
_MAX_ZEROED = 2**22
"""Elements up to which a left-out product is zeros; larger ones (gradients of weights) are left as they come."""


@dataclass(frozen=True)
class Parameters:
    """How many numbers a method holds."""

    encoder: int
    trained: int
    """Those that the optimizer moves; the encoder's are among them."""
    teacher: int
    """Averages of others: teachers."""
    frozen: int
    """Everything else that never moves: position tables, feature networks."""

    @property
    def total(self) -> int:
        return self.trained + self.teacher + self.frozen


@dataclass(frozen=True)
class Memory:
    """Bytes in fp32."""

    weights: int
    """All parameters and buffers, teacher and frozen networks included."""
    gradients: int
    optimizer: int
    """Two moments, and the averaged encoder where the recipe keeps one."""
    activations: float
    """Per face: what autograd keeps of a forward pass, each storage once. Under bf16 autocast about half of it."""

    @property
    def fixed(self) -> int:
        return self.weights + self.gradients + self.optimizer


@dataclass(frozen=True)
class Cost:
    """What a recipe costs."""

    training: float
    """FLOPs a face: forward and backward of the whole method, in micro-batches of `micro_batch`."""
    forward: float
    """The part of it that is forward."""
    inference: int
    """FLOPs of the finished encoder for one face."""
    micro_batch: int
    """Faces that the losses see at once."""
    parameters: Parameters
    memory: Memory
    update: float = 0.0
    """FLOPs of an update of the weights that are worth counting: Muon's matrix products."""

    def of_step(self, recipe: Recipe) -> float:
        """FLOPs of one optimizer step."""
        return self.training * recipe.optim.faces_per_step + self.update


class Hollow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Matrix products and convolutions give zeros of the right shape; everything else is computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "mm":
            return _blank(args[0], (args[0].shape[0], args[1].shape[1]))
        if name == "addmm":
            return _blank(args[1], (args[1].shape[0], args[2].shape[1]))
        if name in ("bmm", "baddbmm"):
            a, b = args[-2:]
            if "out" in kwargs:
                return kwargs["out"].zero_()
            return _blank(a, (*a.shape[:2], b.shape[2]))
        if name in ("convolution", "convolution_backward"):
            with torch.device("meta"):
                shapes = func(*(a.to("meta") if isinstance(a, Tensor) else a for a in args), **kwargs)
            if isinstance(shapes, Tensor):
                return _blank(args[0], tuple(shapes.shape))
            return tuple(None if s is None else _blank(args[0], tuple(s.shape)) for s in shapes)
        return func(*args, **kwargs)


def _hollow() -> Hollow:
    return Hollow()  # type: ignore[no-untyped-call]  # torch has not typed its dispatch modes


def _blank(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    out = like.new_empty(shape)
    return out.zero_() if out.numel() <= _MAX_ZEROED else out


def cost(recipe: Recipe) -> Cost:
    """Count a recipe.

    Raises:
        ConfigError: what the method's own `build` refuses, such as a frozen encoder that is named and not there.
    """
    if getattr(recipe.method, "people", 0) is None:
        recipe = replace(recipe, method=replace(recipe.method, people=NOMINAL_PEOPLE))
    method = _build(recipe)
    size = recipe.loop.faces_per_micro_batch or recipe.optim.faces_per_step
    counts = [_count(recipe, method, n) for n in SMALL]
    forward, total = (_extrapolate(SMALL, each, size) for each in zip(*[c[:2] for c in counts], strict=True))
    kept = (counts[-1][2] - counts[0][2]) / (SMALL[-1] - SMALL[0])  # what does not grow with the faces is no face's
    return Cost(
        training=total / size,
        forward=forward / size,
        inference=inference_flops(recipe.vit),
        micro_batch=size,
        parameters=count_parameters(method),
        memory=_memory(recipe, method, kept),
        update=0.0
        if recipe.optim.muon is None
        else float(muon_flops((n, p) for n, p in method.named_parameters() if in_block(n, p))),
    )


def inference_flops(vit: ViTConfig) -> int:
    """FLOPs of an encoder's forward pass over one face."""
    with torch.device("meta"):
        encoder = ViT(vit)
    return forward_flops(_materialised(encoder), torch.zeros(1, 3, vit.image_size, vit.image_size, dtype=torch.uint8))


def forward_flops(module: nn.Module, images: Tensor) -> int:
    """FLOPs of `module(images)`, in evaluation mode and without gradient."""
    module.eval()
    with torch.no_grad(), _hollow(), FlopCounterMode(display=False) as counter:
        module(images)
    return int(counter.get_total_flops())


def training_flops(module: nn.Module, images: Tensor) -> int:
    """FLOPs of `module(images)` and of the gradient of its sum."""
    module.train()
    with _hollow(), FlopCounterMode(display=False) as counter:
        module(images).sum().backward()
    return int(counter.get_total_flops())


def count_parameters(method: Method) -> Parameters:
    """Parameters by what becomes of them."""
    teacher = {id(p) for m in method.modules() if isinstance(m, Teacher) for p in m.parameters()}
    everything = {id(p): p for m in (method, *_unregistered(method)) for p in m.parameters()}
    trained = sum(p.numel() for p in everything.values() if p.requires_grad)
    taught = sum(p.numel() for i, p in everything.items() if i in teacher)
    return Parameters(
        encoder=sum(p.numel() for p in method.encoder.parameters()),
        trained=trained,
        teacher=taught,
        frozen=sum(p.numel() for p in everything.values()) - trained - taught,
    )


def _build(recipe: Recipe) -> Method:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        method: Method = recipe.method.build(recipe.vit)
    numbers = sum(p.numel() for m in (method, *_unregistered(method)) for p in m.parameters())
    if numbers <= BUILT and not any(p.is_meta for m in _unregistered(method) for p in m.parameters()):
        with torch.random.fork_rng(devices=[]):
            built: Method = recipe.method.build(recipe.vit)
        return built
    return _materialised(method)


def _materialised(method: Any) -> Any:
    """A module that was built without values, with memory of the right shapes."""

    def real(t: Tensor) -> Tensor:
        if not t.is_meta:
            return t
        out = torch.empty_like(t, device="cpu")
        return out.zero_() if out.numel() <= _MAX_ZEROED else out

    with torch.no_grad():
        return method._apply(real)


def _unregistered(method: nn.Module) -> Iterator[nn.Module]:
    """Networks that a module keeps out of its parameters on purpose, in a tuple: frozen ones."""
    for module in method.modules():
        for value in vars(module).values():
            if isinstance(value, tuple):
                yield from (m for m in value if isinstance(m, nn.Module))


def _count(recipe: Recipe, method: Method, faces: int) -> tuple[int, int, int]:
    """FLOPs of a forward pass, of forward and backward, and bytes kept between the two."""
    kept: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (*method.parameters(), *method.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    method.train()
    clock = Clock(0, 1000, seed=0, steps_per_epoch=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = _batch(recipe, faces)
        with _hollow(), FlopCounterMode(display=False) as counter:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
                losses = method(batch, clock)
            forward = int(counter.get_total_flops())
            losses.total.backward()
    method.zero_grad(set_to_none=True)
    return forward, int(counter.get_total_flops()), sum(kept.values())


def _batch(recipe: Recipe, faces: int) -> FaceBatch:
    """Noise in the form of faces, with points spread over each view."""
    views, side = len(recipe.data.views), recipe.vit.image_size
    shape = (faces, views, 3, side, side)
    return FaceBatch(
        images=torch.randint(0, 256, shape, dtype=torch.uint8),
        ids=torch.arange(faces),
        boxes=torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(faces, views, 4).contiguous(),
        flipped=torch.zeros(faces, views, dtype=torch.bool),
        landmarks=torch.rand(faces, views, 68, 2) * side if recipe.data.landmarks else None,
        clean=torch.randint(0, 256, shape, dtype=torch.uint8) if recipe.data.keep_clean else None,
        people=torch.zeros(faces, dtype=torch.int64) if recipe.data.people else None,
        template="loose",
    )


def _extrapolate(sizes: tuple[int, ...], counts: tuple[int, ...], at: int) -> float:
    """The polynomial through the points (Lagrange), at `at`."""
    total = 0.0
    for i, x in enumerate(sizes):
        weight = 1.0
        for j, other in enumerate(sizes):
            if i != j:
                weight *= (at - other) / (x - other)
        total += counts[i] * weight
    return total


def _memory(recipe: Recipe, method: Method, kept: float) -> Memory:
    held = [t for m in (method, *_unregistered(method)) for t in (*m.parameters(), *m.buffers())]
    unique = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
    moved = {name: p for name, p in method.named_parameters() if p.requires_grad}
    trained = sum(4 * p.numel() for p in moved.values())
    moments = sum((4 if recipe.optim.muon is not None and in_block(n, p) else 8) * p.numel() for n, p in moved.items())
    averaged = sum(4 * p.numel() for p in method.encoder.parameters()) if recipe.optim.ema is not None else 0
    return Memory(sum(unique.values()), trained, moments + averaged, kept)

"""`Training`: what moves while a run goes on, and one step of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fusiform.batch import FaceBatch
from fusiform.clock import Clock, Cosine
from fusiform.compiled import drop_torn
from fusiform.config import Recipe
from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, Diverged, WeightsError
from fusiform.faces.faceset import FaceSet
from fusiform.ledger_rights import for_card, rights_of_set
from fusiform.methods.method import Losses, Method
from fusiform.nn.ranks import local
from fusiform.nn.teacher import Teacher
from fusiform.optim import (
    adamw,
    clip_and_norm,
    clip_each,
    in_block,
    load_optimizer_tensors,
    muon,
    optimizer_tensors,
    set_lr,
    set_weight_decay,
)
from fusiform.parallel import Spread, checkpoint_activations, whole_vit
from fusiform.world import World


def optimizers(
    trained: Mapping[str, nn.Parameter], recipe: Recipe, method: Method
) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW; and Muon for the matrices of blocks, if the recipe asks for it."""
    optim = recipe.optim
    matrices = {n: p for n, p in trained.items() if optim.muon is not None and in_block(n, p)}
    if matrices and optim.layer_decay is not None:
        raise ConfigError("Layer decay and Muon at once", do="leave out --optim.muon or --optim.layer-decay")
    others = adamw(
        [(name, parameter) for name, parameter in trained.items() if name not in matrices],
        lr=optim.peak_lr,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        layer_decay=optim.layer_decay,
        depth=recipe.vit.depth,
        no_decay=method.no_decay,
        decay_shares=method.decay_shares,
    )
    if not matrices or optim.muon is None:
        return (others,)
    return others, muon(matrices.items(), optim.peak_lr, optim.weight_decay, optim.muon)


class Training:
    """What moves while a run goes on: method, optimizer, averaged encoder. All of it is in every checkpoint."""

    def __init__(self, recipe: Recipe, method: Method, steps_per_epoch: int, world: World | None = None) -> None:
        """
        Args:
            world: None: one process, as in tests of a method.
        """
        self.recipe, self.method, self.steps_per_epoch = recipe, method, steps_per_epoch
        optim = recipe.optim
        if len(recipe.data.views) != method.views:
            raise ConfigError(
                f"The recipe shows {len(recipe.data.views)} views of each face and its method takes {method.views}",
                do=f"give {method.views - 1} entries to `more_views` of the recipe's data",
            )
        self.total_steps = round(optim.epochs * steps_per_epoch)
        if self.total_steps < 1:
            raise ConfigError(f"{optim.epochs} epochs are less than one step", do="raise --optim.epochs")
        share = optim.faces_per_step / 256
        self.lr = Cosine(
            peak=optim.peak_lr, end=optim.end_lr_per_256 * share, warmup=optim.warmup_epochs / optim.epochs
        )
        decay, end = optim.weight_decay, optim.end_weight_decay
        self.weight_decay = Cosine(peak=decay, end=decay if end is None else end)
        self.averaged = Teacher(method.encoder) if optim.ema is not None else None
        if recipe.loop.activation_checkpointing:
            checkpoint_activations(method)
        self.spread = Spread(method, self.averaged, world, recipe.loop.sharding) if world else None
        self.trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        self.optimizers = optimizers(self.trained, recipe, method)
        self.last_good: Path | None = None
        """Newest checkpoint: what an error names."""
        if recipe.loop.compile:
            from torch._inductor.runtime.cache_dir_utils import cache_dir

            drop_torn(Path(cache_dir()))
            blocks: Any = method.encoder.blocks
            for block in blocks:  # in place, so that parameter names stay
                block.compile()

    def clock(self, step: int, rank: int = 0) -> Clock:
        return Clock(step, self.total_steps, self.recipe.optim.seed, self.steps_per_epoch, rank)

    def step(self, batch: FaceBatch, clock: Clock, world: World) -> dict[str, Tensor]:
        """One optimizer step. Returns what there is to log of this rank, still as tensors: reading them can wait."""
        torch.manual_seed(clock.stream_of_rank("torch"))
        self.method.train()
        for optimizer in self.optimizers:
            set_lr(optimizer, self.lr(clock))
            set_weight_decay(optimizer, self.weight_decay(clock))
        losses = self._backward(batch, clock, world)
        # only a lone optimizer may divide gradients by itself, where nobody looks at them after they were clipped
        lone = self.optimizers[0] if len(self.optimizers) == 1 and self.recipe.optim.clip_each is None else None
        norm = clip_and_norm(self.trained.values(), self.recipe.optim.clip, optimizer=lone)
        if not torch.isfinite(norm):
            raise self._diverged(losses, norm, batch, clock)
        if self.recipe.optim.clip_each is not None:
            clip_each(self.trained.values(), self.recipe.optim.clip_each)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.method.after_step(clock)
        if self.averaged is not None:
            self.averaged.follow(self.method.encoder, self.recipe.optim.ema or 0.0)
        return {"loss": losses.total, **losses.parts, "lr": torch.tensor(self.lr(clock)), "gradient_norm": norm}

    def _backward(self, batch: FaceBatch, clock: Clock, world: World) -> Losses:
        """Gradients of the mean loss over the step's micro-batches, and those losses' means."""
        spread = self.spread = self.spread or Spread(self.method, None, world, "ddp")
        size = self.recipe.loop.faces_per_micro_batch or len(batch)
        count = len(batch) // size
        total = torch.zeros((), device=batch.images.device)
        parts: dict[str, Tensor] = {}
        with world.casting_once() if count > 1 and not self.sharded else contextlib.nullcontext():
            for i in range(count):
                with spread.accumulating(last=i + 1 == count):
                    with world.autocast():
                        losses = spread(batch.rows(i * size, (i + 1) * size), clock.at_micro_batch(i))
                    torch.autograd.backward(losses.total / count)
                total += losses.total.detach() / count
                for name, value in losses.parts.items():
                    parts[name] = parts.get(name, 0.0) + value / count
        return Losses(total, parts)

    def _diverged(self, losses: Losses, norm: Tensor, batch: FaceBatch, clock: Clock) -> Diverged:
        gradients = {f"gradient of {n}": local(p.grad) for n, p in self.trained.items() if p.grad is not None}
        bad = [name for name, value in {"loss": losses.total, **losses.parts}.items() if not torch.isfinite(value)]
        bad += [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        faces = ", ".join(str(i) for i in batch.ids[:8].tolist())
        return Diverged(
            f"The gradient norm is {norm.item()} at step {clock.step} (not finite: {', '.join(bad[:3]) or 'the norm'}; "
            f"loss {losses.total.item():.4g}, lr {self.lr(clock):.3g}), rows {faces}, ... of the set's index. "
            f"Last good checkpoint: {self.last_good or 'none yet'}",
            expected="finite numbers; this step changed no weight",
            do="lower --optim.lr-per-256 or set --optim.clip 1.0 in a new run; look at those rows",
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, by name; under FSDP this rank's parts of it."""
        named = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        named |= {f"optimizer.{k}": v for k, v in optimizer_tensors(self.optimizers, self.trained).items()}
        if self.averaged is not None:
            named |= {f"averaged.{k}": v for k, v in self.averaged.state_dict().items()}
        return named

    @property
    def sharded(self) -> bool:
        """Whether `tensors` are parts, and a checkpoint is written by all ranks."""
        return self.spread is not None and self.spread.kind == "fsdp"

    def like(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """An empty tensor for an entry of a checkpoint, sharded as it is here."""
        own = self.method.state_dict(prefix="method.")
        if self.averaged is not None:
            own |= self.averaged.state_dict(prefix="averaged.")
        parameter, _, quantity = name.removeprefix("optimizer.").rpartition(".")
        if name.startswith("optimizer.") and quantity != "step" and parameter in self.trained:
            return torch.zeros_like(self.trained[parameter], dtype=dtype)
        if name in own and own[name].shape == shape:
            return torch.zeros_like(own[name])
        return torch.empty(shape, dtype=dtype)

    def restore(self, tensors: dict[str, Tensor], folder: Path) -> None:
        """Take over the state that the checkpoint in `folder` has."""
        modules: dict[str, nn.Module] = {"method": self.method}
        if self.averaged is not None:
            modules["averaged"] = self.averaged
        for prefix, module in modules.items():
            own = {k.removeprefix(prefix + "."): v for k, v in tensors.items() if k.startswith(prefix + ".")}
            try:
                module.load_state_dict(own, strict=True)
            except RuntimeError as error:
                raise WeightsError(f"Checkpoint {folder} does not fit the recipe: {error}") from error
        moments = {k.removeprefix("optimizer."): v for k, v in tensors.items() if k.startswith("optimizer.")}
        load_optimizer_tensors(self.optimizers, self.trained, moments)

    def encoder(self, faces: FaceSet) -> Encoder:
        """The product: the averaged encoder where there is one, else the trained one."""
        vit: Any = self.method.encoder if self.averaged is None else self.averaged.module
        if self.sharded:
            vit = whole_vit(vit)
        card = {
            "recipe": self.recipe.name,
            "about": self.recipe.about,
            "identity": self.recipe.identity,
            "seed": self.recipe.optim.seed,
            "steps": self.total_steps,
            "faces_seen": self.total_steps * self.recipe.optim.faces_per_step,
            "faces": describe(faces),
            "licences_of_faces": faces.info.get("licences", {}),
            **({} if not (found := rights_of_set(faces.folder, self.recipe.data.split)) else for_card(found)),
        }
        return Encoder(
            vit.eval(),
            faces.crop,
            name=self.recipe.name,
            card=card,
            pooling="whitened" if vit.whitening is not None else self.method.pooling,
        )


def describe(faces: FaceSet) -> dict[str, Any]:
    """What a run's config says about its faces."""
    return {"name": faces.name, "digest": faces.digest, "faces": len(faces), "crop": faces.crop.to_dict()}

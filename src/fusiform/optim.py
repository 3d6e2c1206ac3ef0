"""How weights move: parameter groups, AdamW, Muon, clipping, and the optimizers' state as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from fusiform.errors import DataError, did_you_mean
from fusiform.nn.ranks import is_sharded, local, sum_over_ranks

TOKENS = ("cls_token", "dist_token", "pos_embed", "mask_token")
"""Not decayed in MAE's fine-tuning, although they have two and more dimensions. In its pre-training they are."""

_FUSED = ("cpu", "cuda", "mps", "xpu")


def vit_layer(name: str, depth: int) -> int:
    """The layer of a ViT's parameter: 0 for tokens, positions, patches and landmarks; i + 1 for block i; depth + 1 for
    the rest.

    `name` may have a prefix ("encoder.blocks.3.norm1.weight"). Source: BEiT, and MAE's fine-tuning after it.
    """
    parts = name.split(".")
    if "blocks" in parts and parts[parts.index("blocks") + 1].isdigit():
        return int(parts[parts.index("blocks") + 1]) + 1
    if parts[-1] in TOKENS or "patch_embed" in parts or "landmarks" in parts:
        return 0
    return depth + 1


def adamw(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    *,
    layer_decay: float | None = None,
    depth: int | None = None,
    no_decay: Collection[str] = (),
    decay_shares: Mapping[str, float] = MappingProxyType({}),
    layer_of: Callable[[str, int], int] = vit_layer,
) -> torch.optim.AdamW:
    """AdamW over the parameters that train, in as few groups as their settings allow.

    Biases, norms and everything else with one dimension are not decayed. With `layer_decay` = d, a parameter of layer i
    has the learning rate lr * d^(depth + 1 - i); the factor is its group's `lr_scale`, which `set_lr` honours.

    Args:
        named_parameters: as `module.named_parameters()` gives them; those without `requires_grad` are left out.
        lr: learning rate of the last layer.
        weight_decay: decoupled, per step multiplied by the learning rate (AdamW).
        betas: momenta.
        layer_decay: None for one learning rate.
        depth: number of the encoder's blocks; needed with `layer_decay`.
        no_decay: last parts of names that are not decayed besides (`TOKENS` for MAE's fine-tuning).
        decay_shares: beginnings of names whose weight decay is this share of the others'.
        layer_of: (name, depth) -> layer in 0..depth + 1.
    """
    if layer_decay is not None and depth is None:
        raise ValueError("layer_decay needs depth")
    # sharded parameters and whole ones are stepped apart: no fused kernel takes both at once
    groups: dict[tuple[float, float, bool], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1 and not name.endswith(".bias") and name.split(".")[-1] not in no_decay
        share = next((s for start, s in decay_shares.items() if name.startswith(start)), 1.0) if decayed else 0.0
        scale = 1.0
        if layer_decay is not None and depth is not None:
            scale = layer_decay ** (depth + 1 - layer_of(name, depth))
        groups.setdefault((scale, share, is_sharded(parameter)), []).append((name, parameter))
    parameters = [p for group in groups.values() for _, p in group]
    fused = bool(parameters) and all(p.device.type in _FUSED and p.is_floating_point() for p in parameters)
    return torch.optim.AdamW(
        [
            {
                "params": named,
                "lr": lr * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay * share,
                "decay_share": share,
            }
            for (scale, share, _), named in groups.items()
        ],
        lr=lr,
        betas=betas,
        fused=fused,
    )


def in_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether this is a matrix of a transformer block, the encoder's or a decoder's: what Muon moves."""
    return parameter.ndim == 2 and any(part.endswith("blocks") for part in name.split("."))


def muon(
    named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float, factor: float
) -> torch.optim.Muon:
    """Muon over matrices: momentum of .95 with Nesterov's look ahead, then the nearest matrix whose singular values are
    all alike (Jordan et al. 2024; torch's implementation, five Newton-Schulz steps in bf16).

    An update is as long as AdamW's usually is (.2 sqrt(larger side), Liu et al., "Muon is Scalable for LLM Training",
    arXiv 2502.16982, section 2.2) times `factor`. Weight decay is that of AdamW at `lr`.

    Args:
        named_parameters: matrices; those without `requires_grad` are left out.
        factor: on `lr`, the group's `lr_scale`.
    """
    group = {
        "params": [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad],
        "lr": lr * factor,
        "lr_scale": factor,
        "weight_decay": weight_decay / factor,
        "decay_share": 1 / factor,
    }
    return torch.optim.Muon([group], lr=lr * factor, momentum=0.95, adjust_lr_fn="match_rms_adamw")


MUON_STEPS = 5
"""Newton-Schulz steps of an update."""


def muon_flops(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> int:
    """FLOPs of the Newton-Schulz steps of one update of matrices (a, b), a <= b: 5 (4 a² b + 2 a³) each."""
    sides = [sorted(p.shape) for _, p in named_parameters if p.requires_grad]
    return sum(MUON_STEPS * (4 * a * a * b + 2 * a**3) for a, b in sides)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr` times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def set_weight_decay(optimizer: torch.optim.Optimizer, weight_decay: float) -> None:
    """Give every group its share of this weight decay, which is none for those that are not decayed at all."""
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay * group["decay_share"]


@torch.no_grad()
def clip_each(parameters: Iterable[Tensor], max_norm: float) -> None:
    """Scale every gradient that is longer than `max_norm` to that norm, each tensor by itself (DINO)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    factors = [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in _norms(gradients)]
    torch._foreach_mul_([local(g) for g in gradients], factors)


@torch.no_grad()
def clip_and_norm(
    parameters: Iterable[Tensor], max_norm: float | None = None, *, optimizer: torch.optim.Optimizer | None = None
) -> Tensor:
    """The global L2 norm of all gradients (before clipping), a 0-d tensor.

    With `max_norm`, gradients are scaled to that norm where they are longer, by the factor of `clip_grad_norm_`. A norm
    that is not finite scales nothing: the caller is to stop on it.

    Args:
        optimizer: the one that steps next. A fused one is told to divide gradients while it reads them, which saves a
            pass over all of them (equal to 2e-7); until it has stepped they keep their length.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = any(is_sharded(g) for g in gradients)
    if sharded:
        norm = torch.linalg.vector_norm(torch.stack(_norms(gradients)))
        gradients = [local(g) for g in gradients]
    else:
        norm = torch.nn.utils.get_total_norm(gradients, foreach=None)
    if optimizer is not None:
        optimizer.grad_scale = None  # type: ignore[attr-defined]  # what torch's fused steps look for
    if max_norm is not None:
        factor = max_norm / (norm + 1e-6)
        divides = optimizer is not None and not sharded and all(g.get("fused") for g in optimizer.param_groups)
        if divides and norm.device.type != "mps":
            optimizer.grad_scale = factor.nan_to_num(1.0).clamp(max=1.0).reciprocal().float()  # type: ignore[union-attr]
        elif norm.device.type != "cpu":  # a comparison would wait for the device; NaN passes the clamp as itself
            torch._foreach_mul_(gradients, factor.nan_to_num(1.0).clamp(max=1.0))
        elif norm > max_norm and torch.isfinite(norm):
            torch._foreach_mul_(gradients, factor.item())
    return norm


def _norms(gradients: list[Tensor]) -> list[Tensor]:
    """The L2 norm of each gradient, of the whole of it where ranks have parts."""
    norms = list(torch._foreach_norm([local(g) for g in gradients]))
    cut = [i for i, gradient in enumerate(gradients) if is_sharded(gradient)]
    if cut:
        squares = sum_over_ranks(torch.stack([norms[i] for i in cut]).square())
        for i, square in zip(cut, squares, strict=True):
            norms[i] = square.sqrt()
    return norms


def optimizer_tensors(
    optimizers: Sequence[torch.optim.Optimizer], named_parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizers' state as `<parameter>.<quantity>` -> tensor (not copied), to be saved without pickle.

    Learning rates and decay are not in it: they follow from the config and the step.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in named_parameters.items()}
    return {
        f"{names[parameter]}.{quantity}": torch.as_tensor(value)
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for quantity, value in state.items()
        if value is not None
    }


@torch.no_grad()
def load_optimizer_tensors(
    optimizers: Sequence[torch.optim.Optimizer],
    named_parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """The counterpart of `optimizer_tensors`: afterwards the state is equal bit for bit.

    A parameter without any entry keeps an empty state, because it had none: it never got a gradient.

    Raises:
        DataError: an entry belongs to no parameter of these optimizers, has another shape, or some of a parameter's
            entries are missing.
    """
    owner = {p: (o, bool(g.get("fused"))) for o in optimizers for g in o.param_groups for p in g["params"]}
    names = {name: parameter for name, parameter in named_parameters.items() if parameter in owner}
    for optimizer in optimizers:
        optimizer.state.clear()
    for key, stored in tensors.items():
        name, _, quantity = key.rpartition(".")
        if name not in names:
            raise DataError(
                f"The checkpoint has optimizer state for '{name}', which this optimizer does not train",
                do=did_you_mean(name, names),
            )
        parameter = names[name]
        optimizer, fused = owner[parameter]
        if quantity == "step":  # a count; fused kernels want it beside the parameter
            value = stored.clone().to(parameter.device if fused else stored.device)
        elif stored.shape != parameter.shape:
            raise DataError(
                f"Optimizer state '{key}' has the shape {tuple(stored.shape)}", expected=str(tuple(parameter.shape))
            )
        else:
            value = torch.empty_like(parameter, dtype=stored.dtype).copy_(stored)
        optimizer.state[parameter][quantity] = value
    for optimizer in optimizers:
        quantities = set().union(*(state.keys() for state in optimizer.state.values()))
        for name, parameter in names.items():
            if parameter in optimizer.state and (missing := quantities - optimizer.state[parameter].keys()):
                raise DataError(
                    f"The checkpoint lacks {', '.join(sorted(missing))} of '{name}' in the optimizer's state"
                )

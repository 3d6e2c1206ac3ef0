"""An encoder's weights under the names, and with the config, of timm and of Hugging Face's transformers.

Ours are MAE's and timm's names, so for timm little changes. The map, ours -> theirs:

    ours                         timm                             transformers (ViT; DINOv2 where it says so)
    cls_token                    the same                         embeddings.cls_token
    pos_embed                    the same, with registers less    embeddings.position_embeddings
                                 the class token's, which is
                                 added to cls_token
    reg_token                    the same                         embeddings.register_tokens (DINOv2)
    patch_embed.proj             the same                         embeddings.patch_embeddings.projection
    blocks.N.norm1, norm2        the same                         encoder.layer.N.layernorm_before, layernorm_after;
                                                                  norm1, norm2 (DINOv2)
    blocks.N.attn.qkv            the same                         encoder.layer.N.attention.attention.query, key, value
    blocks.N.attn.proj           the same                         encoder.layer.N.attention.output.dense
    blocks.N.mlp.fc1, fc2        the same                         encoder.layer.N.intermediate.dense, output.dense;
                                                                  mlp.fc1, fc2 or weights_in, weights_out (DINOv2)
    blocks.N.ls1.gamma, ls2      the same                         layer_scale1.lambda1, layer_scale2 (DINOv2)
    norm_pre, norm               the same                         -, layernorm

What a library has no place for is refused by name. One thing is left out, and the card says so: the whitening of the
mean of patch tokens, which comes after what these libraries return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fusiform.config import ViTConfig
from fusiform.errors import ConfigError
from fusiform.nn.vit import ViT
from fusiform.protocols import Pooling

_PUBLISHED = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}


@dataclass(frozen=True, eq=False)
class Named:
    """An encoder in the terms of another library."""

    config: dict[str, Any]
    """For its config.json."""
    state: dict[str, Tensor]
    """For its model.safetensors."""


def _shared(vit: ViT) -> dict[str, Tensor]:
    return {name: value for name, value in vit.state_dict().items() if not name.startswith("whitening.")}


def timm(vit: ViT, pooling: Pooling | None) -> Named:
    """For `timm.create_model`. The config has `architecture` and `model_args`, which that function takes.

    Args:
        pooling: decides timm's `global_pool`; "cls+pooled" is none that it has, so it gives all tokens.

    Raises:
        ConfigError: something that timm's VisionTransformer has no place for.
    """
    c = vit.config
    state = {name: value.detach() for name, value in _shared(vit).items()}
    problems = _shared_problems(c)
    if c.norm_eps not in (1e-6, 1e-5):
        problems.append(f"norms with eps {c.norm_eps:g}")
    if c.first_norm:  # timm has no bias in the patch projection where a norm follows it
        if state["patch_embed.proj.bias"].any():
            problems.append("a bias in the patch projection before a norm")
        del state["patch_embed.proj.bias"]
    _refuse(problems, "timm's VisionTransformer")
    if c.registers:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:].clone()
    args: dict[str, Any] = {
        "img_size": c.image_size,
        "patch_size": c.patch_size,
        "embed_dim": c.width,
        "depth": c.depth,
        "num_heads": c.heads,
        "mlp_ratio": c.mlp_ratio,
        "qkv_bias": c.qkv_bias,
        "init_values": c.layer_scale,
        "class_token": True,
        "reg_tokens": c.registers,
        "no_embed_class": bool(c.registers),
        "pre_norm": c.first_norm,
        "final_norm": c.final_norm,
        "fc_norm": False,
        "global_pool": {None: "avg", "pooled": "avg", "whitened": "avg", "cls": "token"}.get(pooling, ""),
        "num_classes": 0,
    }
    size = _PUBLISHED.get((c.width, c.depth), "base")
    architecture = f"vit_{size}_patch{14 if size == 'huge' else 16}_224"
    if c.norm_eps == 1e-5:  # the entry points of CLIP are those with this eps
        architecture = "vit_base_patch16_clip_224"
    if c.activation == "swiglu":
        if c.norm_eps != 1e-6:
            _refuse([f"SwiGLU with norms of eps {c.norm_eps:g}"], "timm's VisionTransformer")
        architecture = "vit_giant_patch14_dinov2"
        args["mlp_ratio"] = 2 * c.mlp_ratio
    elif c.activation == "quick-gelu":
        args["act_layer"] = "quick_gelu"
    if c.activation != "swiglu":
        args = {k: v for k, v in args.items() if v is not None or k != "init_values"}
    return Named(
        {
            "architecture": architecture,
            "num_classes": 0,
            "num_features": c.width,
            "global_pool": args["global_pool"],
            "model_args": args,
            "pretrained_cfg": {
                "tag": "fusiform",
                "custom_load": False,
                "input_size": [3, c.image_size, c.image_size],
                "fixed_input_size": True,
                "interpolation": "bilinear",
                "crop_pct": 1.0,
                "crop_mode": "squash",
                "mean": list(c.pixel_mean),
                "std": list(c.pixel_std),
                "num_classes": 0,
                "pool_size": None,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
        },
        state,
    )


def transformers(vit: ViT) -> Named:
    """For `AutoModel.from_pretrained`: a ViT, or a DINOv2 where there are layer scales, registers or SwiGLU.

    Raises:
        ConfigError: something that neither has a place for.
    """
    c = vit.config
    problems = _shared_problems(c)
    dino = c.layer_scale is not None or c.registers > 0 or c.activation == "swiglu"
    if c.first_norm:
        problems.append("a norm before the first block")
    if not c.final_norm:
        problems.append("no final norm")
    if dino:
        if c.mlp_ratio != int(c.mlp_ratio) and c.activation != "swiglu":
            problems.append(f"an MLP of {c.mlp_ratio:g} times the width")
    elif c.activation == "swiglu":
        problems.append("SwiGLU")
    ratio = _swiglu_ratio(c) if dino and c.activation == "swiglu" else int(c.mlp_ratio)
    if ratio == 0:
        problems.append(f"a SwiGLU of {c.mlp_ratio:g} times the width")
    _refuse(problems, "transformers' ViT and DINOv2")
    kind = ("Dinov2WithRegisters" if c.registers else "Dinov2") if dino else "ViT"
    config: dict[str, Any] = {
        "architectures": [f"{kind}Model"],
        "model_type": {"ViT": "vit", "Dinov2": "dinov2", "Dinov2WithRegisters": "dinov2_with_registers"}[kind],
        "hidden_size": c.width,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "hidden_act": "quick_gelu" if c.activation == "quick-gelu" else "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": c.norm_eps,
        "image_size": c.image_size,
        "patch_size": c.patch_size,
        "num_channels": 3,
        "qkv_bias": c.qkv_bias,
        "torch_dtype": "float32",
    }
    if dino:
        config |= {
            "mlp_ratio": ratio,
            "layerscale_value": 1.0 if c.layer_scale is None else c.layer_scale,
            "drop_path_rate": 0.0,
            "use_swiglu_ffn": c.activation == "swiglu",
            "use_mask_token": False,
        }
        if c.registers:
            config["num_register_tokens"] = c.registers
    else:
        config["intermediate_size"] = round(c.width * c.mlp_ratio)
    return Named(config, _for_transformers(vit, dino=dino))


_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_DINO = {
    **{name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")},
    "attn.proj": "attention.output.dense",
    "ls1": "layer_scale1",
    "ls2": "layer_scale2",
}


def _for_transformers(vit: ViT, *, dino: bool) -> dict[str, Tensor]:
    inside = dict(_DINO if dino else _VIT)
    if vit.config.activation == "swiglu":
        inside |= {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}
    state: dict[str, Tensor] = {}
    for name, value in _shared(vit).items():
        if name in _OUTSIDE:
            state[_OUTSIDE[name]] = value.detach()
            continue
        _, number, rest = name.split(".", 2)
        module, kind = rest.rsplit(".", 1)
        layer = f"encoder.layer.{number}."
        if module == "attn.qkv":
            for part, third in zip(("query", "key", "value"), value.detach().chunk(3), strict=True):
                state[f"{layer}attention.attention.{part}.{kind}"] = third.clone()
        else:
            state[f"{layer}{inside[module]}.{'lambda1' if kind == 'gamma' else kind}"] = value.detach()
    if dino and vit.config.layer_scale is None:  # which DINOv2 always has: 1 changes nothing
        ones = vit.cls_token.detach().new_ones(vit.config.width)
        for block in range(vit.config.depth):
            state |= {f"encoder.layer.{block}.layer_scale{i}.lambda1": ones.clone() for i in (1, 2)}
    if vit.config.registers:  # transformers keeps it in every DINOv2 with registers, and shows it to nobody
        state["embeddings.mask_token"] = vit.cls_token.detach().new_zeros(1, vit.config.width)
    return state


def _swiglu_ratio(c: ViTConfig) -> int:
    """The mlp_ratio from which transformers makes this hidden width; 0 where none does."""
    hidden = round(c.width * c.mlp_ratio)
    return next((r for r in range(1, 17) if (int(c.width * r * 2 / 3) + 7) // 8 * 8 == hidden), 0)


def _shared_problems(c: ViTConfig) -> list[str]:
    problems = []
    if c.landmark_cnn:
        problems.append("patches cut at landmarks")
    if c.head_width is not None and c.head_width * c.heads != c.width:
        problems.append(f"attention heads of {c.head_width} channels")
    natural = (c.head_width or c.width // c.heads) ** -0.5
    if c.attention_scale is not None and abs(c.attention_scale - natural) > 1e-9:
        problems.append(f"products of queries and keys scaled by {c.attention_scale:g}")
    return problems


def _refuse(problems: list[str], library: str) -> None:
    if problems:
        raise ConfigError(
            f"{library} has no place for {', '.join(problems)}",
            expected="a plain ViT",
            do="--to onnx, which holds every encoder",
        )

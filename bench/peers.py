"""Other people's masked autoencoders, as pip installs them, in the loop that their documentation shows.

Each returns a step on random images: forward, backward, AdamW, the loss read. They have their own initial weights and
draw their own masks, so only the work is equal, not the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.plain import gathered
from fusiform.config import ViTConfig
from fusiform.nn.patches import patchify
from fusiform.nn.positions import sincos_table
from fusiform.recipes.mae_face import MAEFaceConfig


def trained(module: nn.Module, loss: Callable[[], Tensor], precision: str) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    module.train()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def hugging_face(vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str) -> Callable[[], float]:
    """`transformers.ViTMAEForPreTraining`."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=vit.width,
        num_hidden_layers=vit.depth,
        num_attention_heads=vit.heads,
        intermediate_size=round(vit.width * vit.mlp_ratio),
        image_size=vit.image_size,
        patch_size=vit.patch_size,
        decoder_hidden_size=method.decoder_width,
        decoder_num_hidden_layers=method.decoder_depth,
        decoder_num_attention_heads=method.decoder_heads,
        decoder_intermediate_size=4 * method.decoder_width,
        mask_ratio=method.mask_ratio,
        norm_pix_loss=method.norm_pix,
    )
    module: Any = ViTMAEForPreTraining(config)
    images = torch.randn(batch, 3, vit.image_size, vit.image_size)
    return trained(module, lambda: module(images).loss, precision)


def lightly(vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str) -> Callable[[], float]:
    """lightly's example of MAE on timm's ViT: masked encoder, decoder on all tokens, error of the hidden patches."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    class MAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = VisionTransformer(
                img_size=vit.image_size,
                patch_size=vit.patch_size,
                embed_dim=vit.width,
                depth=vit.depth,
                num_heads=vit.heads,
                mlp_ratio=vit.mlp_ratio,
                num_classes=0,
            )
            self.backbone = MaskedVisionTransformerTIMM(vit=encoder)
            self.sequence_length = self.backbone.sequence_length
            self.decoder = MAEDecoderTIMM(
                num_patches=vit.patches,
                patch_size=vit.patch_size,
                embed_dim=vit.width,
                decoder_embed_dim=method.decoder_width,
                decoder_depth=method.decoder_depth,
                decoder_num_heads=method.decoder_heads,
                mlp_ratio=4.0,
                proj_drop_rate=0.0,
                attn_drop_rate=0.0,
            )

        def forward(self, images: Tensor) -> Tensor:
            B = len(images)
            keep, mask = utils.random_token_mask(size=(B, self.sequence_length), mask_ratio=method.mask_ratio)
            encoded = self.decoder.embed(self.backbone.encode(images=images, idx_keep=keep))
            tokens = utils.repeat_token(self.decoder.mask_token, (B, self.sequence_length))
            tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
            decoded = self.decoder.decode(tokens)
            prediction = self.decoder.predict(utils.get_at_index(decoded, mask))
            target = utils.get_at_index(utils.patchify(images, vit.patch_size), mask - 1)
            if method.norm_pix:
                target = utils.normalize_mean_var(target, dim=-1)
            return nn.functional.mse_loss(prediction, target)

    module = MAE()
    images = torch.randn(batch, 3, vit.image_size, vit.image_size)
    return trained(module, lambda: module(images), precision)


def timm_blocks(vit: ViTConfig, method: MAEFaceConfig, batch: int, precision: str) -> Callable[[], float]:
    """timm's blocks in the loop of MAE."""
    from timm.models.vision_transformer import Block

    class MAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width, inner = vit.width, method.decoder_width
            self.patch = nn.Conv2d(3, width, vit.patch_size, vit.patch_size)
            self.cls, self.hidden = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, inner))
            self.positions = nn.Parameter(sincos_table(width, vit.grid), requires_grad=False)
            self.decoder_positions = nn.Parameter(sincos_table(inner, vit.grid), requires_grad=False)
            made = [Block(width, vit.heads, vit.mlp_ratio, qkv_bias=True) for _ in range(vit.depth)]
            self.blocks, self.norm = nn.Sequential(*made), nn.LayerNorm(width, eps=1e-6)
            made = [Block(inner, method.decoder_heads, 4.0, qkv_bias=True) for _ in range(method.decoder_depth)]
            self.narrow, self.decoder = nn.Linear(width, inner), nn.Sequential(*made)
            self.decoder_norm, self.pixels = nn.LayerNorm(inner, eps=1e-6), nn.Linear(inner, vit.patch_size**2 * 3)

        def forward(self, images: Tensor) -> Tensor:
            x = self.patch(images).flatten(2).transpose(1, 2) + self.positions[:, 1:]
            B, N, _ = x.shape
            order = torch.rand(B, N).argsort(dim=1)
            restore, visible = order.argsort(dim=1), int(N * (1 - method.mask_ratio))
            x = gathered(x, order[:, :visible])
            x = torch.cat([(self.cls + self.positions[:, :1]).expand(B, -1, -1), x], dim=1)
            x = self.narrow(self.norm(self.blocks(x)))
            tokens = torch.cat([x[:, 1:], self.hidden.to(x.dtype).expand(B, N - visible, -1)], dim=1)
            x = torch.cat([x[:, :1], gathered(tokens, restore)], dim=1) + self.decoder_positions
            prediction = self.pixels(self.decoder_norm(self.decoder(x)))[:, 1:]
            target = patchify(images, vit.patch_size)
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
            hidden = torch.ones(B, N).index_fill(1, torch.arange(visible), 0).gather(1, restore)
            return ((prediction - target) ** 2).mean(-1).mul(hidden).sum() / hidden.sum()

    module = MAE()
    images = torch.randn(batch, 3, vit.image_size, vit.image_size)
    return trained(module, lambda: module(images), precision)

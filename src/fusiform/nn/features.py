"""Features of a frozen encoder, in which two images can be compared instead of in pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusiform.nn.precision import wide
from fusiform.nn.vit import ViT


class FrozenFeatures(nn.Module):
    """Tokens of a frozen ViT after some of its blocks. Gradients pass through it to the image; it never trains.

    The ViT moves along with `to` but is no submodule: it is not among the parameters, stays in evaluation mode and is
    not in the state dict, which holds its SHA-256 instead. Loading a state that was made with other weights is an
    error; a state without the hash, as a release has, is taken as it is.
    """

    sha256: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        vit: ViT,
        layers: Sequence[int],
        *,
        pixel_mean: tuple[float, float, float],
        pixel_std: tuple[float, float, float],
        interpolation: Literal["nearest", "bilinear"] = "bilinear",
    ) -> None:
        """
        Args:
            vit: the encoder, of any size.
            layers: blocks (0-based) whose output is taken, class token included, without the final norm.
            pixel_mean, pixel_std: statistics with which the images to come are normalised; its own may differ.
            interpolation: how images of another size are brought to its own; "bilinear" averages when it shrinks.
        """
        super().__init__()
        self._held = (vit.eval().requires_grad_(False),)  # a tuple, so that torch registers nothing
        self.layers, self.interpolation = tuple(layers), interpolation
        own_mean, own_std = torch.tensor(vit.config.pixel_mean), torch.tensor(vit.config.pixel_std)
        mean, std = torch.tensor(pixel_mean), torch.tensor(pixel_std)
        self.register_buffer("scale", (std / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("sha256", fingerprint(vit))

    @property
    def vit(self) -> ViT:
        return self._held[0]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised pixels -> one (B, 1 + n, D) for each of the layers."""
        side = self.vit.config.image_size
        smooth = self.interpolation == "bilinear"
        sized = F.interpolate(wide(images), size=(side, side), mode=self.interpolation, antialias=smooth)
        return self.vit.encode_taps(self.vit.cut(sized * self.scale + self.shift), self.layers)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self.vit._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        stored = state_dict.get(prefix + "sha256")
        if stored is not None and not torch.equal(stored.cpu(), self.sha256.cpu()):
            error_msgs.append(
                f"its losses were taken in the features of weights {_hex(stored)}, and these are {_hex(self.sha256)}"
            )


def fingerprint(vit: nn.Module) -> Tensor:
    """SHA-256 of a module's state, (32,) uint8: of names, shapes and bytes. Zeros where there are no bytes (meta)."""
    digest = hashlib.sha256()
    for name, value in sorted(vit.state_dict().items()):
        if value.device.type == "meta":
            return torch.zeros(32, dtype=torch.uint8)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _hex(digest: Tensor) -> str:
    return bytes(digest.tolist()).hex()[:12]

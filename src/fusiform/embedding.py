"""Faces in, features out: an encoder's tokens over a set of faces, computed once and shared by every task and protocol.

Shapes: N faces, P patches, D width.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusiform.encoder import Encoder
from fusiform.errors import ConfigError, DataError
from fusiform.protocols import Features

WIDE: tuple[Features, ...] = ("concat", "patches", "cls+concat")
"""Forms that need every token."""

Floats = NDArray[np.float32]
Key = tuple[str, ...]


class FeatureCache:
    """Features, and what was computed from them, the least recently used dropped when `max_bytes` is full.

    Keys hold hashes of the weights and of the pixels (`feature_key`), so an encoder that goes on training never meets
    its own old features.
    """

    def __init__(self, max_bytes: int = 2 << 30) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[Key, tuple[Any, int]] = OrderedDict()

    def get(self, key: Key) -> Any:
        """What was put under the key, or None."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Key, value: Any, size: int) -> None:
        """Keep a value of `size` bytes; one that is larger than the cache is not kept."""
        if size > self.max_bytes:
            return
        self._held[key] = (value, size)
        while sum(held for _, held in self._held.values()) > self.max_bytes:
            self._held.popitem(last=False)


def feature_key(encoder: Encoder, images: NDArray[np.uint8], features: str, layer: int | None) -> Key:
    """What features follow from: weights, pixels, form and block."""
    block = block_index(layer, encoder.vit.config.depth)
    return (encoder.sha256, images_sha256(images), f"block {block}", features)


def images_sha256(images: NDArray[np.uint8]) -> str:
    """Hash of pixels and shape."""
    digest = hashlib.sha256(repr(images.shape).encode())
    for start in range(0, len(images), 1024):  # a mirrored view, or faces mapped from a file, are never copied whole
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    return digest.hexdigest()


def block_index(layer: int | None, depth: int) -> int:
    """A layer as a 0-based block, negative ones counted from the last; -1 for None means "after the final norm"."""
    if layer is None:
        return -1
    if not -depth <= layer < depth:
        raise ConfigError(f"There is no layer {layer} in an encoder of {depth} blocks", expected=f"0 to {depth - 1}")
    return layer % depth


def embed(
    encoder: Encoder,
    images: NDArray[np.uint8],
    *,
    features: Features = "pooled",
    layer: int | None = None,
    batch: int = 256,
    device: str | torch.device = "cpu",
    cache: FeatureCache | None = None,
) -> Floats:
    """Features of faces from a frozen encoder, without gradient and without randomness.

    Tokens of an inner `layer`, and those of an encoder without a final norm, leave their block un-normalised; they get
    a layer norm without parameters, so that a few channels of huge scale do not decide every distance.

    Args:
        images: (N, S, S, 3) uint8 RGB with S the encoder's image size.
        features: "pooled": mean of the patch tokens; "whitened": that mean, whitened; "concat": all of them side by
            side; "patches": each by itself;
            "cls": the class token, which methods that do not train it leave at noise; "cls+pooled": both side by side;
            "cls+concat": the class token beside all patch tokens.
        layer: block, from 0; None: the output after the final norm.
        batch: faces per forward pass; changes memory, not results (beyond rounding).
        cache: where features are looked up and kept.

    Returns:
        float32 (N, D), (N, P·D), (N, P, D), (N, 2D) or (N, D + P·D).

    Raises:
        DataError: images of another shape or type.
        ConfigError: a layer that the encoder does not have; "whitened" of an encoder without a whitening, or of an
            inner layer.
    """
    if features == "whitened":
        require_whitening(encoder, layer)
        more: dict[str, Any] = {"batch": batch, "device": device, "cache": cache}
        return whitened(encoder, embed(encoder, images, features="pooled", **more))
    config = encoder.vit.config
    S, P, D = config.image_size, config.patches, config.width
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (S, S, 3):
        raise DataError(
            f"Faces of shape {images.shape} and type {images.dtype} for encoder '{encoder.name}'",
            expected=f"(N, {S}, {S}, 3) uint8",
            do=f"read the task at {S} pixels",
        )
    block = block_index(layer, config.depth)
    identity = feature_key(encoder, images, features, layer)[:-1] if cache is not None else ()
    if cache is not None:
        first, rest = cache.get((*identity, "cls")), cache.get((*identity, "patches"))
        if rest is None and features not in WIDE:
            rest = cache.get((*identity, "pooled"))
        if (first is not None or "cls" not in features) and (rest is not None or features == "cls"):
            return _shape(first, rest, features)
    # Keep all tokens where they fit: every form follows from them, so the next task costs nothing.
    fits = cache is not None and len(images) * P * D * 4 <= cache.max_bytes // 4
    keep_tokens = features in WIDE or fits
    out = np.empty((len(images), P, D) if keep_tokens else (len(images), D), np.float32)
    classes = np.empty((len(images), D), np.float32)
    vit = encoder.vit
    was_training = vit.training
    home = next(vit.parameters()).device
    vit.eval().to(device)
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                rows = slice(start, start + batch)
                pixels = torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))).to(device)
                every = vit(pixels) if block < 0 else vit.taps(pixels, [block])[0]
                if block >= 0 or not config.final_norm:
                    every = _normed(every)
                tokens = every[:, 1:]
                classes[rows] = every[:, 0].float().cpu().numpy()
                out[rows] = (tokens if keep_tokens else tokens.mean(1)).float().cpu().numpy()
    finally:
        vit.train(was_training).to(home)
    if cache is not None:
        cache.put((*identity, "cls"), classes, classes.nbytes)
        cache.put((*identity, "patches" if keep_tokens else "pooled"), out, out.nbytes)  # last: the last to be dropped
    return _shape(classes, out, features)


class Streamed:
    """Patch tokens (N, P, D) that are made when rows of them are asked for, and not kept: for sets whose tokens do not
    fit. Indexed by rows, like the array that it stands for."""

    ndim = 3

    def __init__(
        self,
        encoder: Encoder,
        images: NDArray[np.uint8],
        layer: int | None,
        *,
        batch: int = 256,
        device: str | torch.device = "cpu",
    ) -> None:
        config = encoder.vit.config
        self.shape = (len(images), config.patches, config.width)
        self._encoder, self._images, self._layer = encoder, images, layer
        self._how: dict[str, Any] = {"batch": batch, "device": device}

    @property
    def nbytes(self) -> int:
        """Of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Floats:
        return embed(self._encoder, self._images[rows], features="patches", layer=self._layer, **self._how)


def require_whitening(encoder: Encoder, layer: int | None) -> None:
    if encoder.vit.whitening is None:
        raise ConfigError(
            f"Encoder '{encoder.name}' has no whitening", do='take "pooled", or train with --vit.whitened'
        )
    if layer is not None:
        raise ConfigError(f"Whitened features of layer {layer}: the whitening was measured after the final norm")


def whitened(encoder: Encoder, pooled: Floats) -> Floats:
    """The encoder's whitening of means of patch tokens, (N, D) -> (N, D)."""
    whitening = encoder.vit.whitening
    assert whitening is not None
    mean, matrix = whitening.mean.float().cpu().numpy(), whitening.matrix.float().cpu().numpy()
    out: Floats = (pooled - mean) @ matrix
    return out


def _normed(tokens: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)


def _shape(classes: Floats, tokens: Floats, features: Features) -> Floats:
    """The form that was asked for, of class tokens (N, D) and patch tokens (N, P, D) or their means (N, D)."""
    if features == "cls":
        return classes
    if features == "concat":
        return tokens.reshape(len(tokens), -1)
    if features == "cls+concat":
        return np.concatenate([classes, tokens.reshape(len(tokens), -1)], 1)
    if features == "patches":
        return tokens
    pooled: Floats = tokens.mean(1, dtype=np.float32) if tokens.ndim == 3 else tokens
    return pooled if features == "pooled" else np.concatenate([classes, pooled], 1)

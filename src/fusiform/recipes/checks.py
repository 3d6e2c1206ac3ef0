"""What several methods ask of their settings, refused before a network is built."""

from __future__ import annotations

from fusiform.config import ViTConfig
from fusiform.errors import ConfigError


def require_grid(vit: ViTConfig, because: str) -> None:
    """Patches on a grid.

    Args:
        because: what the method does with places, as the beginning of a sentence.

    Raises:
        ConfigError: the encoder cuts its patches at landmarks.
    """
    if vit.landmark_cnn:
        raise ConfigError(
            f"{because}, and this encoder cuts its patches at landmarks",
            expected="patches on a grid",
            do="--vit.no-landmark-cnn",
        )


def require_hidden(ratio: float, hidden: int, patches: int) -> None:
    """Some patches hidden and some visible.

    Raises:
        ConfigError: all or none.
    """
    if not 0 < hidden < patches:
        raise ConfigError(
            f"Mask ratio {ratio} hides {hidden} of {patches} patches",
            expected="some hidden and some visible",
            do="change --method.mask-ratio",
        )


def require_decoder(width: int, heads: int, depth: int) -> None:
    """A decoder whose heads share its width and whose positions have sine-cosine codes.

    Raises:
        ConfigError: it is none.
    """
    if min(heads, width) < 1 or width % heads or width % 4:
        raise ConfigError(
            f"Decoder width {width} with {heads} heads",
            expected="a multiple of the heads and of 4",
            do="change --method.decoder-heads",
        )
    if depth < 1:
        raise ConfigError(f"A decoder of {depth} blocks", expected="at least 1", do="change --method.decoder-depth")

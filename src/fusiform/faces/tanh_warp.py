"""The tanh warp: a face's middle as it is, and everything around it, however far, pressed into the margin.

Lin et al., "Face Parsing with RoI Tanh-Warping", 2019, in the form of FaRL's face parsing (Zheng et al., 2022), whose
factor is .8. Along each axis, with u from -1 to 1 over the region of the face and w the factor,

    v = u                                          for |u| <= 1 - w
    v = sign(u) (1 - w + w tanh((|u| - 1 + w) / w))  beyond,

which is smooth, keeps to the open square, and has an inverse everywhere inside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusiform.errors import ConfigError

Floats = NDArray[np.float64]
_INSIDE = 1 - 1e-12
"""The warped square's edge is infinitely far away."""


@dataclass(frozen=True)
class TanhWarp:
    """A warp of square crops. Points are shares of the crop's side, 0 at the left and upper edge."""

    factor: float = 0.8
    """w above: the share of the way from the middle to the edge that is bent."""
    region: float = 1.0
    """Side of the face's region, as a share of the crop's, around its middle."""

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1 or not self.region > 0:
            raise ConfigError(
                f"A tanh warp with factor {self.factor} and region {self.region}",
                expected="a factor above 0 up to 1, and a region above 0",
            )

    def warped(self, points: ArrayLike) -> Floats:
        """Where points of the crop, in it or beyond it, lie in the warped crop."""
        u = (np.asarray(points, np.float64) - 0.5) * 2 / self.region
        straight = 1 - self.factor
        bent = straight + self.factor * np.tanh((np.abs(u) - straight) / self.factor)
        v = np.where(np.abs(u) <= straight, u, np.sign(u) * bent)
        return np.asarray((v + 1) / 2)

    def unwarped(self, points: ArrayLike) -> Floats:
        """The inverse of `warped`; points on or beyond the warped crop's edge are taken just inside it."""
        v = np.clip(np.asarray(points, np.float64) * 2 - 1, -_INSIDE, _INSIDE)
        straight = 1 - self.factor
        bent = straight + self.factor * np.arctanh(np.maximum((np.abs(v) - straight) / self.factor, 0.0))
        u = np.where(np.abs(v) <= straight, v, np.sign(v) * bent)
        return np.asarray(u * self.region / 2 + 0.5)

    def images(self, crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(N, S, S, 3) RGB, bilinear; beyond the crop its edge goes on, because a crop knows nothing else."""
        return self._sampled(crops, linear=True)

    def maps(self, parsing: NDArray[np.uint8], outside: int = 255) -> NDArray[np.uint8]:
        """(N, S, S) class numbers, each pixel the class at its centre; beyond the crop unlabelled."""
        return self._sampled(parsing, linear=False, outside=outside)

    def _sampled(self, pictures: NDArray[np.uint8], *, linear: bool, outside: int = 0) -> NDArray[np.uint8]:
        import cv2

        side = pictures.shape[1]
        places = self.unwarped((np.arange(side) + 0.5) / side) * side - 0.5  # OpenCV counts centres as integers
        x, y = np.meshgrid(places.astype(np.float32), places.astype(np.float32))
        border = cv2.BORDER_REPLICATE if linear else cv2.BORDER_CONSTANT
        how = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
        out = np.empty_like(pictures)
        for i, picture in enumerate(pictures):
            out[i] = cv2.remap(np.ascontiguousarray(picture), x, y, how, borderMode=border, borderValue=outside)
        return out

"""Head pose from 68 landmarks: a rigid mean face, laid onto the points by least squares.  (no torch)

Scaled orthographic projection: the best affine camera from mean face to points, and the rotation nearest to it (first
step of DeMenthon and Davis, "Model-based object pose in 25 lines of code", 1995). The mean face was found from faces
whose pose is known exactly: 431 rendered ones, as both landmark networks of `fusiform.faces.landmarks` see them, by
least squares over points, scales and places in turn; left and right were then made equal. What a mean face cannot know
is how long this face's chin is: pitch is the weakest angle. docs/infer.md has the errors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fusiform import metrics
from fusiform.faces.schemes import SCHEMES

MEAN_FACE: NDArray[np.float64] = np.array(
    [
        *((-0.788, -0.017, -0.617), (-0.778, -0.165, -0.658), (-0.770, -0.319, -0.666), (-0.698, -0.662, -0.606)),
        *((-0.627, -0.807, -0.503), (-0.545, -0.912, -0.375), (-0.351, -1.062, -0.146), (-0.143, -1.154, 0.024)),
        *((0.000, -1.167, 0.058), (0.143, -1.154, 0.024), (0.351, -1.062, -0.146), (0.545, -0.912, -0.375)),
        *((0.627, -0.807, -0.503), (0.698, -0.662, -0.606), (0.770, -0.319, -0.666), (0.778, -0.165, -0.658)),
        *((0.788, -0.017, -0.617), (-0.644, 0.174, -0.135), (-0.576, 0.234, -0.036), (-0.471, 0.262, 0.055)),
        *((-0.331, 0.251, 0.133), (-0.169, 0.225, 0.184), (0.169, 0.225, 0.184), (0.331, 0.251, 0.133)),
        *((0.471, 0.262, 0.055), (0.576, 0.234, -0.036), (0.644, 0.174, -0.135), (0.000, 0.037, 0.180)),
        *((0.000, -0.124, 0.284), (0.000, -0.262, 0.393), (0.000, -0.347, 0.438), (-0.188, -0.461, 0.183)),
        *((-0.085, -0.480, 0.254), (0.000, -0.482, 0.273), (0.085, -0.480, 0.254), (0.188, -0.461, 0.183)),
        *((-0.500, 0.006, -0.061), (-0.425, 0.041, -0.005), (-0.308, 0.044, 0.018), (-0.192, -0.017, 0.031)),
        *((-0.292, -0.037, 0.019), (-0.408, -0.037, -0.001), (0.192, -0.017, 0.031), (0.308, 0.044, 0.018)),
        *((0.425, 0.041, -0.005), (0.500, 0.006, -0.061), (0.408, -0.037, -0.001), (0.292, -0.037, 0.019)),
        *((-0.284, -0.716, 0.071), (-0.167, -0.644, 0.214), (-0.084, -0.623, 0.264), (0.000, -0.634, 0.281)),
        *((0.084, -0.623, 0.264), (0.167, -0.644, 0.214), (0.284, -0.716, 0.071), (0.164, -0.812, 0.173)),
        *((0.088, -0.836, 0.206), (0.000, -0.844, 0.225), (-0.088, -0.836, 0.206), (-0.164, -0.812, 0.173)),
        *((-0.251, -0.713, 0.074), (-0.065, -0.699, 0.211), (0.000, -0.700, 0.231), (0.065, -0.699, 0.211)),
        *((0.251, -0.713, 0.074), (0.069, -0.738, 0.203), (0.000, -0.741, 0.221), (-0.069, -0.738, 0.203)),
    ]
)
"""(68, 3) ibug-68: x right in the picture of a face that looks at us, y up, z to the viewer; the outer corners of the
eyes are 1 apart, zero is between the eyes."""
MOST_APART = 0.3
"""Root mean square distance of points and mean face, as a share of the points' own spread, above which they are no
pose: a face bent out of shape, or points of something else."""


def pose_of_points(points: NDArray[np.float64]) -> tuple[float, float, float] | None:
    """Yaw, pitch and roll in degrees in the photo, with the signs of `fusiform.infer.results.Pose`.

    Args:
        points: (68, 2) ibug-68 in photo pixels.

    Returns:
        None where the points are no face seen by a camera: not finite, in one place, or bent out of shape.
    """
    if points.shape != (SCHEMES["ibug-68"].count, 2) or not np.isfinite(points).all():
        return None
    seen = (points - points.mean(0)) * (1.0, -1.0)  # y up
    spread = float(np.sqrt((seen**2).sum(1).mean()))
    if spread < 1e-6:
        return None
    shape = MEAN_FACE - MEAN_FACE.mean(0)
    camera = np.linalg.lstsq(shape, seen, rcond=None)[0].T  # (2, 3)
    u, sizes, v = np.linalg.svd(camera, full_matrices=False)
    rows = u @ v
    scale = float(sizes.mean())
    apart = float(np.sqrt(((scale * shape @ rows.T - seen) ** 2).sum(1).mean()))
    if apart > MOST_APART * spread:
        return None
    yaw, pitch, roll = metrics.euler_degrees(np.stack([*rows, np.cross(*rows)])[None])[0].tolist()
    return yaw, pitch, roll

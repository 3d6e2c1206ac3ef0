"""Transitive groups: who is linked to whom, over any number of links."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Unions:
    """N items in groups; at first each alone. A group's root is its lowest member, whatever the order of the links."""

    def __init__(self, count: int) -> None:
        self._root = np.arange(count, dtype=np.int64)

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Link items a[i] and b[i]. Vectorised: hooks the higher root under the lower until all links agree."""
        while len(a):
            self._flatten()
            x, y = self._root[a], self._root[b]
            apart = x != y
            if not apart.any():
                return
            a, b, x, y = a[apart], b[apart], x[apart], y[apart]
            np.minimum.at(self._root, np.maximum(x, y), np.minimum(x, y))

    def roots(self) -> NDArray[np.int64]:
        """(N,) the root of each item."""
        self._flatten()
        return self._root.copy()

    def _flatten(self) -> None:
        while True:
            above = self._root[self._root]
            if np.array_equal(above, self._root):
                return
            self._root = above

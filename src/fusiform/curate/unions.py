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
            x, y = self._found(a), self._found(b)
            apart = x != y
            if not apart.any():
                return
            a, b, x, y = a[apart], b[apart], x[apart], y[apart]
            np.minimum.at(self._root, np.maximum(x, y), np.minimum(x, y))

    def apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where items a[i] and b[i] are of two groups. The work follows the items asked about, not all."""
        return np.asarray(self._found(a) != self._found(b))

    def roots(self) -> NDArray[np.int64]:
        """(N,) the root of each item."""
        self._flatten()
        return self._root.copy()

    def _found(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        found = self._root[items]
        while True:
            above = self._root[found]
            if np.array_equal(above, found):
                self._root[items] = found  # the next look is shorter
                return found
            found = above

    def _flatten(self) -> None:
        while True:
            above = self._root[self._root]
            if np.array_equal(above, self._root):
                return
            self._root = above

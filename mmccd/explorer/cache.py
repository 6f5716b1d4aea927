"""A cache that is limited in bytes and drops what was not used for longest."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class LRUCache(OrderedDict[Hashable, tuple[Any, int]]):
    """Values with their sizes, the least recently used first.

    Attributes:
        limit: Bytes that may be held; a single value may be larger.
        size: Bytes that are held.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.size = limit, 0

    def fetch(self, key: Hashable) -> Any:
        """The value under `key`, which becomes the most recently used one; KeyError where there is none."""
        self.move_to_end(key)
        return self[key][0]

    def store(self, key: Hashable, value: Any, size: int) -> Any:
        """Put `value`, of `size` bytes, under `key`; drop old values where the limit is passed; return `value`."""
        if key in self:
            self.size -= self.pop(key)[1]
        self[key] = value, size
        self.size += size
        while self.size > self.limit and len(self) > 1:
            self.size -= self.popitem(last=False)[1][1]
        return value

    def clear(self) -> None:
        """Drop everything."""
        super().clear()
        self.size = 0

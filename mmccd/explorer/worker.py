"""Requests of the user interface, of which only the newest is worked on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmccd.explorer.subjects import Subject

from mmccd.explorer.view import CycleKey, View, required_cycles


class SupersededError(Exception):
    """Raised inside a computation whose result is no longer needed, since there is a newer request."""


class NewestRequestWorker:
    """Handles requests one after the other in a thread of its own, and skips those that were replaced in the meantime.

    A slider that is dragged sends many requests a second, and a masked cycle may take longer than that: if they were
    queued, the screen would lag behind by seconds.

    Attributes:
        newest: The newest request, None before the first.
    """

    def __init__(self, handle: Callable[[Any], object], skip: Callable[[Any], object] = lambda request: None) -> None:
        """Start the thread.

        Args:
            handle: Called with a request to work on it.
            skip: Called instead with a request that was replaced by a newer one before its turn came.
        """
        self.newest: Any = None
        self._handle, self._skip, self._pool = handle, skip, ThreadPoolExecutor(1)

    def submit(self, request: Any) -> Future[object]:
        """Make `request` the newest; the future holds what `handle` or `skip` returns or raises."""
        self.newest = request
        return self._pool.submit(self._take, request)

    def _take(self, request: Any) -> object:
        return self._handle(request) if request is self.newest else self._skip(request)

    def run(self, function: Callable[[], object]) -> Future[object]:
        """Call `function` in the worker's thread, after all that was submitted before."""
        return self._pool.submit(function)

    def wait(self) -> None:
        """Return when all that was submitted before is done."""
        self._pool.submit(int).result()

    def stop(self) -> None:
        """End the thread when all that was submitted is done."""
        self._pool.shutdown()


@dataclass(frozen=True, eq=False)
class RenderRequest:
    """What the user wants to see.

    Attributes:
        loader: Makes the subject.
        view: The view, which may not exist for that subject.
        device: Where the networks run.
        pair: (input, target) that the controls showed before; the threshold of `view` belongs to it.
        export: "png", "steps" or "strips" to save that too, else "".
    """

    loader: Callable[[], Subject | None]
    view: View
    device: str
    pair: tuple[str, str]
    export: str = ""


def is_still_needed(
    newest: RenderRequest, current: RenderRequest, key: CycleKey, nearest_view: Callable[[View], View]
) -> bool:
    """Whether the newest request needs the masked cycle that is being computed for an older one.

    Without this a slow machine would never finish: "play" requests mask 5 while mask 3 is computed, which is part of
    the map after five masks.

    Args:
        newest: The newest request.
        current: The request that is being worked on.
        key: Key of the masked cycle that is being computed.
        nearest_view: Turns the view of a request into one that exists, as `Explorer.nearest_view`.
    """
    if newest is current or current.export == "png":
        return True  # a picture is saved even if a control was moved since
    same_networks = newest.loader is current.loader and newest.device == current.device
    return same_networks and (newest.export == "strips" or key in required_cycles(nearest_view(newest.view)))

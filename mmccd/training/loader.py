"""How slices get to the network: processes that read ahead. It decides how fast a training is, never how it ends."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from mmccd.training_loop import Batches

MOST_WORKERS = 8  # that are started where nobody says how many
PREFETCH = 4  # pieces that each of them has ready

Piece = tuple[int, int, dict[str, torch.Tensor]]  # step, number of the piece in it, slices


class _Failed(NamedTuple):
    """What went wrong in a worker; as a value it reaches the user with its own words."""

    error: Exception


class _Pieces(Dataset[Piece | _Failed]):
    """Pieces of batches by their number."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> Piece | _Failed:
        try:
            return self.batches[index]
        except Exception as error:
            return _Failed(error)


def _start_worker(_: int) -> None:
    """Leave signals to the process that trains: it finishes its step, and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def workers_for(data: Any, workers: int | None) -> int:
    """Return how many processes read: those asked for, or, left to us, none for slices that are in memory.

    Args:
        data: The training data; a `SliceDataset` whose slices are not in memory gains from workers.
        workers: 0 reads in the process that trains; None leaves it to us.
    """
    if workers is not None:
        return workers
    reads = getattr(data, "kept", True) is None
    return min(MOST_WORKERS, max(1, (os.cpu_count() or 1) - 1)) if reads else 0


class PieceLoader:
    """The pieces of one process's share of a training, read ahead by workers.

    Args:
        batches: All pieces.
        workers: Processes that read; 0 reads here.
        rank: Number of this process among those that train.
        ranks: How many train.
        gpu: Have the next piece ready while a GPU computes, and where it fetches it fastest.
    """

    def __init__(self, batches: Batches, workers: int = 0, rank: int = 0, ranks: int = 1, gpu: bool = False) -> None:
        pieces = batches.pieces
        order = range(batches.start * pieces + rank, batches.config.steps * pieces, ranks)
        ahead: dict[str, Any] = {}
        if workers:
            ahead = {"multiprocessing_context": "spawn", "prefetch_factor": PREFETCH, "worker_init_fn": _start_worker}
        self.in_thread = gpu and not workers
        self.loader = DataLoader(
            _Pieces(batches),
            batch_size=None,
            sampler=order,
            num_workers=workers,
            pin_memory=gpu and torch.cuda.is_available(),
            **ahead,
        )

    def __iter__(self) -> Iterator[Piece]:
        for piece in read_ahead(iter(self.loader)) if self.in_thread else self.loader:
            if isinstance(piece, _Failed):
                raise piece.error
            yield piece


def read_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items, the next of which a thread gets meanwhile."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item

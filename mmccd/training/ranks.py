"""The processes of one training: one alone, or several under torchrun or SLURM, which share every batch."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from lightning.pytorch.plugins.environments import ClusterEnvironment

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes:
        rank: Number of this process, from 0.
        world: How many there are.
        nodes: On how many machines.
        environment: Who started them, for Lightning; None where this process is alone.
    """

    rank: int = 0
    world: int = 1
    nodes: int = 1
    environment: "ClusterEnvironment | None" = None

    @property
    def is_first(self) -> bool:
        """Does this process write the files and talk to the user?"""
        return self.rank == 0

    def first_only(self, work: Callable[[], T]) -> T:
        """Let the first process do something while the others wait; all return what it returned.

        Args:
            work: Called in the first process only; its result can be pickled.

        Raises:
            ValueError: `work` raised; in all processes, so that none of them waits for ever.
        """
        if self.world == 1:
            return work()
        import torch.distributed as dist

        told: list[tuple[T | None, Exception | None]] = [(None, None)]
        if self.is_first:
            try:
                told = [(work(), None)]
            except Exception as error:
                told = [(None, error)]
        dist.broadcast_object_list(told, src=0)
        result, error = told[0]
        if error is not None:
            raise error if self.is_first else ValueError(f"the first process has stopped: {error}")
        return result  # pyrefly: ignore[bad-return]


ALONE = Ranks()


def is_first_process() -> bool:
    """Is this process alone, or the first of several? What it is asked before they have joined."""
    number = "RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_PROCID"
    return not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & os.environ.keys() or os.environ.get(number, "0") == "0"


def find_environment() -> "ClusterEnvironment | None":
    """Return who started this process as one of several: torchrun, or srun under SLURM; None if it is alone.

    Raises:
        ValueError: SLURM was asked for processes in a way that does not say how many a machine has.
    """
    if not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & os.environ.keys():  # Lightning takes seconds to import
        return None
    from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        try:
            if kind.detect() and (environment := kind()).world_size() > 1:
                return environment
        except RuntimeError as error:  # Lightning reads the tasks of a machine, and not those of all
            raise ValueError(
                "SLURM was asked for --ntasks, which does not say how many processes each machine has: ask for "
                "--nodes and --ntasks-per-node"
            ) from error
    return None


@contextmanager
def joined_ranks(device: str) -> Generator[Ranks]:
    """Join the other processes of this training, where there are others, and leave them at the end.

    Args:
        device: cpu or cuda; each process takes the GPU of its number on its machine.
    """
    import torch
    import torch.distributed as dist

    environment = find_environment()
    if environment is None:
        yield ALONE
        return
    rank, world = environment.global_rank(), environment.world_size()
    here = os.environ.get("LOCAL_WORLD_SIZE")  # from torchrun
    nodes = world // int(here) if here else int(os.environ.get("SLURM_NNODES", 1))
    if device == "cuda":
        torch.cuda.set_device(environment.local_rank())
    os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, nodes, environment)
    finally:
        dist.destroy_process_group()

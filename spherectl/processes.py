"""Work shared between the processes of `torchrun`: each takes its chunks, the first one puts the results together.

Nothing here depends on how many there are: a chunk holds the same items, in the same place, whoever computes it.
Tensors travel as they are, through gloo on the CPU; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from spherectl.errors import UsageError

# The first process may be long at its scores, or at fetching, while the others wait.
PATIENCE = timedelta(hours=12)

# Called with items done and items in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Processes:
    """This process among its like.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that puts results together, writes and speaks."""
        return self.rank == 0

    def agree(self, choice: bool) -> bool:
        """The first process's choice, in all of them."""
        if self.world == 1:
            return choice
        told = torch.tensor([int(choice)])
        dist.broadcast(told, src=0)
        return bool(told)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process run the body before the others: it fetches, they find what it fetched."""
        if not self.is_first:
            dist.barrier()
        yield
        if self.is_first and self.world > 1:
            dist.barrier()

    def gather(
        self,
        count: int,
        chunk: int,
        work: Callable[[Tensor], dict[str, Tensor]],
        progress: Progress | None = None,
    ) -> dict[str, Tensor]:
        """Run `work` over the numbers 0 to count - 1, each once, in chunks dealt to the processes in turn.

        Args:
            count: items in all, at least 1.
            chunk: items of a chunk; the last one may be shorter.
            work: takes numbers (B,) and returns tensors on the CPU, by name; the same names for every chunk, any number
                of rows, all other dimensions alike.
            progress: called with items done and items in all, in this process alone.

        Returns:
            On the first process the tensors of all chunks, one after another by number; elsewhere nothing.
        """
        chunks = torch.arange(count).split(chunk)
        mine: list[dict[str, Tensor]] = []
        done = 0
        for numbers in chunks[self.rank :: self.world]:
            mine.append(work(numbers))
            done += len(numbers)
            if progress is not None:
                progress(min(done * self.world, count), count)
        if self.world == 1:
            return {name: torch.cat([part[name] for part in mine]) for name in mine[0]}
        return self._collect(len(chunks), mine)

    def _collect(self, chunks: int, mine: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The first process receives every other's parts, name by name, as one tensor each."""
        # The first process always has the first chunk, so it knows names, types and shapes.
        names = sorted(mine[0]) if mine else []
        dist.broadcast(width := torch.tensor([len(names)]), src=0)
        rows = torch.zeros(int(width), chunks, dtype=torch.int64)
        for place, part in zip(range(self.rank, chunks, self.world), mine, strict=True):
            rows[:, place] = torch.tensor([len(part[name]) for name in names])
        dist.all_reduce(rows)  # every chunk is one process's own, so the sum is the table
        if not self.is_first:
            for name in names:
                together = torch.cat([part[name] for part in mine]).contiguous()
                if len(together):
                    dist.send(together, dst=0)
            return {}
        gathered: dict[str, Tensor] = {}
        received = {source: self._receive(source, names, rows, mine[0]) for source in range(1, self.world)}
        for index, name in enumerate(names):
            parts = {0: iter([part[name] for part in mine])}
            for source, tensors in received.items():
                parts[source] = iter(tensors[name].split(rows[index, source :: self.world].tolist()))
            gathered[name] = torch.cat([next(parts[place % self.world]) for place in range(chunks)])
        return gathered

    def _receive(self, source: int, names: list[str], rows: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
        received: dict[str, Tensor] = {}
        for index, name in enumerate(names):
            total = int(rows[index, source :: self.world].sum())
            tensor = torch.empty((total, *like[name].shape[1:]), dtype=like[name].dtype)
            if total:
                dist.recv(tensor, src=source)
            received[name] = tensor
        return received


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, joined for the body; one process alone where it did not.

    Raises:
        UsageError: torchrun's variables are there in part.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {world}, but {', '.join(missing)} is not set, so the processes cannot find each other.",
            "Start them with torchrun, or unset WORLD_SIZE.",
        )
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()

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

from spherectl.errors import ElsewhereError, SpherectlError, UsageError
from spherectl.progress import Progress

# The first process may be long at its scores, or at fetching, while the others wait.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process among its like.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on its own machine, which is that of its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that puts results together, writes and speaks."""
        return self.rank == 0

    def agree(self, choice: bool) -> bool:
        """The first process's choice, in all of them."""
        return bool(self.add([float(choice and self.is_first)])[0])

    def add(self, values: list[float]) -> list[float]:
        """Each number's sum over all processes, in float64; the same bits in each of them.

        Raises:
            SpherectlError: another process is gone.
        """
        if self.world == 1:
            return values
        return _summed(torch.tensor(values, dtype=torch.float64)).tolist()

    def together(self, rows: Tensor, start: int, total: int) -> Tensor:
        """The rows of all processes, in each of them.

        Args:
            rows: this process's, (n, ...).
            start: place of the first of them.
            total: rows of all processes.

        Returns:
            (total, ...), on the device of `rows`.
        """
        if self.world == 1:
            return rows
        whole = rows.new_zeros(total, *rows.shape[1:])
        whole[start : start + len(rows)] = rows
        return _summed(whole)  # each row is one process's own, so the sum puts them side by side

    def wait(self) -> None:
        """Go on when all processes are here."""
        self.add([0.0])

    def once(self, error: SpherectlError) -> SpherectlError:
        """What this process raises of an error that all of them met: the first one alone tells it."""
        return error if self.is_first else ElsewhereError(error.exit_code)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process run the body before the others: it fetches, they find what it fetched.

        Raises:
            ElsewhereError: in the others, when the first one's body raised an error.
        """
        if self.world == 1:
            yield
            return
        if not self.is_first:
            code = int(self.add([0.0])[0])
            if code:
                raise ElsewhereError(code)
            yield
            return
        code = 1
        try:
            yield
            code = 0
        except SpherectlError as error:
            code = error.exit_code
            raise
        finally:
            self.add([float(code)])

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


def _summed(tensor: Tensor) -> Tensor:
    """The tensor, now the sum of all processes'."""
    try:
        dist.all_reduce(tensor)
    except RuntimeError as error:  # gloo's word for a peer whose connection broke
        raise lost(error) from None
    return tensor


def lost(error: RuntimeError) -> SpherectlError:
    """What a broken connection between processes means to a person."""
    reason = " ".join(str(error).split())
    return SpherectlError(
        f"Lost another process of this command ({reason[:120]}).",
        "Its own words, above, say why; if there are none it was killed. The same command goes on where it stopped.",
    )


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, joined for the body; one process alone where it did not.

    Where there are GPUs, each process takes the one of its local number.

    Raises:
        UsageError: torchrun's variables are there in part, or a machine has fewer GPUs than processes.
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
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"Process {local_rank + 1} of this machine has no GPU: there are {torch.cuda.device_count()}.",
                "Start as many processes as there are GPUs: torchrun --nproc-per-node gpu.",
            )
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    finally:
        dist.destroy_process_group()


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: its shard, or the tensor itself where there are no shards."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, in every process; others as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

"""`python killing.py POINT NTH ARGUMENTS...`: run spherectl and kill it (-9) at the nth time it passes a point.

Points: step (after the backward pass, before the optimiser), save (half of a shard's or a model file's bytes written),
between (after a step's end), rename (checkpoint in place, model file not yet). Of several processes all are killed,
or the one whose rank the variable KILL names.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from spherectl.cli import app, train
from spherectl.training import checkpoint


def main() -> None:
    """Patch one function so that it kills the process at its nth call, then run the command line."""
    point, nth, *arguments = sys.argv[1:]
    passed, rank = 0, os.environ.get("RANK", "0")

    def die_now() -> bool:
        nonlocal passed
        passed += 1
        return passed == int(nth) and os.environ.get("KILL", rank) == rank

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if point == "step":
        clip = torch.nn.utils.clip_grad_norm_

        def clip_or_die(*positional: Any, **named: Any) -> Any:
            return kill() if die_now() else clip(*positional, **named)

        torch.nn.utils.clip_grad_norm_ = clip_or_die
    elif point == "save":
        save_file = safetensors.torch.save_file

        def save_half(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
            save_file(tensors, path, metadata=metadata)
            if die_now():
                os.truncate(path, Path(path).stat().st_size // 2)
                kill()

        safetensors.torch.save_file = save_half
    elif point == "between":
        narrate = train._Narration.__call__

        def narrate_and_die(self: train._Narration, line: dict[str, float]) -> None:
            narrate(self, line)
            if die_now():
                kill()

        train._Narration.__call__ = narrate_and_die  # type: ignore[method-assign]
    else:
        commit = checkpoint.commit

        def commit_and_die(*positional: Any) -> None:
            commit(*positional)
            if die_now():
                kill()

        checkpoint.commit = commit_and_die
    sys.argv = ["spherectl", *arguments]
    app.main()


if __name__ == "__main__":
    main()

"""The table [run]: how long, in what batches and precision, and what is left behind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from spherectl.checks import MAX_SEED
from spherectl.recipe.limits import MAX_BATCH, MAX_EPOCHS, Batch, Positive
from spherectl.registry import logger_problem
from spherectl.shown import quoted
from spherectl.tables import Spec


def _check_loggers(names: object) -> object:
    if not isinstance(names, list | tuple):
        raise ValueError(f"expected a list, got {quoted(names)}")  # noqa: TRY004 - pydantic takes no TypeError
    for name in names:
        if problem := logger_problem(name):
            raise ValueError(problem)
    return tuple(dict.fromkeys(names))


# Names of records in `spherectl.registry`, each once.
Loggers = Annotated[tuple[str, ...], BeforeValidator(_check_loggers)]


class RunSpec(Spec):
    """Length, batch, precision, how it is computed, and what a run leaves behind."""

    length_epochs: Annotated[float, Field(gt=0, le=MAX_EPOCHS)] | None = None
    length_images: Positive | None = None
    batch_size: Annotated[int, Field(ge=3, le=MAX_BATCH)] = 256  # over all processes
    micro_batch_size: Batch | None = None  # images a process takes at once; None: its whole share of the batch
    parallel: Literal["ddp", "fsdp"] = "ddp"  # in several processes: whole networks in each, or shards of them
    activation_checkpointing: bool = False  # computes blocks twice instead of keeping what they need for the gradient
    compile: bool = False  # torch.compile, block by block
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = "auto"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    default: bool = True  # whether `sample` without --model may pick this run
    checkpoint_images: Positive = 50_000
    sample_images: Positive = 50_000
    keep_checkpoints: Positive = 2
    loggers: Loggers | None = None  # where curves and images are shown beside the run folder; None: all installed
    milestone_images: Positive | None = None  # the first checkpoint at or after each multiple is kept for good

    @model_validator(mode="after")
    def _check(self) -> RunSpec:
        if (self.length_epochs is None) == (self.length_images is None):
            raise ValueError("run.length_epochs, run.length_images: give one of the two")
        return self

"""Options that several commands share, each declared once.

A command writes `model: options.Model = None`; the default of each is said beside it.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from spherectl import checks, sampling

# What an option may ask for at most: as the Python API, and
MAX_FRAMES = 10_000  # of one animation, rows or columns of one sheet
MAX_RESAMPLES = 1_000_000  # of a bootstrap
MAX_SEED, MAX_STEPS, MAX_COUNT = checks.MAX_SEED, checks.MAX_STEPS, checks.MAX_COUNT
MAX_BATCH, MAX_THREADS = checks.MAX_BATCH, checks.MAX_THREADS


class DeviceName(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class DtypeName(StrEnum):
    """In what to compute."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


class WeightsName(StrEnum):
    """Which of a model's two sets of weights."""

    EMA = "ema"
    RAW = "raw"


Model = Annotated[  # default None
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="A zoo name, a model file, a run folder, a published checkpoint folder or hf:user/repo.",
        show_default="the setting, else the newest run, else the zoo's",
    ),
]
Device = Annotated[  # default None
    DeviceName | None,
    typer.Option(
        "--device",
        help="Where to compute; auto takes CUDA, else MPS, else the CPU.",
        show_default="the setting, else auto",
    ),
]
Dtype = Annotated[  # default DtypeName.AUTO
    DtypeName,
    typer.Option("--dtype", help="Precision; auto is bfloat16 where that is fast (CUDA, AVX512-BF16), else float32."),
]
Seed = Annotated[  # default 0
    int,
    typer.Option("--seed", min=0, max=MAX_SEED, help="Decides all that is random; the same seed, the same images."),
]
Out = Annotated[  # default None
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="Where to write; replaces what is there.",
        show_default="a new name",
    ),
]
Result = Annotated[  # default None; images.write
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PNG",
        help="The result; NAME-steps.png beside it shows how it came about.",
        show_default="a new name",
    ),
]
Batch = Annotated[  # default 64
    int,
    typer.Option(
        "--batch", min=1, max=MAX_BATCH, help="Images computed together; changes speed and memory, not the images."
    ),
]
Weights = Annotated[  # default WeightsName.EMA
    WeightsName, typer.Option("--weights", help="Averaged weights where the model has them, or those of the last step.")
]
Provenance = Annotated[  # default True
    bool, typer.Option("--provenance/--no-provenance", help="Say in each PNG how it was made.")
]
Threads = Annotated[  # default None
    int | None, typer.Option("--threads", min=1, max=MAX_THREADS, help="CPU threads.", show_default="one a core")
]
Json = Annotated[  # default False
    bool, typer.Option("--json", help="Print one JSON document on stdout, for machines.")
]
Data = Annotated[  # default None; a string, since a Path would make one slash of an address's two
    str | None,
    typer.Option(
        "--data",
        metavar="PATH|URL",
        help="Folder of images, data set, list or shards.",
        show_default="the recipe's, else the setting",
    ),
]


# Settings of sampling: what `spherectl.sampling` says of each, for commands that add what is theirs.
SETTINGS = {one.name: one for one in sampling.options()}


def setting(name: str, text: str = "", default: str = "the model's own", flag: str = "") -> Any:
    """An option for a setting of sampling, within its bounds.

    Args:
        name: of the setting.
        text: help, if the setting means something of its own to the command.
        default: what counts where it is not given.
        flag: the option, if it is not called like the setting.
    """
    one = SETTINGS[name]
    return typer.Option(flag or one.flag, min=one.low, max=one.high, help=text or one.help, show_default=default)


Steps = Annotated[int | None, setting("steps")]  # the default of each is None
Guidance = Annotated[float | None, setting("guidance")]
Guide = Annotated[sampling.Guide | None, setting("guide")]
Noise = Annotated[sampling.NoiseKind | None, setting("noise")]
Strength = Annotated[sampling.Strength | None, setting("strength")]
NoiseDeg = Annotated[float | None, setting("noise_deg")]


def prepare_for_training() -> None:
    """What a training asks of OpenMP and of torch, which read it once, when torch is imported; what is set stays.

    Waiting threads sleep: a training is seldom alone on a machine, and a spinning thread takes a core from others.
    Sampling is left as it is, since waking threads makes single images slower. On Linux, large tensors are in huge
    pages: a step makes and frees gigabytes of them, and there are 512 times fewer pages to clear and find.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

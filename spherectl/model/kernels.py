"""Building and loading the C kernels of csrc/, once for this machine's processor; the library is kept in the cache.

There are kernels on Linux, on processors with AVX512-BF16, where there is a C compiler. Everywhere else the networks
run on torch alone, with the same mathematics. `fast.py` and `fused.py` call the kernels.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spherectl.errors import SpherectlError
from spherectl.files import replacing, write_text
from spherectl.settings import load_settings

SOURCES = tuple(sorted(Path(__file__).with_name("csrc").glob("*.[ch]")))
COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math: the same source is to give the same bits.
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC")
PROCESSOR = ("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16")
COMPILE_S = 120
MEASURED_CALLS = 15

# As in csrc/: values of a vector, columns of a panel of packed_weight, rows of a tile; what is done with a product.
LANES, PANEL, ROWS = 16, 32, 8
PLAIN, SILU, SWIGLU, RESIDUAL = range(4)

# One letter an argument: p tensor or None, i integer, f float.
SIGNATURES = {
    "norm_forward": "iiifpppipppippp",
    "norm_backward": "iiippppppippipppppp",
    "linear_forward": "iiiippppiip",
    "linear_forward_bytes": "iiiipppppppiip",
    "bytes_forward": "iippp",
    "tiles_use": "i",
    "tokens_forward": "iiiipppfp",
    "pack_forward": "iiiipp",
    "linear_backward": "iiiipppp",
    "swiglu_forward": "iiipp",
    "swiglu_backward": "iiippp",
    "silu_forward": "ipp",
    "silu_backward": "ippp",
    "unit_distance_forward": "iifpppp",
    "unit_distance_backward": "iippppp",
    "pixels_forward": "iiipppp",
    "attention_forward": "iiiifpppp",
    "attention_backward": "iiiifpppppp",
}
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


def available() -> bool:
    """Whether the kernels can be called here."""
    return isinstance(_library(), ctypes.CDLL)


def products_pay() -> bool:
    """Whether training uses the kernels' own products: not where oneDNN has AMX and an old compiler left them without.

    Sampling uses them everywhere, so that an image's bits do not depend on the batch.
    """
    return available() and (takes_tiles() or "amx_bf16" not in _processor_flags())


@functools.cache
def takes_tiles() -> bool:
    """Whether products use AMX tiles: this processor, the compiler and Linux all must have them."""
    library = _library()
    return isinstance(library, ctypes.CDLL) and not library.tiles_use(1)


@functools.cache
def speedup() -> float:
    """How many times faster a linear is on the kernels than in float32; 0 without kernels. Measured once a machine."""
    library = _library()
    if not isinstance(library, ctypes.CDLL):
        return 0.0
    kept = Path(library._name).with_suffix(".json")  # noqa: SLF001
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return float(json.loads(kept.read_text(encoding="utf-8"))["speedup"])
    found = _measured()
    with contextlib.suppress(SpherectlError):
        write_text(kept, json.dumps({"speedup": round(found, 3)}) + "\n")
    return found


def explain() -> str:
    """The state of the kernels for `spherectl doctor`: "works", or why not."""
    found = _library()
    if isinstance(found, str):
        return found
    on = "AMX" if takes_tiles() else "AVX512-BF16"
    return f"works on {on} (bfloat16 products {speedup():.1f} times as fast as float32)"


def call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a kernel. Tensors are passed by address, and must be contiguous unless csrc/ says otherwise.

    Raises:
        MemoryError: the kernel's buffers do not fit.
    """
    library = _library()
    assert isinstance(library, ctypes.CDLL)
    plain = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
    if getattr(library, name)(*plain):
        raise MemoryError(f"No memory for the buffers of {name}.")


def even(x: Tensor) -> Tensor:
    """(..., channels), contiguous, with one more channel of zeros if their number is odd: products take pairs."""
    return F.pad(x, (0, 1)) if x.shape[-1] % 2 else x.contiguous()


def rounded_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return -(-number // multiple) * multiple


def bfloat16_product(rows: int, side: int) -> Callable[[], object]:
    """The fastest bfloat16 linear of `side` to `side` (a multiple of 32) over `rows` rows, as a call to be timed."""
    if products_pay():
        return _own_product(rows, side)
    half, weight = torch.ones(rows, side, dtype=torch.bfloat16), torch.ones(side, side, dtype=torch.bfloat16)
    return lambda: F.linear(half, weight)


def _own_product(rows: int, side: int) -> Callable[[], object]:
    half, out = torch.ones(rows, side, dtype=torch.bfloat16), torch.empty(rows, side, dtype=torch.bfloat16)
    packed = torch.ones(side, side, dtype=torch.bfloat16)  # of equal entries, so in any layout
    bias = torch.zeros(side)
    return lambda: call("linear_forward", rows, side, side, PLAIN, half, packed, bias, None, 0, rows, out)


def _measured() -> float:
    """Speed of a linear of 768 to 768 over 1,024 rows: the best of each way, in turns so that both meet other work."""
    rows, side = 1024, 768
    x, weight, bias = torch.ones(rows, side), torch.ones(side, side), torch.zeros(side)
    ways: tuple[Callable[[], object], ...] = (lambda: F.linear(x, weight, bias), _own_product(rows, side))
    best = [math.inf, math.inf]
    for _ in range(MEASURED_CALLS):
        for index, function in enumerate(ways):
            began = time.perf_counter()
            function()
            best[index] = min(best[index], time.perf_counter() - began)
    return best[0] / best[1]


@functools.cache
def _library() -> ctypes.CDLL | str:
    """The loaded library, or why there is none. The first call on a machine compiles for seconds."""
    settings = load_settings()
    if not settings.kernels:
        return "switched off by the setting `kernels`"
    if platform.system() != "Linux":
        return f"on Linux only, not on {platform.system()}"
    flags = _processor_flags()
    if missing := [flag for flag in PROCESSOR if flag not in flags]:
        return f"this processor lacks {', '.join(missing)}"
    try:
        return _load(_built(settings.cache / "kernels", flags))
    except (OSError, SpherectlError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines() or [type(error).__name__]
        return f"cannot be built or loaded: {next((line for line in lines if 'error:' in line), lines[-1])}"


@functools.cache
def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _built(folder: Path, flags: frozenset[str]) -> Path:
    """The library of this source, these options and this processor, compiled if it is not in the folder yet."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if compiler is None:
        raise FileNotFoundError(f"no C compiler ({', '.join(COMPILERS)})")
    parts = [*(path.read_bytes() for path in SOURCES), " ".join(FLAGS).encode(), " ".join(sorted(flags)).encode()]
    target = folder / f"{hashlib.sha256(b'|'.join(parts)).hexdigest()[:16]}.so"
    if not target.exists():
        files = [path for path in SOURCES if path.suffix == ".c"]
        with tempfile.TemporaryDirectory() as scratch, replacing(target.absolute()) as temporary:
            # Linked without OpenMP's runtime: torch has brought one, and two would fight for the cores.
            run = functools.partial(
                subprocess.run, check=True, capture_output=True, text=True, timeout=COMPILE_S, cwd=scratch
            )
            run([compiler, *FLAGS, "-c", *files])
            run([compiler, "-shared", *(f"{path.stem}.o" for path in files), "-o", temporary, "-lm"])
    return target


def _load(path: Path) -> ctypes.CDLL:
    torch.get_num_threads()  # so that torch has loaded its OpenMP runtime
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()}
    runtimes = sorted(name for name in mapped if re.search(r"/lib(gomp|omp|iomp5)[^/]*\.so", name))
    if not runtimes:
        raise OSError("torch has no OpenMP runtime")
    ctypes.CDLL(runtimes[0], mode=ctypes.RTLD_GLOBAL | os.RTLD_NOW)
    library = ctypes.CDLL(str(path))
    for name, letters in SIGNATURES.items():
        getattr(library, name).argtypes = [TYPES[letter] for letter in letters]
        getattr(library, name).restype = ctypes.c_int
    library.tiles_use(1)
    return library

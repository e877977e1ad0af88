"""`python tests/hostile --count 10000 --seed 0 --json out.json`: look for faults, and print them by kind and place.

`--keep FOLDER` keeps the files of the first input of each fault, with `about.json` beside them; `--kind` asks only that
generator, repeatedly given those; `--seconds` ends the search early.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import tests  # noqa: E402 - some library brings a package of that name as well

tests.__path__[:0] = [str(ROOT / "tests")]

from tests.hostile.search import KINDS, search  # noqa: E402


def main() -> int:
    """The command line; 1 where there was a fault."""
    parser = argparse.ArgumentParser(prog="python tests/hostile", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--kind", action="append", choices=sorted(KINDS))
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="spherectl-hostile-") as scratch:
        found = search(
            {kind: KINDS[kind] for kind in asked.kind or KINDS},
            scratch=Path(scratch),
            count=asked.count,
            seed=asked.seed,
            seconds=asked.seconds,
            keep=asked.keep,
            told=lambda line: print(line, flush=True),
        )
    if asked.json:
        asked.json.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    print(
        f"{found.inputs:,} inputs in {found.seconds:.0f} s: {found.faults:,} with a fault, {len(found.groups)} faults"
    )
    return int(bool(found.faults))


if __name__ == "__main__":
    sys.exit(main())

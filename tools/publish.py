"""Put a trained model into the zoo: its file with a full header, and its entry's hash and size.

Run it when the training ends, and again for what is measured afterwards, which only changes the header:

    python -m tools.publish emoji --from runs/emoji/model.safetensors --licence Apache-2.0 --hours 2
    python -m tools.publish emoji --report scores/report.json
    python -m tools.publish emoji --restoration docs/restoration.json

A run that began from the entry's own file (`train --from`) goes on with it: images and hours are those of both. How it
draws is what its recipe says today. The entry in zoo/index.toml, and the card, are written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spherectl import recipe as recipes
from spherectl import zoo
from spherectl.errors import FileError, SpherectlError
from spherectl.files import file_hash, write_text
from spherectl.model.formats.weights import Package, read_package, write_package

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 25_000_000  # what a file in the repository may have

# By the key of a report: what the header calls a score.
SCORES = {
    "accuracy": "class accuracy",
    "frechet_distance": "Frechet distance",
    "kid": "KID",
    "recall": "recall",
}
DECIMALS = 4  # of those


def main() -> None:
    """Publish one model."""
    parser = argparse.ArgumentParser(prog="tools.publish", description=__doc__.partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="of the entry and of the recipe")
    parser.add_argument("--from", dest="source", type=Path, help="a run's model; default: the zoo's, for a new header")
    parser.add_argument("--licence", help="of the weights")
    parser.add_argument("--hours", type=float, help="that the training took")
    parser.add_argument("--report", type=Path, help="report.json of `spherectl evaluate`, whose scores are noted")
    parser.add_argument(
        "--restoration", type=Path, help="restoration.json, whose settings are noted, and the new hash in it"
    )
    parser.add_argument("--zoo", type=Path, default=ROOT / "zoo", help="default %(default)s")
    given = parser.parse_args()
    try:
        told = publish(given)
    except SpherectlError as error:
        sys.exit(f"error: {error}")
    print(told)


def publish(given: argparse.Namespace) -> str:
    """Write the file and the entry; what the entry says now.

    Raises:
        FileError: a file is missing, not as it should be, or too large for a repository; before anything is written.
    """
    target: Path = given.zoo / f"{given.name}.safetensors"
    index = Index(given.zoo / "index.toml", given.name)
    package = read_package(given.source or target)
    size = sum(tensor.nbytes for tensor in package.weights.values())
    if size > MAX_BYTES:
        raise FileError(f"The weights have {size:,} bytes; expected at most {MAX_BYTES:,}.")
    facts = {"licence": given.licence, "hours": given.hours}
    header = package.header | {key: value for key, value in facts.items() if value is not None}
    header["recipe"] = header["recipe"] | {"sample": recipes.load(zoo.find_recipe(given.name)).to_table()["sample"]}
    if given.source:
        header |= {"command": f"spherectl train {given.name}"} | _with_the_parents(header, target, given.name)
    if given.report:
        header["scores"] = list(_scores(_read(given.report)))
    if given.restoration:
        measured = _read(given.restoration)
        settings = {task: found["chosen"] for task, found in measured[given.name]["tasks"].items()}
        header["editing"] = header.get("editing", {}) | {"restore": settings}
    write_package(target, Package(header, package.weights))  # averaged weights alone
    digest = file_hash(target)
    entry = {"sha256": f'"{digest}"', "bytes": str(target.stat().st_size)}
    index.change(entry)
    if given.restoration:  # of the same weights under a new header
        measured[given.name]["model_sha256"] = digest
        write_text(given.restoration, json.dumps(measured, indent=1) + "\n")
    return "\n".join([str(target), *(f"{key} = {value}" for key, value in entry.items())])


class Index:
    """The text of an index, of which one entry is to change.

    Args:
        path: of it.
        name: the entry's.

    Raises:
        FileError: there is not one such entry.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8")
        self._head, *self._entries = re.split(r"(?m)^(?=\[\[entry\]\]$)", text)
        named = re.compile(rf'(?m)^name = "{re.escape(name)}"$')
        found = [place for place, entry in enumerate(self._entries) if named.search(entry)]
        if len(found) != 1:
            raise FileError(f"{path} has {len(found)} entries of the name {name}; expected one.")
        self._place = found[0]

    def change(self, facts: dict[str, str]) -> None:
        """Give values of the entry anew, and leave all else as it is."""
        entry = self._entries[self._place]
        for key, value in facts.items():
            entry = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", entry)
        self._entries[self._place] = entry
        write_text(self.path, self._head + "".join(self._entries))


def _with_the_parents(header: dict[str, Any], target: Path, name: str) -> dict[str, Any]:
    """Of a run that went on from the entry's file: the command for it, and images and hours of both trainings."""
    if not header["parent"]:
        return {}
    if not target.exists() or header["parent"] != file_hash(target):
        raise FileError(f"The run began from another model than {target}: {header['parent'][:12]}.")
    earlier = read_package(target).header
    images, hours = (header.get(key, 0) + earlier.get(key, 0) for key in ("images_seen", "hours"))
    return {"command": f"spherectl train {name} --from {name}", "images_seen": images, "hours": round(hours, 2)}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"Cannot read {path}: {error}.") from None
    return found


def _scores(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The header's scores from a report."""
    command = report["command"].partition(" --out ")[0]
    for row in report["rows"]:
        steps, guidance = row["settings"]["steps"], row["settings"]["guidance"]
        how = f"{steps} step{'s' * (steps > 1)}, " + ("unguided" if guidance == 1 else f"guidance {guidance:g}")
        for key, name in SCORES.items():
            if row["scores"].get(key) is not None:
                yield {"metric": f"{name}, {how}", "value": round(row["scores"][key], DECIMALS), "command": command}
    for row in report["reconstructions"]:
        yield {"metric": "reconstruction PSNR, dB", "value": round(row["psnr"], 1), "command": command}


if __name__ == "__main__":
    main()

"""Fetch ONNX Runtime Web through npm and compare it with the table beside it, or take another version.

    python tools/onnxruntime_web.py                    # fetch the version named there; nothing may differ
    python tools/onnxruntime_web.py --version 1.31.0   # take that one and write its hashes into the table
    python tools/onnxruntime_web.py --offline          # compare what is here, fetch nothing

Licence and notices come from the Python package onnxruntime, where a new version is taken. After that, change
RUNTIME_VERSION in spherectl/export/web.py and NOTICE, and run the tests of the page.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import files
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "spherectl" / "export" / "page" / "onnxruntime-web"
README = FOLDER / "README.md"
FROM_NPM = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
FROM_PYPI = ("LICENSE", "ThirdPartyNotices.txt")
ROW = re.compile(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", re.MULTILINE)


def recorded() -> tuple[str, dict[str, str]]:
    """The version and the hashes that the table has."""
    text = README.read_text(encoding="utf-8")
    title = re.search(r"^# ONNX Runtime Web (\S+)$", text, re.MULTILINE)
    assert title is not None
    return title[1], dict(ROW.findall(text))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each vendored file in a folder; files that are not there are left out."""
    places = {name: folder / name for name in (*FROM_NPM, *FROM_PYPI)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in places.items() if path.is_file()}


def fetch(version: str, folder: Path) -> None:
    """Unpack the two files of an npm version into a folder."""
    package = f"onnxruntime-web@{version}"
    done = subprocess.run(
        ["npm", "pack", "--silent", "--pack-destination", folder, package],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        for name in FROM_NPM:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())


def take_licence(folder: Path) -> None:
    """Copy the texts of the installed Python package."""
    for path in files("onnxruntime") or ():
        if path.name in FROM_PYPI and path.parent.name == "onnxruntime":
            shutil.copyfile(path.locate(), folder / path.name)


def compare(found: dict[str, str], expected: dict[str, str]) -> None:
    """End with a sentence unless all hashes are as expected."""
    if wrong := sorted(name for name in expected if found.get(name) != expected[name]):
        sys.exit(f"Not as {README} says: {', '.join(wrong)}.")


def main() -> None:
    """Compare, or replace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--version", help="take this version instead of the one there is")
    parser.add_argument("--offline", action="store_true", help="compare what is here with the table, and no more")
    asked = parser.parse_args()
    version, expected = recorded()
    if asked.offline:
        compare(hashes(FOLDER), expected)
        print(f"onnxruntime-web {version} is as the table says")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fetch(asked.version or version, folder)
        if asked.version and asked.version != version:
            take_licence(folder)
            text = README.read_text(encoding="utf-8").replace(f"Web {version}\n", f"Web {asked.version}\n", 1)
            new = hashes(folder)
            README.write_text(ROW.sub(lambda row: f"| {row[1]} | {new[row[1]]} |", text), encoding="utf-8")
        else:
            compare(hashes(folder), {name: expected[name] for name in FROM_NPM})
        for name in hashes(folder):
            shutil.copyfile(folder / name, FOLDER / name)
    version, expected = recorded()
    compare(hashes(FOLDER), expected)
    print(f"onnxruntime-web {version} is in {FOLDER}")


if __name__ == "__main__":
    main()

"""Emoji drawings as a data set: two openly licensed sets from the npm registry, sorted into Unicode's groups.

Noto Emoji by Google (Apache-2.0) and Twemoji by Twitter and others (CC BY 4.0), both as 64 px PNGs in Cal Henderson's
emoji-datasource packages 16.0.0. Every emoji is taken once from each; variants in skin tones are left out, because they
would be three of every five drawings.
"""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from spherectl.data.sets import DatasetRecord, Download
from spherectl.data.sets.folder import read
from spherectl.documents import parse_json
from spherectl.errors import FileError
from spherectl.shown import quoted

# Unicode's groups, by the names that class folders have. "Component", five swatches of skin and hair, is no group here.
GROUPS: dict[str, str] = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}

MAX_LIST = 64 << 20  # bytes of the list of emoji; it has 2 million
HELD_OUT = 26 / 256  # share of the drawings in the test set

_KEYS = ("category", "image", "unified")  # of an emoji in the list

# Code points that change how a thing is shown, not which: joiner, presentation, the two genders, facing right.
_MODIFIERS = {"200D", "FE0F", "2640", "2642", "27A1"}
_PERSONS = {"1F468": "1F9D1", "1F469": "1F9D1"}  # man and woman: person

_NOTICE = """\
Emoji drawings of 64 px, sorted by Unicode's groups; variants in skin tones are left out.

noto-*.png     Noto Emoji, Copyright Google LLC, Apache License 2.0
               https://github.com/googlefonts/noto-emoji
twemoji-*.png  Twemoji, Copyright Twitter, Inc and other contributors, CC BY 4.0
               https://github.com/jdecked/twemoji, https://creativecommons.org/licenses/by/4.0/

Both as packaged by emoji-datasource 16.0.0 (Cal Henderson, MIT): https://github.com/iamcal/emoji-data
"""


class Package(NamedTuple):
    """One set of drawings as a package of the npm registry."""

    prefix: str  # of its drawings' names
    vendor: str  # what the package calls the set
    url: str
    sha256: str


_REGISTRY = "https://registry.npmjs.org/emoji-datasource-"
PACKAGES = (
    Package(
        "noto",
        "google",
        f"{_REGISTRY}google/-/emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Package(
        "twemoji",
        "twitter",
        f"{_REGISTRY}twitter/-/emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
)


def find(place: Path) -> Path | None:
    """The folder itself, if it has been prepared."""
    return place if all((place / "train" / name).is_dir() for name in GROUPS.values()) else None


def fetch(folder: Path) -> None:
    """Fetch both packages, write their drawings as class folders, and let the packages go again.

    Args:
        folder: made, with train/GROUP/*.png, test/GROUP/*.png and the makers' notice.

    Raises:
        SpherectlError: the network refuses, or what arrives is another file.
        FileError: a folder cannot be written.
    """
    from spherectl.fetch import fetch_url

    for package in PACKAGES:
        archive = fetch_url(package.url, package.sha256, f"emoji/{package.prefix}.tgz")
        prepare(archive, package, folder)
        archive.unlink()
    (folder / "NOTICE.txt").write_text(_NOTICE, encoding="utf-8")


def prepare(archive: Path, package: Package, folder: Path) -> None:
    """Write one package's drawings as class folders.

    Raises:
        FileError: the archive is not such a package.
    """
    try:
        emoji, drawings = _read(archive, package)
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        raise FileError(f"Cannot read {archive}: {error}.", "Remove the file and fetch it again.") from None
    for one in emoji:
        group, drawing = GROUPS.get(one["category"]), drawings.get(one["image"])
        if group is None or drawing is None:
            continue
        place = folder / ("test" if is_held_out(one["unified"]) else "train") / group
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{package.prefix}-{one['image']}").write_bytes(drawing)


def is_held_out(unified: str) -> bool:
    """Whether an emoji's drawings are for the test; the same thing in another gender or direction is on the same side.

    Args:
        unified: its code points, "1F468-200D-2695-FE0F".
    """
    points = [_PERSONS.get(point, point) for point in unified.upper().split("-") if point not in _MODIFIERS]
    return hashlib.sha256("-".join(points).encode()).digest()[0] < HELD_OUT * 256


def _read(archive: Path, package: Package) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The list of emoji, and the drawings' files by name."""
    emoji: Any = None
    drawings: dict[str, bytes] = {}
    with tarfile.open(archive, "r|gz") as tar:  # in one pass: seeking would decompress it again
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                continue
            if member.name == "package/emoji.json":
                emoji = parse_json(content.read(), most_bytes=MAX_LIST)
            elif member.name.startswith(f"package/img/{package.vendor}/64/"):
                drawings[member.name.rpartition("/")[2]] = content.read()
    if emoji is None or not drawings:
        raise ValueError(f"it has no emoji.json, or no drawings by {package.vendor}")
    for one in emoji if isinstance(emoji, list) else [emoji]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), str) for key in _KEYS):
            raise ValueError(f"expected a list of emoji with {' and '.join(_KEYS)}, got {quoted(one)}")
    return emoji, drawings


RECORD = DatasetRecord(
    name="emoji",
    place="the set's own files",
    licence="Apache-2.0 (Noto Emoji) and CC BY 4.0 (Twemoji)",
    class_names=tuple(sorted(GROUPS.values())),
    train_images=3_432,
    image_px="64",
    find=find,
    expected="train/ and test/ with a folder for each of Unicode's groups",
    read=read,
    download=Download(
        title="Noto Emoji and Twemoji",
        folder="emoji",
        site="registry.npmjs.org",
        megabytes=136,
        fetch=lambda into: fetch(into / "emoji"),
    ),
)

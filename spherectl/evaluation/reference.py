"""What samples are compared with: features of real images, or the statistics that somebody published of them.

Statistics travel as the .npz file that the authors and the ADM suite publish: `mu` (D,) and `sigma` (D, D). Ours say
beside it what they are of. Features are kept in the cache under a name made from all that decides them, contents of the
images and weights of the network included.

Letters: n images, D width of the embedding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spherectl.arrays import Expected, read_npz
from spherectl.data.datasets import ImageSet
from spherectl.documents import parse_table
from spherectl.errors import FileError, UsageError
from spherectl.evaluation.embeddings import Features, Images, Part, extract
from spherectl.evaluation.extractors import Extractor
from spherectl.files import replacing
from spherectl.model import seeding
from spherectl.processes import Processes
from spherectl.progress import Progress
from spherectl.recipe import MAX_COUNT, MAX_IMAGE_SIZE
from spherectl.settings import load_settings
from spherectl.validation import validated

Array = npt.NDArray[np.float64]

FORMAT = 1

# Sets above this size are represented by a random part, as the paper does with ImageNet.
LARGEST, PART = 200_000, 50_000

MAX_WIDTH = 4_096  # D of published statistics; Inception has 2,048, DINOv2's largest 1,536
MAX_MOMENT = 1e12  # of a mean or a covariance; above, a distance is none in float64
MAX_ABOUT = 10_000  # characters that statistics say of themselves
MAX_LOGITS = 100_000  # classes of a scoring network

STATISTICS = {
    "mu": Expected("f", (MAX_WIDTH,)),
    "sigma": Expected("f", (MAX_WIDTH, MAX_WIDTH)),
    "about": Expected("U", ()),
}
FEATURES = {"embedding": Expected("f", (LARGEST, MAX_WIDTH)), "logits": Expected("f", (LARGEST, MAX_LOGITS))}
AGAIN = "Make it again with --save-stats, or fetch it again."


class About(BaseModel):
    """What statistics say of themselves; what is not said is not known."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]  # of Literal[1], True is one too
    name: Annotated[str, Field(max_length=1_000)] | None = None
    features: Annotated[str, Field(max_length=1_000)] | None = None
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = None
    count: Annotated[int, Field(ge=2, le=MAX_COUNT)] | None = None


@dataclass(frozen=True, eq=False)
class Reference:
    """One side of a comparison.

    Attributes:
        name: what it is, for people: "fashion-mnist test, 10,000 images".
        mean: (D,).
        covariance: (D, D), over n - 1.
        features: of the images; None for published statistics, which serve a Frechet distance alone.
        extractor: name of the network; None where the file does not say.
        image_size: of the images; None where the file does not say.
        count: n; None where the file does not say.
    """

    name: str
    mean: Array
    covariance: Array
    features: Features | None
    extractor: str | None
    image_size: int | None
    count: int | None


def statistics(embedding: Tensor) -> tuple[Array, Array]:
    """Mean (D,) and covariance (D, D) of features (n, D), as torch-fidelity computes them.

    Raises:
        UsageError: fewer than two.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics

    if len(embedding) < 2:
        raise UsageError(f"A Frechet distance needs at least 2 images on each side; there were {len(embedding)}.")
    found = fid_features_to_statistics(embedding)
    return np.asarray(found["mu"], np.float64), np.asarray(found["sigma"], np.float64)


def from_features(name: str, features: Features, extractor: str, image_size: int) -> Reference:
    """A reference of features at hand."""
    mean, covariance = statistics(features.embedding)
    return Reference(name, mean, covariance, features, extractor, image_size, len(features))


def of_images(
    images: ImageSet,
    extractor: Extractor,
    *,
    what: str = "",
    processes: Processes | None = None,
    progress: Progress | None = None,
) -> Reference | None:
    """The reference that a set of images makes, from the cache where it holds them.

    Args:
        images: real ones, at the model's size; of more than 200,000 a random 50,000 stand for all.
        extractor: the network.
        what: a word behind the set's name, such as "test".
        processes: those that share the work.
        progress: called with images done and images in all.

    Returns:
        On the first process the reference; None on the others.
    """
    shared = processes or Processes()
    chosen: Images = images
    if len(images) > LARGEST:
        chosen = Part(images, seeding.permutation(0, seeding.ORDER, 0, len(images))[:PART].sort().values)
    cached, found = Path(), None
    if shared.is_first:
        parts = {"format": FORMAT, "network": extractor.digest, "images": images.fingerprint(), "n": len(chosen)}
        name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        cached = load_settings().cache / "features" / f"{name}.npz"
        found = _read_features(cached)
    if not shared.agree(found is not None):
        found = extract(chosen, extractor, processes=shared, progress=progress)
        if found is not None:
            with contextlib.suppress(FileError):  # a cache that cannot be written costs the next one time, not this one
                _write_features(cached, found)
    if found is None:
        return None
    name = " ".join(word for word in (images.name, what) if word)
    return from_features(f"{name}, {len(found):,} images", found, extractor.name, images.image_size)


def save_statistics(path: Path, reference: Reference) -> None:
    """Write mu and sigma as the authors and the ADM suite publish them, and beside them what they are of.

    Raises:
        FileError: the place cannot be written.
    """
    about = {
        "format": FORMAT,
        "name": reference.name,
        "features": reference.extractor,
        "image_size": reference.image_size,
        "count": reference.count,
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mu=reference.mean, sigma=reference.covariance, about=np.array(json.dumps(about)))


def read_statistics(path: Path, extractor: Extractor, image_size: int) -> Reference:
    """The statistics of a file, ours or somebody else's.

    Args:
        path: .npz with mu and sigma.
        extractor: the network that scores.
        image_size: of the samples, in pixels.

    Raises:
        UsageError: they are of another network or of another size than the samples, where the file says so or its
            widths do.
        FileError: the file is missing, damaged, or holds no statistics.
    """
    arrays = read_npz(path, STATISTICS, AGAIN)
    mean, covariance = arrays.get("mu"), arrays.get("sigma")
    if mean is None or covariance is None:
        raise FileError(
            f"{path} holds no statistics: expected the arrays mu and sigma, as --save-stats writes them.",
            "Give images as a folder.",
        )
    if covariance.shape != (len(mean), len(mean)):
        raise FileError(
            f"Expected mu of shape (D,) and sigma (D, D) in {path}, got {mean.shape} and {covariance.shape}."
        )
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not all((np.abs(array) <= MAX_MOMENT).all() for array in (mean, covariance)):  # written so that NaN fails too
        raise FileError(f"{path} holds statistics that are not all finite numbers; it is damaged.")
    about = _about(arrays["about"], path) if "about" in arrays else About(format=1)
    if about.features not in (None, extractor.name):
        raise UsageError(
            f"{path} holds statistics of the features of {about.features}; "
            f"those of {extractor.name} are not comparable.",
            f"Score with --features {about.features}, or give a reference of images.",
        )
    width = extractor(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))["embedding"].shape[1]
    if len(mean) != width:
        raise UsageError(
            f"{path} holds statistics of {len(mean)} features; {extractor.name} has {width}, so the networks differ."
        )
    if about.image_size not in (None, image_size):
        raise UsageError(
            f"{path} holds statistics of images of {about.image_size} px; the samples have {image_size} px.",
            f"Give the folder of those images, which are then brought to {image_size} px, or statistics made so.",
        )
    name = path.name if about.name is None else about.name
    return Reference(name, mean, covariance, None, about.features, about.image_size, about.count)


def _about(array: npt.NDArray[np.str_], path: Path) -> About:
    what = f"What {path} says about itself"
    return validated(About, parse_table(str(array), what, most_bytes=MAX_ABOUT), what)


def _write_features(path: Path, features: Features) -> None:
    arrays = {"embedding": features.embedding.numpy()}
    if features.logits is not None:
        arrays["logits"] = features.logits.numpy()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_features(path: Path) -> Features | None:
    """What is in the cache; a damaged file counts as none, and is written again."""
    try:
        arrays = read_npz(path, FEATURES)
    except FileError:
        return None
    if "embedding" not in arrays:
        return None
    logits = arrays.get("logits")
    return Features(_tensor(arrays["embedding"]), None if logits is None else _tensor(logits))


def _tensor(array: npt.NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))

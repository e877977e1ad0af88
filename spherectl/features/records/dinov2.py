"""DINOv2 in four sizes, which torch-fidelity loads through torch.hub."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.errors import SpherectlError
from spherectl.features.records import FeatureRecord
from spherectl.progress import Progress

if TYPE_CHECKING:
    from torch import nn


def load(name: str, _file: Path | None, _progress: Progress | None = None) -> nn.Module:
    """torch-fidelity's network of a name.

    Raises:
        SpherectlError: torch.hub cannot fetch its code or weights.
    """
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    try:
        return FeatureExtractorDinoV2(name, ["dinov2"], verbose=False)  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 - torch.hub raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SpherectlError(
            f"Cannot load {name}, which torch.hub fetches from github.com/facebookresearch/dinov2: {reason}.",
            "Score with --features inception:PATH, or a scoring network of the zoo (`spherectl zoo ls`).",
        ) from None


RECORDS = tuple(
    FeatureRecord(
        name=f"dinov2-vit-{size}-14",
        use="scores: Frechet distance, KID, precision, recall",
        licence="Apache-2.0",
        weights="torch.hub, from github.com/facebookresearch/dinov2",
        width=width,
        load=functools.partial(load, f"dinov2-vit-{size}-14"),
        layers=("dinov2", None),
        identity="FeatureExtractorDinoV2",
    )
    for size, width in (("s", 384), ("b", 768), ("l", 1024), ("g", 1536))
)

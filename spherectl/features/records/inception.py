"""Inception-v3 of 2015 as torch-fidelity has it: the network of published FID and Inception Scores."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from spherectl.errors import FileError, UsageError
from spherectl.features.records import FeatureRecord, Source
from spherectl.files import is_there
from spherectl.progress import Progress

if TYPE_CHECKING:
    from torch import nn

# Converted by torch-fidelity from the original TensorFlow graph.
SOURCE = Source(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
LAYERS = ("2048", "logits_unbiased")


def load(file: Path | None, progress: Progress | None = None) -> nn.Module:
    """torch-fidelity's network, its weights read without unpickling, its convolutions in the faster memory layout.

    Raises:
        UsageError: there is no such file.
        FileError: the file is damaged or holds other weights.
        SpherectlError: it cannot be fetched; the hint says where to put it.
    """
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from spherectl.fetch import fetch_url
    from spherectl.model.formats.pickles import read_tensors

    if file is None:
        file = fetch_url(SOURCE.url, SOURCE.sha256, RECORD.place, progress)
    if not is_there(file):
        raise UsageError(
            f"Expected Inception's weights at {file}; there is no such file.", f"It is the file at {SOURCE.url}."
        )
    hint = f"Download {SOURCE.url} again."
    # torch-fidelity unpickles the file it is given, so it gets one that was written here a moment ago.
    torch.save(read_tensors(file, hint), safe := io.BytesIO())
    safe.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", [*LAYERS], feature_extractor_weights_path=safe)
    except RuntimeError:  # names or shapes of another network
        raise FileError(f"{file} does not hold the weights of torch-fidelity's Inception-v3.", hint) from None
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


RECORD = FeatureRecord(
    name="inception",
    use="scores: FID, Inception Score, KID, precision, recall",
    licence="Apache-2.0",
    weights="torch-fidelity's release on GitHub, 96 MB",
    width=2048,
    classes=1008,
    source=SOURCE,
    cache="torch-fidelity",
    load=load,
    layers=LAYERS,
    identity="Inception",
    takes_file=True,
)
RECORDS = (RECORD,)

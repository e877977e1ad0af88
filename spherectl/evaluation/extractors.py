"""Networks whose features the scores compare: torch-fidelity's Inception and DINOv2, and the zoo's scoring networks.

All are torch-fidelity's `FeatureExtractorBase`, so its own functions take them too. `spherectl.features.records` says
which there are and where their weights come from.

Letters: B batch, H and W image sides, D width of the embedding, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from spherectl import zoo
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.features.records import FeatureRecord, inception, records
from spherectl.features.store import find_feature_network, fingerprint, load_feature_network, read_feature_header
from spherectl.files import expanded
from spherectl.progress import Progress
from spherectl.settings import load_settings

INCEPTION = inception.RECORD.name

# Images go through a network so many at a time, the last ones filled up, so that their features do not depend on how
# many there are or on who computes them.
CHUNK = 32


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network and what its outputs mean.

    Attributes:
        name: as it was asked for, without paths.
        network: takes uint8 (B, 3, H, W); returns the layers below as a tuple.
        embedding: the layer that distances are measured in.
        logits: the layer that holds a class's logits; None where there is none.
        digest: SHA-256 over the network's kind, name and weights.
        device: where it computes.
        image_size: side of the images it was made for; None: any, resized inside.
        class_names: of `logits`, where they are those of a data set of ours.
        scorer: the bare network, for a zoo network.
    """

    name: str
    network: FeatureExtractorBase
    embedding: str
    logits: str | None
    digest: str
    device: torch.device
    image_size: int | None = None
    class_names: tuple[str, ...] = ()
    scorer: nn.Module | None = None

    @property
    def is_inception(self) -> bool:
        """Whether a Frechet distance of these features is called FID, and a score of these logits Inception Score."""
        return isinstance(self.network, FeatureExtractorInceptionV3)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: uint8 (B, 3, H, W), B at least 1.

        Returns:
            "embedding" (B, D) float32 on the CPU, and "logits" (B, K) where there are any.

        Raises:
            UsageError: not such images, or of a size that the network was not made for.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise UsageError(f"Expected images uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}.")
        if self.image_size not in (None, images.shape[2]) or self.image_size not in (None, images.shape[3]):
            raise UsageError(
                f"{self.name} was made for images of {self.image_size} px, got {images.shape[3]}x{images.shape[2]}.",
                f"Score them with --features {INCEPTION}.",
            )
        wanted = {"embedding": self.embedding} | ({"logits": self.logits} if self.logits else {})
        parts: dict[str, list[Tensor]] = {key: [] for key in wanted}
        for some in images.split(CHUNK):
            filled = torch.cat((some, some[-1:].expand(CHUNK - len(some), -1, -1, -1)))  # (CHUNK, 3, H, W)
            outputs = self.network.convert_features_tuple_to_dict(self.network(filled.to(self.device)))
            for key, layer in wanted.items():
                parts[key].append(outputs[layer][: len(some)].float().cpu())
        return {key: torch.cat(part) for key, part in parts.items()}


class ScoringNetwork(FeatureExtractorBase):  # type: ignore[misc]
    """A feature network of the zoo, as torch-fidelity wants it.

    Args:
        name: "spherectl-" and a zoo name; for a file any name.
        features_list: of "embedding" and "logits".
        feature_extractor_weights_path: the file, or the network, for one that is not of the zoo.
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: Path | nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(name, features_list)
        checked(**options)
        given = feature_extractor_weights_path
        source = name.removeprefix(_PREFIX) if given is None else given
        self.network = source if isinstance(source, nn.Module) else load_feature_network(source)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """uint8 (B, 3, H, W) to the layers of `features_list`."""
        network: Any = self.network
        embedding = network.embed(to_float(images))  # (B, D)
        return tuple(embedding if name == "embedding" else network.head(embedding) for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Names of the layers."""
        return "embedding", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The layer for a metric of torch-fidelity's."""
        return "logits" if metric == "isc" else "embedding"

    @staticmethod
    def can_be_compiled() -> bool:
        """It is small: compiling takes longer than using."""
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        """An image, were it compiled."""
        return torch.zeros(1, 3, 32, 32, dtype=torch.uint8)


_PREFIX = "spherectl-"


def checked(**options: Any) -> dict[str, Any]:
    """Options for torch-fidelity, which itself ignores those it does not know.

    Raises:
        UsageError: there is no such option.
    """
    unknown = sorted(options.keys() - DEFAULTS.keys())
    if unknown:
        raise UsageError(f"torch-fidelity has no option {', '.join(unknown)}; it would ignore a misspelt one.")
    return options


def register(name: str) -> str:
    """Make a scoring network of the zoo known to torch-fidelity.

    Args:
        name: in the zoo, such as fashion-scorer.

    Returns:
        What `torch_fidelity.calculate_metrics(feature_extractor=...)` calls it; calling twice does no harm.
    """
    find_feature_network(name)
    registered = f"{_PREFIX}{name}"
    if registered not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(registered, ScoringNetwork)
    return registered


def default_features(data: str) -> str:
    """The scoring network that the zoo has at hand for a kind of data, else "inception".

    Args:
        data: a recipe's data.kind.
    """
    settings = load_settings()
    for name, entry in sorted(zoo.index(settings).items()):
        if entry.kind == "features" and entry.state(settings) == "here":
            header = read_feature_header(find_feature_network(name))
            if header.get("use") == "scores" and header.get("data") == data:
                return name
    return INCEPTION


def open_extractor(features: str, device: torch.device | str = "cpu", progress: Progress | None = None) -> Extractor:
    """The network behind --features.

    Args:
        features: a record's name, "inception:PATH" with the weights' file, a scoring network of the zoo, or a feature
            network's file.
        device: where to compute.
        progress: called with bytes done and bytes in all while weights are fetched.

    Raises:
        UsageError: there is no such network.
        FileError: its file is damaged.
        SpherectlError: it cannot be fetched; the hint says where to put it.
    """
    where = torch.device(device)
    name, _, path = features.partition(":")
    record = records().get(name)
    if record is not None and record.load is not None and (record.takes_file or not path):
        return _of_record(record, record.load(expanded(path) if path else None, progress), where)
    file = find_feature_network(features)
    header = read_feature_header(file)
    scorer = ScoringNetwork(f"{_PREFIX}{file.stem}", ["embedding", "logits"], file)
    return Extractor(
        str(header.get("name", file.stem)),
        scorer.requires_grad_(False).eval().to(where),
        "embedding",
        "logits",
        _digest(scorer),
        where,
        int(header["image_size"]),
        tuple(header.get("class_names", ())),
        scorer.network,
    )


def _of_record(record: FeatureRecord, network: nn.Module, where: torch.device) -> Extractor:
    layers, scorer = record.layers, None
    if not isinstance(network, FeatureExtractorBase):
        layers, scorer = ("embedding", "logits" if record.classes else None), network
        network = ScoringNetwork(f"{_PREFIX}{record.name}", [layer for layer in layers if layer], network)
    digest = f"{record.identity or type(network).__name__}-{fingerprint(network)}"
    network = network.requires_grad_(False).eval().to(where)
    return Extractor(record.name, network, *layers, digest, where, record.image_px, scorer=scorer)


def _digest(network: FeatureExtractorBase) -> str:
    return f"{type(network).__name__}-{fingerprint(network)}"

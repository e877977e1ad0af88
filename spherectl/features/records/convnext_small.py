"""ConvNeXt-Small, whose ImageNet logits the published loss compares (`spherectl.features.imagenet`)."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, Source

SOURCE = Source(
    "https://download.pytorch.org/models/convnext_small-0c510722.pth",
    "0c510722adfd92966a2bd72b92f785ca05966bbac03cafe2f7a90b1f54bfab9a",
)

RECORDS = (
    FeatureRecord(
        name="convnext-small",
        use="loss.perceptual = lpips+convnext",
        licence="BSD-3-Clause (torchvision)",
        weights="download.pytorch.org, 201 MB",
        classes=1000,
        source=SOURCE,
    ),
)

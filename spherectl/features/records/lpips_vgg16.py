"""VGG16, whose features LPIPS 0.1 compares (`spherectl.features.imagenet`)."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, Source

SOURCE = Source(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)

RECORDS = (
    FeatureRecord(
        name="lpips-vgg16",
        use="loss.perceptual = lpips+convnext; LPIPS of reconstructions",
        licence="BSD-3-Clause (torchvision), BSD-2-Clause (heads of the package lpips)",
        weights="download.pytorch.org, 553 MB",
        source=SOURCE,
    ),
)

"""The two ImageNet networks of loss.perceptual = lpips+convnext (`spherectl.features.imagenet`)."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, Source

VGG16 = Source(
    "https://download.pytorch.org/models/vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
)
CONVNEXT_SMALL = Source(
    "https://download.pytorch.org/models/convnext_small-0c510722.pth",
    "0c510722adfd92966a2bd72b92f785ca05966bbac03cafe2f7a90b1f54bfab9a",
)

RECORDS = (
    FeatureRecord(
        name="lpips-vgg16",
        use="loss.perceptual = lpips+convnext; LPIPS of reconstructions",
        licence="BSD-3-Clause (torchvision), BSD-2-Clause (heads of the package lpips)",
        weights="download.pytorch.org, 553 MB",
        source=VGG16,
    ),
    FeatureRecord(
        name="convnext-small",
        use="loss.perceptual = lpips+convnext",
        licence="BSD-3-Clause (torchvision)",
        weights="download.pytorch.org, 201 MB",
        classes=1000,
        source=CONVNEXT_SMALL,
    ),
)

"""A plain classifier of Fashion-MNIST, whose stages the perceptual loss compares."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, FitPlan

RECORDS = (
    FeatureRecord(
        name="fashion-features",
        use="loss.perceptual = features:fashion-features",
        licence="Apache-2.0",
        weights="zoo",
        width=128,
        classes=10,
        image_px=32,
        plan=FitPlan(
            kind="plain",
            arguments={"widths": [32, 64, 128], "convolutions": [1, 2, 2]},
            seed=1,
            epochs=6,
            use="loss",
        ),
    ),
)

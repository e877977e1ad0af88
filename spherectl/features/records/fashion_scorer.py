"""A residual classifier of Fashion-MNIST, by which models are scored."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, FitPlan

RECORDS = (
    FeatureRecord(
        name="fashion-scorer",
        use="scores: Frechet distance, KID, precision, recall, accuracy",
        licence="Apache-2.0",
        weights="zoo",
        width=128,
        classes=10,
        image_px=32,
        plan=FitPlan(
            kind="residual",
            arguments={"widths": [32, 64, 128], "blocks": [2, 2, 2]},
            seed=2,
            epochs=10,
            use="scores",
        ),
    ),
)

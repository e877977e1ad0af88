"""Two classifiers of Fashion-MNIST: a plain one for the perceptual loss, a residual one for scores."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, FitPlan

# Each must classify at least 92% of the 10,000 test images.
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

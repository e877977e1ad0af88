"""Two classifiers of emoji groups: a plain one for the perceptual loss, a residual one for scores."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, FitPlan

# With smoothing, because 3,432 drawings are soon known by heart.
RECORDS = (
    FeatureRecord(
        name="emoji-features",
        use="loss.perceptual = features:emoji-features",
        licence="Apache-2.0",
        weights="zoo",
        width=128,
        classes=9,
        image_px=32,
        plan=FitPlan(
            kind="plain",
            arguments={"widths": [32, 64, 128], "convolutions": [1, 2, 2]},
            seed=1,
            epochs=20,
            use="loss",
            data="emoji",
            shift_px=3,
            label_smoothing=0.1,
        ),
    ),
    FeatureRecord(
        name="emoji-scorer",
        use="scores: Frechet distance, KID, precision, recall, accuracy",
        licence="Apache-2.0",
        weights="zoo",
        width=128,
        classes=9,
        image_px=32,
        plan=FitPlan(
            kind="residual",
            arguments={"widths": [32, 64, 128], "blocks": [2, 2, 2]},
            seed=2,
            epochs=10,
            use="scores",
            data="emoji",
            shift_px=3,
            label_smoothing=0.1,
        ),
    ),
)

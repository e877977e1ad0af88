"""A plain classifier of emoji groups, whose stages the perceptual loss compares."""

from __future__ import annotations

from spherectl.features.records import FeatureRecord, FitPlan

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
            label_smoothing=0.1,  # 3,432 drawings are soon known by heart
        ),
    ),
)

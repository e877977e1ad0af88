"""AFHQ: 512 px photographs of cats, dogs and wild animals, as class folders."""

from __future__ import annotations

from spherectl.data.sets import DatasetRecord, folder

RECORD = DatasetRecord(
    name="animal-faces",
    place="a folder, as above",
    licence="CC BY-NC 4.0 (AFHQ)",
    classes="its sub-folders: cat, dog, wild",
    train_images=14_630,
    image_px="512",
    find=folder.find,
    read=folder.read,
)

"""Compare an exported page with Python, seed by seed, and time it, in headless Chromium.

spherectl export --format web --model fashion-mnist --out page/
python -m tools.web_compare page/ --model fashion-mnist --count 20
"""

from __future__ import annotations

import argparse
import base64
import json
import statistics
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from spherectl import api
from spherectl.data.decode import decode_image
from spherectl.data.transforms import as_tensor, to_uint8
from tools.browser import Page, browsing, served

# Runs inside the page, one seed after another, and waits until each is there.
DRAW = """(async () => {{
    for (const [id, value] of Object.entries({controls})) document.getElementById(id).value = value;
    document.getElementById("sample").dispatchEvent(new Event("input"));
    while (document.querySelector("[aria-busy=true]")) await new Promise((resolve) => setTimeout(resolve, 5));
    return [document.getElementById("sampled").toDataURL(), document.getElementById("sample-said").textContent];
}})()"""


def sampled(page: Page, **controls: float) -> tuple[Tensor, float]:
    """(3, H, W) bytes of a sampled image, and the milliseconds it took."""
    url, said = page.run(DRAW.format(controls=json.dumps(controls)))
    shown = decode_image(base64.b64decode(url.partition(",")[2]), "the sample")
    return as_tensor(shown), float(said.split()[-2])


def main() -> None:
    """Draw the model's own way with classes in turn, then in one plain step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="an exported page")
    parser.add_argument("--model", help="the model it was exported from")
    parser.add_argument("--count", type=int, default=20, help="seeds")
    asked = parser.parse_args()
    model = api.load(asked.model, device="cpu", dtype="float32")
    sample, classes = model.recipe.sample, model.num_classes
    worst, milliseconds = [], []
    with tempfile.TemporaryDirectory() as profile, browsing(Path(profile)) as browser, served(asked.folder) as address:
        page = browser.open(address)
        page.wait("!document.getElementById('ready').hidden && !document.querySelector('[aria-busy=true]')")
        for seed in range(asked.count):
            label = seed % max(classes, 1)
            controls = {"seed": seed, "class": label, "steps": sample.steps, "guidance": sample.guidance}
            shown, took = sampled(page, **controls)
            image = next(api.generate(model, 1, classes=[label] if classes else None, seed=seed)).images[0]
            worst.append(int((shown.int() - to_uint8(image).int()).abs().max()))
            milliseconds.append(took)
        plain = [sampled(page, seed=seed, steps=1, guidance=1)[1] for seed in range(asked.count)]
    print(f"levels apart, at most, of {asked.count} images: {sorted(set(worst))}")
    print(f"{sample.steps} steps, guidance {sample.guidance:g}: {statistics.median(milliseconds):.0f} ms an image")
    print(f"1 step, guidance off: {statistics.median(plain):.0f} ms an image")
    print(f"torch {torch.__version__}, {asked.folder}")


if __name__ == "__main__":
    main()

"""Take the image of an exported page that the documentation shows, in headless Chromium.

spherectl export --format web --out page/
python -m tools.web_image page/ docs/web.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from spherectl.data.decode import decode_image
from tools.browser import Page, browsing, served

CONTROLS = {"seed": 12, "class": 8, "to": 21, "way": 0.5, "new-class": 7}
GAP, COLOURS, BACKGROUND = 24, 128, "white"


def settle(page: Page) -> None:
    """Until everything that was asked for is there."""
    page.wait("!document.getElementById('ready').hidden && !document.querySelector('[aria-busy=true]')")


def prepare(page: Page) -> None:
    """Fill the controls, as a person would."""
    settle(page)
    for name, value in CONTROLS.items():
        place = f"document.getElementById('{name}')"
        page.run(f"{place}.value = '{value}'; {place}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    settle(page)
    page.run("document.querySelector('#slot-first button').click()")
    page.run("document.querySelector('input[value=class]').click()")
    settle(page)


def main() -> None:
    """A wide window in light colours beside a phone in dark ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="an exported page")
    parser.add_argument("out", type=Path, help="a .png")
    asked = parser.parse_args()
    shots = []
    with tempfile.TemporaryDirectory() as profile, browsing(Path(profile)) as browser, served(asked.folder) as address:
        for width, scheme in ((860, "light"), (360, "dark")):
            page = browser.open(address, width=width, scheme=scheme)
            prepare(page)
            shots.append(decode_image(page.screenshot(), "a screenshot"))
    # The wide page whole, and of the phone's longer one as much as stands beside it.
    sheet = Image.new("RGB", (sum(s.width for s in shots) + GAP, shots[0].height), BACKGROUND)
    left = 0
    for shot in shots:
        sheet.paste(shot, (left, 0))
        left += shot.width + GAP
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(asked.out, optimize=True)
    print(f"{asked.out}: {sheet.width} x {sheet.height}, {asked.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

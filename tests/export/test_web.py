"""The exported page in headless Chromium, compared with what Python computes from the same weights."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from spherectl import api
from spherectl.cli.app import app
from spherectl.data.transforms import adm_crop, as_tensor, fit_pad, to_float, to_grey, to_uint8
from spherectl.editing.fitting import fit
from spherectl.editing.rounds import harmonise, rounds
from spherectl.editing.stitching import LAYOUTS, layout_mask
from spherectl.errors import UsageError
from spherectl.images import DIGITAL_SOURCE_TYPE, read_provenance
from spherectl.model import seeding
from spherectl.model.geometry import slerp, spherify
from tests.export.conftest import NAMES
from tools.browser import Browser, Page, browsing, chromium, served

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from spherectl.export.web import FLOAT32_UP_TO, default_precision, export_web

pytestmark = pytest.mark.slow

LEVELS = 2  # of 255, that a page in float32 may be away from Python


@pytest.fixture(scope="module")
def exported(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The page of the model with classes, by the command, and what that said."""
    target = tmp_path_factory.mktemp("web") / "garments"
    line = ["export", "--format", "web", "--model", str(model_file), "--out", str(target)]
    return target, CliRunner(env={"FORCE_COLOR": None, "NO_COLOR": "1"}).invoke(app, line)


@pytest.fixture(scope="module")
def folder(exported: tuple[Path, Result]) -> Path:
    """Where it lies."""
    return exported[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here, which skip where there is none, but not in CI, which installs it."""
    if chromium() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the page needs Chromium: apt-get install chromium")
    with browsing(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the page is served."""
    with served(folder) as url:
        yield url


@pytest.fixture(scope="module")
def page(browser: Browser, address: str) -> Page:
    """The page with classes, once it shows its first image."""
    opened = browser.open(address)
    settle(opened)
    return opened


def settle(page: Page) -> None:
    """Until the page has computed all that was asked of it."""
    page.wait("!document.getElementById('ready').hidden || document.querySelector('.wrong')?.textContent")
    page.wait("!document.querySelector('[aria-busy=true]')")


def fill(page: Page, **values: Any) -> None:
    """Give controls values as a person does, by id, and wait for what comes of it."""
    for name, value in values.items():
        place = f"document.getElementById({name.replace('_', '-')!r})"
        page.run(
            f"{place}.value = {json.dumps(str(value))}; {place}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
    settle(page)


def click(page: Page, selector: str) -> None:
    """Click an element and wait for what comes of it."""
    page.run(f"document.querySelector({selector!r}).click()")
    settle(page)


def pixels(page: Page, selector: str) -> Tensor:
    """The bytes of a canvas: uint8 (3, H, W)."""
    content = page.run(f"document.querySelector({selector!r}).toDataURL()").partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        return as_tensor(shown.convert("RGB"))


def apart(shown: Tensor, image: Tensor) -> int:
    """The largest difference in levels between bytes and a float image (1, 3, H, W) of Python."""
    return int((shown.int() - to_uint8(image)[0].int()).abs().max())


def sampled(model: api.Model, seed: int, **settings: Any) -> Tensor:
    """(1, 3, H, W): the first image of `spherectl sample --seed`."""
    return next(api.generate(model, 1, seed=seed, **settings)).images


# What is written


def test_the_command_tells_the_graphs_and_what_to_type_next(exported):
    folder, result = exported
    graphs = [folder / "decoder.onnx", folder / "encoder.onnx"]
    assert (result.exit_code, result.stdout) == (0, "".join(f"{path}\n" for path in graphs)), result.stderr
    assert "decoder.onnx: 0.2 MB, largest difference" in result.stderr
    assert f"python -m http.server --directory {folder} 8000, then open http://localhost:8000" in result.stderr


def test_a_folder_has_all_that_the_page_needs(folder, model):
    told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert told["files"] == {name: (folder / name).stat().st_size for name in ("decoder.onnx", "encoder.onnx")}
    assert told["runtime_bytes"] == (folder / "onnxruntime-web" / "ort-wasm-simd-threaded.wasm").stat().st_size
    assert (told["name"], told["class_names"], told["licence"]) == ("garments", NAMES, "CC0-1.0")
    assert (told["image_size"], told["fit"], told["channels"]) == (32, "pad", "grey")
    assert (told["tokens"], told["token_channels"]) == model.network.latent_shape
    assert told["sample"] == model.recipe.sample.model_dump()
    assert told["sigma_max"] == pytest.approx(math.tan(math.radians(65)), rel=1e-12)
    assert told["provenance"]["noise_deg"] == 65
    assert told["precision"] == "float32"
    for name in re.findall(r'(?:src|href)="([^"#]+)"', (folder / "index.html").read_text(encoding="utf-8")):
        assert (folder / name).is_file(), name


def test_files_of_others_stay_and_own_ones_are_replaced(folder, model, tmp_path, monkeypatch):
    from spherectl.export import web

    monkeypatch.setattr(web, "export_onnx", lambda *_: [])  # the graphs have tests of their own
    (tmp_path / "CNAME").write_text("spheres.example")
    (tmp_path / "index.html").write_text("old")
    export_web(model, tmp_path)
    assert (tmp_path / "CNAME").read_text() == "spheres.example"
    assert (tmp_path / "index.html").read_bytes() == (folder / "index.html").read_bytes()


def test_large_models_get_fewer_bits_and_too_large_ones_a_sentence(model, monkeypatch, tmp_path):
    from spherectl.export import web

    assert default_precision(model) == "float32"
    monkeypatch.setattr(web, "FLOAT32_UP_TO", 100_000)
    assert default_precision(model) == "float16"
    monkeypatch.setattr(web, "LARGEST_BYTES", 50_000)
    with pytest.raises(UsageError, match=r"garments has 0\.0 GB of weights in float16; a page can hold 5e-05 GB"):
        export_web(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert FLOAT32_UP_TO < 4 * 128_000_000 / 2  # the paper's base size goes out in float16


# SPEC 11 in JavaScript


def test_randomness_agrees_with_the_known_answers(page, reference):
    cases = json.loads((reference / "seeding.json").read_text(encoding="utf-8"))
    script = """import(new URL("noise.js", location)).then((n) => ({
        philox: %s.map(({counter, key}) => n.philox(counter.map(h => parseInt(h, 16)), key.map(h => parseInt(h, 16)))),
        words: %s.map((c) => Array.from(n.words(BigInt(c.seed), c.stream, c.i, 6, c.k))),
        normals: %s.map((c) => Array.from(n.normals(BigInt(c.seed), c.stream, c.i, 6, c.k))),
    }))"""
    known, streams = json.dumps(cases["known_answers"]), json.dumps(cases["streams"])
    found = page.run(script % (known, streams, streams))
    assert found["philox"] == [[int(word, 16) for word in case["out"]] for case in cases["known_answers"]]
    assert found["words"] == [case["words"] for case in cases["streams"]]
    np.testing.assert_allclose(found["normals"], [case["normal"] for case in cases["streams"]], rtol=1e-13, atol=1e-15)


# Sampling and walking


def test_a_seed_is_the_image_that_python_samples(page, model):
    fill(page, seed=0, **{"class": 0}, steps=3, guidance=1.4)
    assert apart(pixels(page, "#sampled"), sampled(model, 0, classes=[0])) <= LEVELS
    fill(page, seed=12345678901234567890, **{"class": 7}, steps=1)
    one = sampled(model, 12345678901234567890, classes=[7], steps=1)
    assert apart(pixels(page, "#sampled"), one) <= LEVELS
    fill(page, steps=5, guidance=1)
    several = sampled(model, 12345678901234567890, classes=[7], steps=5, guidance=1.0)
    assert apart(pixels(page, "#sampled"), several) <= LEVELS
    assert apart(to_uint8(one)[0], several) > 10 * LEVELS  # else these could agree by chance
    assert apart(pixels(page, "#steps-strip li:last-child canvas"), several) <= LEVELS


def test_another_class_is_another_image_and_no_class_the_null_class(page, model):
    fill(page, seed=3, steps=2, guidance=2, **{"class": 1})
    first = pixels(page, "#sampled")
    fill(page, **{"class": 10})
    second = pixels(page, "#sampled")
    assert apart(second, sampled(model, 3, classes=["none"], steps=2, guidance=2.0)) <= LEVELS
    assert (first.int() - second.int()).abs().max() > 10 * LEVELS
    assert page.run("document.getElementById('sampled').getAttribute('aria-label')") == "Point 3, no class, 2 steps"
    assert "--class none" in page.run("document.getElementById('command').textContent")


def test_the_command_that_is_told_samples_the_same(page, model_file, tmp_path):
    fill(page, seed=9, **{"class": 4}, steps=2, guidance=1.7)
    told = page.run("document.getElementById('command').textContent").split()
    assert told[:2] == ["spherectl", "sample"]
    told[told.index("--model") + 1] = str(model_file)
    done = CliRunner().invoke(app, [*told[1:], "--out", str(tmp_path / "out.png")])
    assert done.exit_code == 0, done.stderr
    assert apart(pixels(page, "#sampled"), to_float(as_tensor(Image.open(tmp_path / "out.png")))[None]) <= LEVELS


def test_a_saved_image_says_how_it_was_made_and_is_made_again(page, browser, model, model_file, tmp_path):
    fill(page, seed=2**64 - 1, **{"class": 2}, steps=3, guidance=1.3)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    click(page, "#save")
    saved = tmp_path / f"garments-seed{2**64 - 1}.png"
    page.wait_for_file(saved)
    told = read_provenance(saved)
    assert (told["seed"], told["class"], told["guidance"], told["dtype"]) == (2**64 - 1, 2, 1.3, "float32")
    assert told["model_sha256"] == model.sha256
    with Image.open(saved) as opened:
        assert DIGITAL_SOURCE_TYPE in opened.text["XML:com.adobe.xmp"]
        shown = as_tensor(opened.convert("RGB"))
    assert torch.equal(shown, pixels(page, "#sampled"))
    again = ["sample", "--like", str(saved), "--model", str(model_file), "--out", str(tmp_path / "again.png")]
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done.stderr
    assert apart(shown, to_float(as_tensor(Image.open(tmp_path / "again.png")))[None]) <= LEVELS


def test_dice_and_steps_change_what_is_seen(page):
    fill(page, seed=5, steps=1)
    before = pixels(page, "#sampled")
    assert page.run("document.getElementById('steps-strip').hidden")
    click(page, "#sample .dice")
    assert page.run("document.getElementById('seed').value") != "5"
    assert (before != pixels(page, "#sampled")).any()
    fill(page, steps=4)
    assert page.run("document.querySelectorAll('#steps-strip canvas').length") == 4
    assert re.fullmatch(r"4 steps in [\d.]+ ms", page.run("document.getElementById('sample-said').textContent"))


def test_a_walk_goes_along_the_great_circle(page, model):
    fill(page, seed=1, to=2, **{"class": 8}, steps=1, guidance=1, way=0.3)
    first, second = (seeding.noise(seed, seeding.INITIAL, torch.tensor([0]), (16, 8)) for seed in (1, 2))
    between = model.decode(slerp(spherify(first), spherify(second), 0.3), [8])
    assert apart(pixels(page, "#between"), between) <= LEVELS
    assert apart(pixels(page, "#walk-start"), sampled(model, 1, classes=[8], steps=1, guidance=1.0)) <= LEVELS
    fill(page, steps=3, guidance=1.4, way=1)
    end = sampled(model, 2, classes=[8])
    assert apart(pixels(page, "#between"), end) <= LEVELS
    assert apart(pixels(page, "#walk-end"), end) <= LEVELS


# Images


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`photo(width, height)`: a colourful PNG with smooth and sharp parts."""
    place = tmp_path_factory.mktemp("photos")

    def make(width: int, height: int, mode: str = "RGB") -> Path:
        y, x = np.mgrid[:height, :width]
        bands = [128 + 127 * np.sin(x / width * 7 + c) * np.cos(y / height * (5 + c)) for c in range(len(mode))]
        array = np.stack(bands, -1).astype(np.uint8)
        array[height // 4 : height // 2, width // 3 : width // 2] = 250
        path = place / f"{mode}-{width}x{height}.png"
        Image.fromarray(array, mode).save(path)
        return path

    return make


def test_a_chosen_file_is_reconstructed_as_python_does(page, model, photo):
    path = photo(28, 28)
    click(page, "input[value=reconstruct]")
    page.choose_files("#first", path)
    page.wait("document.querySelector('#slot-first canvas').getAttribute('aria-label') === 'RGB-28x28.png'")
    settle(page)
    fitted = to_grey(fit_pad(Image.open(path), 32))
    assert torch.equal(pixels(page, "#slot-first canvas"), fitted)
    assert (
        apart(pixels(page, "#rounds-strip li:last-child canvas"), model.reconstruct(to_float(fitted)[None])) <= LEVELS
    )


@pytest.mark.parametrize("size", [(200, 150), (20, 27)])
def test_images_for_a_padded_model_are_fitted_as_for_edit(page, model, photo, size):
    path = photo(*size)
    drop(page, "#slot-first", path)
    assert torch.equal(pixels(page, "#slot-first canvas"), fit(Image.open(path), model.recipe).pixels)


def test_a_dropped_image_takes_another_class(page, model, photo):
    path = photo(32, 20)
    drop(page, "#slot-first", path)
    click(page, "input[value=class]")
    fill(page, seed=6, new_guidance=1.4, angle=60, rounds=3, new_class=8)
    x = to_float(fit(Image.open(path), model.recipe).pixels)[None]
    *_, last = rounds(model, x, [8], count=3, noise_deg=60, guidance=1.4, seed=6)
    assert page.run("document.querySelectorAll('#rounds-strip canvas').length") == 4
    assert apart(pixels(page, "#rounds-strip li:last-child canvas"), last) <= LEVELS


def test_two_images_are_joined(page, model, photo):
    click(page, "input[value=join]")
    for slot, path in (("first", photo(28, 28)), ("second", photo(32, 20))):
        drop(page, f"#slot-{slot}", path)
    first, second = (
        to_float(fit(Image.open(path), model.recipe).pixels)[None] for path in (photo(28, 28), photo(32, 20))
    )
    for layout in LAYOUTS:
        fill(page, rounds=2, layout=layout)
        stitched, _, last = harmonise(model, first, second, layout_mask(layout, 32), count=2)
        assert apart(pixels(page, "#rounds-strip li:first-child canvas"), stitched) == 0
        assert apart(pixels(page, "#rounds-strip li:last-child canvas"), last) <= LEVELS


def test_what_is_no_image_gets_a_sentence(page, tmp_path):
    (tmp_path / "letter.png").write_text("Dear reader")
    page.choose_files("#first", tmp_path / "letter.png")
    page.wait("document.querySelector('#edit-said.wrong')")
    said = page.run("document.getElementById('edit-said').textContent")
    assert said == "This file is not an image that the browser can read; try a PNG, JPEG or WebP."


def test_a_wrong_seed_gets_a_sentence_and_a_right_one_clears_it(page):
    for wrong in ("seven", "-1", "1.5", "", str(2**64)):
        fill(page, seed=wrong)
        said = page.run("document.querySelector('#sample-said.wrong').textContent")
        assert said == f'A seed is a whole number from 0 to 18446744073709551615, not "{wrong}".'
    fill(page, seed=4)
    assert page.run("document.querySelector('#sample-said.wrong')") is None


def drop(page: Page, selector: str, path: Path) -> None:
    """Drop a file on an element."""
    data = list(path.read_bytes())
    page.run(f"""(() => {{
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array({data})], {path.name!r}, {{type: "image/png"}}));
        const event = new DragEvent("drop", {{dataTransfer: data, bubbles: true, cancelable: true}});
        document.querySelector({selector!r}).dispatchEvent(event);
    }})()""")
    page.wait(f"document.querySelector('{selector} canvas').getAttribute('aria-label') === {path.name!r}")
    settle(page)


# A model without classes, in colour


@pytest.fixture(scope="module")
def free_page(unusual: api.Model, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Its page, in a dark scheme on a phone."""
    target = tmp_path_factory.mktemp("free")
    export_web(unusual, target)
    with served(target) as url:
        opened = browser.open(url, width=360, height=740, scheme="dark")
        settle(opened)
        yield opened


def test_a_model_without_classes_samples_too(free_page, unusual):
    fill(free_page, seed=11, steps=4)
    assert apart(pixels(free_page, "#sampled"), sampled(unusual, 11, steps=4)) <= LEVELS
    visible = "[...document.querySelectorAll('.with-classes')].filter((e) => e.offsetParent).length"
    assert free_page.run(visible) == 0
    assert "--class" not in free_page.run("document.getElementById('command').textContent")


@pytest.mark.parametrize("size", [(47, 90), (15, 40)])
def test_images_are_cropped_as_in_python(free_page, photo, size):
    path = photo(*size)
    drop(free_page, "#slot-first", path)
    assert torch.equal(pixels(free_page, "#slot-first canvas"), adm_crop(Image.open(path), 32))


# The page as a page


@pytest.mark.parametrize("name", ["page", "free_page"])
def test_nothing_leaves_the_origin_and_the_console_is_silent(name, request):
    opened: Page = request.getfixturevalue(name)
    origin = opened.run("location.origin")
    foreign = [url for url in opened.requests if not url.startswith((f"{origin}/", "data:image/", f"blob:{origin}/"))]
    assert len(opened.requests) > 10
    assert any(url.endswith("encoder.onnx") for url in opened.requests)  # its worker is heard as well
    assert (foreign, opened.errors) == ([], [])


def test_the_page_itself_forbids_foreign_requests(page):
    refused = 'fetch("http://127.0.0.1:9/").then(() => "let through", (error) => error.message)'
    before = len(page.errors)
    assert page.run(refused) == "Failed to fetch"
    assert "Content Security Policy" in page.errors[before]
    del page.errors[before:]


def test_a_narrow_phone_never_scrolls_sideways(free_page, browser, address):
    with_classes = browser.open(address, width=360, height=740)
    settle(with_classes)
    for opened in (free_page, with_classes):
        click(opened, "input[value=join]")
        assert opened.run("document.documentElement.scrollWidth") <= 360
        assert (
            opened.run(
                "Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.getBoundingClientRect().right))"
            )
            < 360
        )


def test_the_keyboard_reaches_and_moves_everything(page):
    fill(page, seed=2, steps=2)
    page.run("document.activeElement.blur(); window.getSelection().removeAllRanges(); scrollTo(0, 0)")
    reached, outlines = [], []
    for _ in range(25):
        page.press("Tab")
        reached.append(
            page.run(
                "document.activeElement.id || document.activeElement.className || document.activeElement.textContent"
            )
        )
        outlines.append(page.run("getComputedStyle(document.activeElement).outlineStyle"))
    wanted = ["seed", "dice", "class", "steps", "guidance", "save", "to", "dice", "way", "play", "first"]
    assert [one for one in reached if one in wanted][: len(wanted)] == wanted
    assert outlines[reached.index("steps")] == "solid"
    page.run("document.getElementById('steps').focus()")
    page.press("ArrowRight")
    settle(page)
    assert page.run("document.getElementById('sample-said').textContent").startswith("3 steps in")


def test_every_control_has_a_name_and_every_image_a_text(page):
    unnamed = """[...document.querySelectorAll("input, select, button")].filter((one) => one.offsetParent)
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")))
        .map((one) => one.outerHTML)"""
    assert page.run(unnamed) == []
    untold = """[...document.querySelectorAll("canvas")].filter((one) => one.offsetParent)
        .filter((one) => one.getAttribute("role") !== "img" || !one.getAttribute("aria-label")).map((one) => one.id)"""
    assert page.run(untold) == []
    assert page.run("document.querySelectorAll('[role=status]').length") >= 3
    assert page.run("document.documentElement.lang") == "en"


def test_a_missing_file_gets_a_sentence(browser, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "encoder.onnx").unlink()
    with served(broken) as url:
        opened = browser.open(url)
        opened.wait("document.querySelector('#loading-said.wrong')")
        said = opened.run("document.getElementById('loading-said').textContent")
    assert said == "Cannot load encoder.onnx: the server answered 404."


def test_without_a_server_the_page_says_what_to_type(browser, folder):
    opened = browser.open((folder / "index.html").as_uri())
    assert "python -m http.server" not in opened.run("document.body.innerText")  # not at once: most pages are served
    opened.run("document.getAnimations().forEach((animation) => animation.finish())")
    assert "python -m http.server" in opened.run("document.body.innerText")

"""Every form that images and classes may be given in means the same; all else is a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import spherectl
from spherectl.api.inputs import as_images
from spherectl.data.transforms import adm_crop, as_image, fit_pad, to_float, to_grey, to_uint8
from spherectl.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def pixels(images):
    return to_uint8(images)


FORMS = {
    "floats": to_float,
    "float64": lambda x: x.double() / 255,
    "uint8": lambda x: x,
    "uint8, channels last": lambda x: x.permute(0, 2, 3, 1),
    "an array": lambda x: x.numpy(),
    "an array, channels last": lambda x: x.permute(0, 2, 3, 1).numpy(),
    "an array of floats": lambda x: (x / 255).numpy(),
    "read-only and reversed": lambda x: np.broadcast_to(x.flip(0).numpy()[::-1], x.shape),
    "PIL images": lambda x: [as_image(one) for one in x],
    "a list of several kinds": lambda x: [to_float(x[0]), x[1].numpy(), *map(as_image, x[2:])],
    "a tuple of batches of one": lambda x: tuple(x.split(1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_may_be_given_in_any_form(model, pixels, form):
    """Compared with floats in [0, 1]; the same bytes, so the same numbers."""
    found = as_images(FORMS[form](pixels), model.recipe)
    assert found.shape == pixels.shape
    assert torch.equal(found.float(), to_float(pixels))


@pytest.mark.parametrize("form", ["floats", "uint8, channels last", "an array", "PIL images"])
def test_one_image_is_a_batch_of_one(model, pixels, form):
    one = FORMS[form](pixels)[0]
    assert torch.equal(as_images(one, model.recipe), to_float(pixels[:1]))


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK", "I;16"])
def test_pil_images_of_any_mode_and_size_are_fitted_as_encode_fits_files(model, mode):
    """The recipe pads what is small and crops what is large; its images are grey."""
    small = Image.new("RGB", (20, 28), "white").convert(mode if mode != "I;16" else "I").convert(mode)
    large = Image.radial_gradient("L").convert("RGB").resize((90, 70))
    expected = torch.stack([fit_pad(Image.new("RGB", (20, 28), "white"), 32), to_grey(adm_crop(large, 32))])
    if mode == "I;16":
        small = Image.fromarray(np.full((28, 20), 65535, np.uint16))
    assert torch.equal(as_images([small, large], model.recipe), to_float(expected))
    assert small.size == (20, 28)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.zeros(2, 3, 28, 28), r"expected images of shape \(B, 3, 32, 32\), got \(2, 3, 28, 28\)"),
        (torch.full((2, 3, 32, 32), 1.01), "from 1.01 to 1.01"),
        (torch.zeros(2, 3, 32, 32).to_sparse(), "sparse"),
        (np.zeros((2, 3, 32, 32), complex), "an array of complex128"),
        ([torch.zeros(2, 3, 32, 32)], "single images, got one of batches"),
        ("a.png", "a list of them, got 'a.png'"),
        (Image.new("F", (4, 4)), "floating-point numbers of unknown range"),
    ],
)
def test_images_of_another_kind_are_refused(model, wrong, said):
    with pytest.raises((UsageError, spherectl.errors.FileError), match=f"(?i){said}"):
        model.encode(wrong)


@pytest.mark.parametrize("classes", ["bag", 8, [8], ["bag"], torch.tensor(8), torch.tensor([8]), np.int64(8)])
def test_one_class_is_enough_for_a_batch(model, images, classes):
    assert torch.equal(model.encode(images, classes), model.encode(images, [8] * 6))
    (batch,) = spherectl.generate(model, 3, classes=classes, steps=1)
    assert batch.labels.tolist() == [8, 8, 8]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([1, 2], "Expected one class, or one for each of 6 images, got 2"),
        (["hat"] * 6, "none is called 'hat'"),
        (["0-3"] * 6, "one class for each image"),
        (1.5, "Expected class numbers or names, got 1.5"),
        ([10**5000], "Expected a class number or name, got a number of about 5,000 digits"),
        (torch.full((6, 11), float("nan")), "weights of classes that are finite"),
        (torch.zeros(6, 10), r"weights of shape \(6, 11\), got \(6, 10\)"),
    ],
)
def test_classes_that_do_not_fit_are_refused(model, images, classes, said):
    with pytest.raises(UsageError, match=said):
        model.encode(images, classes)


def test_to_pil_rounds_as_files_do_and_refuses_other_shapes(pixels):
    assert [np.asarray(one).tolist() for one in spherectl.to_pil(to_float(pixels))] == [
        one.permute(1, 2, 0).tolist() for one in pixels
    ]
    assert spherectl.to_pil(pixels[0])[0].tobytes() == as_image(pixels[0]).tobytes()
    with pytest.raises(UsageError, match=r"shape \(B, 3, H, W\), got \(6, 32, 32\)"):
        spherectl.to_pil(torch.zeros(6, 32, 32))

"""Model as a PyTorch user takes it: images to latents and back, and everything that nn.Module promises."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import spherectl
from spherectl import api
from spherectl.data.transforms import to_float
from spherectl.errors import UsageError
from spherectl.model import kernels
from spherectl.model.formats import weights

pytestmark = pytest.mark.fast
CPU = torch.device("cpu")


def test_a_model_says_what_it_is(model, free):
    assert repr(model) == (
        "Model(tiny: 32 x 32 px, 10 classes, latents (16, 8), "
        f"{sum(p.numel() for p in model.parameters()):,} ema parameters, float32 on cpu)"
    )
    assert "unconditional, latents (16, 8)" in repr(free)
    assert (model.device, model.precision, model.dtype, model.training) == (CPU, "float32", torch.float32, False)
    assert model.header["images_seen"] == 160
    assert not any(p.requires_grad for p in model.parameters())


def test_a_thousand_classes_without_names_are_imagenets_if_the_data_is(model, lively):
    """As published checkpoints come, whose settings name the data and no class."""
    package = lively(model.recipe.replace(model={"num_classes": 1000, "size": "nano"}))
    for data, names in (("imagenet", 1000), ("somebody's", 0)):
        made = api.Model(weights.instantiate(package), {**package.header, "data": data}, name="big", device=CPU)
        assert len(made.class_names) == names
        if names:
            assert made.labels(["golden retriever", "Husky", 0], 3).tolist() == [207, 250, 0]


# Images to latents and back


def test_encode_and_decode_are_the_bare_networks(model, images):
    """f(E(2 x - 1, y)) and (D(v, y) + 1) / 2; names, numbers and the null class in between."""
    labels = torch.tensor([0, 7, 9, 8, 10, 10])
    with torch.no_grad():
        latents = model.network.encode(images * 2 - 1, labels)
        decoded = model.network.decode(latents, labels)
    named = ["t-shirt", 7, 9, "bag", 10, "none"]
    assert torch.equal(model.encode(images, named), latents)
    assert torch.equal(model.decode(latents, labels), (decoded / 2 + 0.5).clamp(0, 1))
    assert torch.equal(model.reconstruct(images, named), model.decode(latents, labels))
    assert latents.flatten(1).norm(dim=1).tolist() == pytest.approx([128**0.5] * 6, rel=1e-4)  # sqrt(L)
    assert torch.equal(model.encode(images), model.encode(images, 10))
    assert not torch.equal(model.encode(images), model.encode(images, 3))
    far = model.decode(100 * torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0)))
    assert 0 <= float(far.min()) <= float(far.max()) <= 1  # clamped


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "as a plain torch.Tensor, got None"),
        (torch.zeros(2, 16, 8, dtype=torch.int64), "of floating point numbers, got torch.int64"),
        (torch.full((2, 16, 8), float("nan")), "of finite numbers"),
        (torch.zeros(2, 16, 9), r"of shape \(B, 16, 8\), got \(2, 16, 9\)"),
        (torch.zeros(0, 16, 8), r"of shape \(B, 16, 8\), got \(0, 16, 8\)"),
    ],
)
def test_latents_of_another_kind_are_refused(model, wrong, said):
    with pytest.raises(UsageError, match=f"Expected latents {said}"):
        model.decode(wrong)


# nn.Module


def test_forward_is_reconstruct_with_gradients(own, images):
    assert torch.allclose(own(images, "bag"), own.reconstruct(images, "bag"), atol=1e-6)
    x = images.clone().requires_grad_()
    own.train()(x, "bag").sum().backward()
    assert bool(x.grad.any())
    grads = {name: p.grad for name, p in own.named_parameters()}
    fixed = {name for name, grad in grads.items() if grad is None}
    assert fixed == {"encoder.pos_embed", "decoder.pos_embed"}


def test_a_data_loader_goes_in_and_pil_images_come_out(model, dataset):
    """As torchvision's data sets give them, bytes and a number each; an image does not depend on its batch."""

    class Fashion(Dataset):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int):
            return dataset.gather([index])[0], int(dataset.labels[index])

    shown = [
        image
        for pixels, labels in DataLoader(Fashion(), 4)
        for image in spherectl.to_pil(model.reconstruct(pixels, labels))
    ]
    assert len(shown) == 10
    assert all(isinstance(image, Image.Image) and image.size == (32, 32) for image in shown)
    again = spherectl.to_pil(model.reconstruct(dataset.gather(range(10)), dataset.labels[:10]))
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in again]


def test_fine_tuning_in_ten_lines(tiny_run, dataset, tmp_path):
    """The README's loop: reconstruction gets better, generation goes on, and the result is a model file like any."""
    images = to_float(dataset.gather(range(32)))
    model = spherectl.load(tiny_run, device="cpu", dtype="float32")
    before = float((model.reconstruct(images) - images).square().mean())
    (untrained,) = spherectl.generate(model, 2, steps=1)

    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in DataLoader(images, 4, shuffle=False):
        loss = nn.functional.mse_loss(model(batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(tmp_path / "mine")

    assert float((model.reconstruct(images) - images).square().mean()) < 0.8 * before
    (trained,) = spherectl.generate(model, 2, steps=1)
    assert not torch.equal(trained.images, untrained.images)
    again = spherectl.Model.from_pretrained(tmp_path / "mine", device="cpu", dtype="float32")
    assert torch.equal(again.reconstruct(images), model.reconstruct(images))


def test_weights_that_changed_are_no_files_weights(own, tiny_run, tmp_path):
    """Images name the model's file by its hash: a fine-tuned one has none, no scores, and a parent."""
    own.header = own.header | {"scores": [{"metric": "fid", "value": 1.0}]}
    digest = own.sha256
    assert len(digest) == 64
    own.save_pretrained(tmp_path / "same")
    with torch.no_grad():
        next(own.parameters()).mul_(1)
    assert own.is_changed()
    assert own.sha256 == ""
    own.save_pretrained(tmp_path / "changed")
    same, changed = (weights.read_package(tmp_path / name / "model.safetensors").header for name in ("same", "changed"))
    assert same["scores"] == own.header["scores"]
    assert (changed["scores"], changed["parent"]) == ([], digest)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_to_is_as_loading_in_that_dtype(own, tiny_run, images, dtype):
    digest, loaded = own.sha256, spherectl.load(tiny_run, device="cpu", dtype=dtype)
    moved = own.to(dtype)
    assert moved is own
    assert (own.dtype, own.precision) == (loaded.dtype, loaded.precision)
    assert torch.equal(own.reconstruct(images, 2), loaded.reconstruct(images, 2))
    (mine,), (theirs,) = (spherectl.generate(one, 2, steps=2) for one in (own, loaded))
    assert torch.equal(mine.images, theirs.images)
    assert own.sha256 == digest
    own.float()  # what half precision has lost does not come back
    assert own.sha256 == ("" if dtype == torch.bfloat16 else digest)


def test_what_is_frozen_stays_frozen(own):
    own.train()
    own.encoder.requires_grad_(False)
    own.eval().train()
    assert not any(p.requires_grad for p in own.encoder.parameters())
    assert any(p.requires_grad for p in own.decoder.parameters())


def test_a_copy_is_a_model_of_its_own(own, model, images):
    """By copy.deepcopy, as averages of weights are kept, and by pickle, as processes hand it on."""
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert other.sha256 == own.sha256
        with torch.no_grad():
            other.decoder.out[2].bias.add_(0.5)
        (changed,) = spherectl.generate(other, 2, steps=1)
        (same,), (first,) = (spherectl.generate(one, 2, steps=1) for one in (own, model))
        assert torch.equal(same.images, first.images)
        assert not torch.equal(changed.images, first.images)


def test_int8_ends_where_the_dtype_or_device_does(own):
    own.encoder.int8 = own.decoder.int8 = True
    own.to(torch.bfloat16)
    assert own.precision == "bfloat16"  # float32 weights were no int8 model's
    own.encoder.int8 = own.decoder.int8 = True
    assert own.to(torch.bfloat16).precision == own.to("cpu").precision == "int8"
    assert own.to(torch.float32).precision == "float32"


@pytest.mark.skipif(not kernels.available(), reason=kernels.explain() or "kernels")
def test_kernels_see_the_weights_of_now(tiny_run, images):
    model = spherectl.load(tiny_run, device="cpu", dtype="int8")
    before = model.encode(images, 1)
    with torch.no_grad():
        model.encoder.ffn.linear.weight.mul_(-1)
    assert not torch.equal(model.encode(images, 1), before)
    model.float()
    assert torch.isfinite(model.encode(images, 1)).all()

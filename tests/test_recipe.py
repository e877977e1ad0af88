"""spherectl/recipe/ against closed forms, hand-made tables, and the sentences a person should read."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from spherectl import registry
from spherectl.errors import FileError, UsageError
from spherectl.recipe import (
    SIZES,
    LossSpec,
    ModelSpec,
    NoiseSpec,
    Recipe,
    differing_keys,
    load,
    loads,
    parse,
)
from spherectl.settings import packaged
from spherectl.tables import parse_overrides

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own kind of network and one of somebody else, whatever other tests have registered."""
    for name in [name for name in registry.NETWORKS if name != "sphere"]:
        monkeypatch.delitem(registry.NETWORKS, name)
    other = registry.NetworkKind("other", networks="others", build=nothing, step=nothing)
    monkeypatch.setitem(registry.NETWORKS, "other", other)


def nothing(*_: Any) -> None:
    """Networks that no test here builds."""


SMALL: dict[str, Any] = {"name": "small", "run": {"length_images": 1000}}

# Ends of sentences that several tests expect.
ONE = "give one of the two"
NAME = "lower-case letters, digits, '.', '_' or '-', with a letter or digit first"
FLOOR = "optim.min_lr: 1, the end of the schedule, is above optim.lr = 0.0001"
NO_DISTANCE = "is none of lpips+convnext, features:NAME (a network in the zoo), none"

# Values of each type and shape that TOML can hold.
FULL = """
name = "full.1_a-b"
summary = 'quotes " and \\ and ü'

[model]
kind = "other"
decoder_size = "small"
compression_ratio = 2.5
halve_depth = true

[data]
root = "C:\\\\images"

[[loss.schedule]]
images = 0
con = 0.5
kl = 0.01

[optim]
lr = 2e-4
decay_images = 7_000
betas = [0.8, 0.9]

[run]
length_epochs = 2.5
seed = 18446744073709551615
loggers = []
"""


def message(table: dict[str, Any]) -> str:
    """The sentence with which a table is refused."""
    with pytest.raises(UsageError) as caught:
        parse(table, "file.toml")
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith("file.toml: ")
    assert caught.value.message.endswith(".")
    return caught.value.message.removeprefix("file.toml: ").removesuffix(".")


# Numbers derived from keys, against section 3's and 4's closed forms


def test_patches_of_the_paper() -> None:
    for image_size, low, high in ((32, 4, 2), (64, 4, 2), (128, 8, 4), (256, 16, 8), (512, 32, 16)):
        assert ModelSpec(image_size=image_size, latent_resolution="low").patch == low
        assert ModelSpec(image_size=image_size).patch == high
        assert ModelSpec(image_size=image_size, patch_size=4).patch == 4


@pytest.mark.parametrize(
    ("keys", "tokens", "channels"),
    [
        ({"image_size": 32, "compression_ratio": 1.5}, 256, 8),
        ({"image_size": 256, "compression_ratio": 3.0}, 1024, 64),
        ({"image_size": 32, "compression_ratio": 7.0}, 256, 1),  # floor(12 / 7)
        ({"image_size": 48, "patch_size": 6, "token_channels": 5}, 64, 5),
    ],
)
def test_tokens_and_latent_size(keys: dict[str, Any], tokens: int, channels: int) -> None:
    model = ModelSpec(**keys)
    assert (model.tokens, model.channels_per_token, model.latent_size) == (tokens, channels, tokens * channels)


def test_noise_angles() -> None:
    for angle, hard in ((80.0, 85.0), (85.0, 89.0), (60.0, 65.0), (89.5, 89.5)):
        noise = NoiseSpec(angle_deg=angle)
        assert math.degrees(math.atan(noise.sigma_max)) == pytest.approx(angle, abs=1e-12)
        assert math.degrees(math.atan(noise.sigma_max * noise.hard_ratio)) == pytest.approx(hard, abs=1e-12)


def test_sizes_of_the_paper() -> None:
    """The table of section 3, typed again."""
    paper = {
        "small": (512, 8, 8, 2),
        "base": (768, 12, 12, 4),
        "large": (1024, 24, 16, 8),
        "xlarge": (1152, 28, 16, 8),
        "huge": (1280, 32, 16, 10),
        "giant": (1664, 40, 16, 12),
    }
    assert {name: tuple(SIZES[name]) for name in paper} == paper


def test_weights_are_linear_between_the_entries_of_a_schedule() -> None:
    first, second = {"images": 100, "rec": 1, "con": 5, "centre": 0}, {"images": 300, "con": 1, "latent": 7}
    loss = LossSpec(rec=10, con=2, latent=3, centre=4, pooled=6, schedule=[first, second, {"images": 400}])

    def weights(images_seen: int) -> tuple[float, ...]:
        at = loss.after(images_seen)
        return at.rec, at.con, at.latent, at.centre, at.pooled

    assert weights(0) == weights(100) == (1, 5, 3, 0, 6)
    assert weights(200) == pytest.approx((5.5, 3, 5, 2, 6))
    assert weights(300) == (10, 1, 7, 4, 6)
    assert weights(350) == pytest.approx((10, 1.5, 5, 4, 6))
    assert weights(400) == weights(10**9) == (10, 2, 3, 4, 6)
    assert loss.after(400) == loss.model_copy(update={"schedule": ()})
    assert LossSpec().after(5) == LossSpec()
    assert (loss.centred, LossSpec(schedule=[{"images": 5, "centre": 0.0}]).centred) == (True, False)


# TOML in and out


@pytest.mark.parametrize("text", [FULL, 'name = "x"\n', 'name = "x"\n[run]\nlength_images = 5\n'])
def test_toml_round_trip(text: str) -> None:
    recipe = loads(text)
    assert loads(recipe.to_toml()) == recipe
    assert recipe.to_table() == tomllib.loads(recipe.to_toml())
    for table, values in tomllib.loads(text).items():  # and nothing of what was written is lost
        written = recipe.to_table()[table]
        assert {key: written[key] for key in values} == values if isinstance(values, dict) else written == values


def test_load_reads_a_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(FULL, encoding="utf-8")
    assert load(path) == loads(FULL)
    assert load(path, {"run": {"seed": 4}}).run.seed == 4
    path.write_text("name = 5", encoding="utf-8")
    with pytest.raises(UsageError, match=r"my\.toml: name: expected text"):
        load(path)
    path.write_text("name = ]", encoding="utf-8")
    with pytest.raises(UsageError, match=r"my\.toml is not valid TOML: .*line 1"):
        load(path)


# Refusing


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": 3}, "model: expected a table, got 3"),
        ({"model": {"num_classes": "x"}}, "model.num_classes: expected a whole number or 'auto', got 'x'"),
        ({"model": {"patch_size": 5}}, "model.patch_size: 5 does not divide model.image_size = 32"),
        (
            {"model": {"kind": "vae"}},
            f"model.kind: networks of the kind 'vae' are in experiments/: use {registry.EXPERIMENTS}",
        ),
        ({"name": "../up"}, f"name: expected {NAME}, got '../up'"),
        ({"data": {"flip": "perhaps"}}, "data.flip: expected true or false, got 'perhaps'"),
        ({"data": {"fit": True}}, "data.fit: expected 'crop', 'pad' or 'adm', got true"),
        ({"noise": {"angle_deg": 90}}, "noise.angle_deg: expected more than 0 and less than 90, got 90"),
        ({"loss": {"rec": math.inf}}, "loss.rec: expected a finite number, got inf"),
        (
            {"loss": {"schedule": [{"images": 5, "cen": 1}]}},
            "unknown key loss.schedule.0.cen (did you mean loss.schedule.0.con?)",
        ),
        (
            {"loss": {"schedule": [{"images": 5}, {"images": 5}]}},
            "loss.schedule: each entry needs more images than the one before",
        ),
        ({"loss": {"perceptual": "vgg"}}, f"loss.perceptual: 'vgg' {NO_DISTANCE}"),
        ({"loss": {"kl": 0.1}}, "loss.kl: a part of a VAE's loss alone; a Sphere Encoder has no posterior"),
        ({"optim": {"betas": [0.1, 0.2, 0.3]}}, "optim.betas: expected 2 values, got [0.1, 0.2, 0.3]"),
        (
            {"optim": {"warmup_epochs": 1, "warmup_images": 1, "min_lr": 1.0}},
            f"optim.warmup_epochs, optim.warmup_images: {ONE}; {FLOOR}",
        ),
        ({"run": {}}, f"run.length_epochs, run.length_images: {ONE}"),
    ],
)
def test_wrong_values_and_combinations(changes: dict[str, Any], sentence: str) -> None:
    assert message(SMALL | changes) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 2048, "patch_size": 8}, "model.patch_size: 8 px of 2048 make 65,536 tokens, at most 16,384"),
        ({"patch_size": 32, "compression_ratio": 0.01}, "model.compression_ratio: 0.01 leaves 307,200 channels"),
    ],
)
def test_numbers_that_are_too_much_together(changes: dict[str, Any], sentence: str) -> None:
    assert message({**SMALL, "model": changes}).startswith(sentence)


def test_no_number_is_of_another_type_or_without_bounds() -> None:
    tables = {name: field.annotation for name, field in Recipe.model_fields.items() if name not in ("name", "summary")}
    for table, spec in tables.items():
        for key, field in spec.model_fields.items():  # type: ignore[union-attr]
            if re.search(r"\bint\b|\bfloat\b|tuple", str(field.annotation)):
                for value in (10**30, "1", [[1]]):
                    said = message({**SMALL, table: {**SMALL.get(table, {}), key: value}})
                    assert f"{table}.{key}" in said, said
                    assert value != 10**30 or re.search(r" to |and|a list", said), said


def test_all_unknown_keys_and_bad_values_at_once() -> None:
    text = message(
        {
            "name": "x",
            "modle": {"size": "base"},
            "model": {"siez": "base", "size": "bse", "image_size": 33},
            "optim": {"lr": "fast", "warmup": 3, "betas": [0.9, 1.5]},
            "run": {"length_images": 0, "bogus": True},
        }
    )
    assert text.split("; ")[:4] == [
        "unknown key modle (did you mean model?)",
        "unknown key model.siez (did you mean model.size?)",
        "unknown key optim.warmup (did you mean optim.warmup_images?)",
        "unknown key run.bogus",
    ]
    assert set(text.split("; ")[4:]) == {
        "optim.lr: expected a number, got 'fast'",
        "optim.betas.1: expected 0 to 1, got 1.5",
        "run.length_images: expected 1 to 999,999,999,999, got 0",
        "model.size: no size 'bse'",
        "sizes are nano, micro, tiny, small, base, large, xlarge, huge, giant",
        "model.image_size: 33 px needs model.patch_size (known without: 32, 64, 128, 256, 512)",
    }


def test_a_recipe_file_is_a_file_of_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "bom"\n[run]\nlength_images = 5\n')
    assert load(path).name == "bom"
    path.write_bytes(b'name = "\xff"')
    for place, words in ((path, "byte 8 is not UTF-8"), (tmp_path / "none.toml", "No such file")):
        with pytest.raises(FileError, match=f"Cannot read the recipe .*{words}") as caught:
            load(place)
        assert caught.value.exit_code == 1


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("500_000", 500_000),
        ("true", True),
        ("[0.9, 0.99]", [0.9, 0.99]),
        ('"5"', "5"),
        (" base ", "base"),
        ("/a b/c=d", "/a b/c=d"),
        ("", ""),
        ("1\ny = 2", "1\ny = 2"),  # one value, not a piece of TOML
    ],
)
def test_override_values(text: str, value: Any) -> None:
    items = [f"optim.a={text}", "optim.lr=2e-4", "name=other", " run.seed =7", "optim.lr=3e-4"]
    expected = {"optim": {"a": value, "lr": 3e-4}, "name": "other", "run": {"seed": 7}}
    assert parse_overrides(items) == expected


def test_overrides_need_a_key_and_a_value_and_do_not_contradict_each_other() -> None:
    for item in ("optim.lr", "=3", "optim..lr=3"):
        with pytest.raises(UsageError, match=r"expected KEY=VALUE with a dotted key") as caught:
            parse_overrides([item])
        assert repr(item) in caught.value.message
    for items in (["run=1", "run.seed=2"], ["run.seed=2", "run=1"]):
        with pytest.raises(UsageError, match="already given"):
            parse_overrides(items)


@pytest.mark.parametrize(("table", "name"), [("run", "length"), ("optim", "warmup")])
@pytest.mark.parametrize(("written", "override"), [("epochs", "images"), ("images", "epochs")])
def test_a_length_given_one_way_replaces_the_other(table: str, name: str, written: str, override: str) -> None:
    written, override = f"{name}_{written}", f"{name}_{override}"
    text = 'name = "x"\n' + ("[run]\nlength_images = 9\n" if table != "run" else "") + f"[{table}]\n{written} = 3\n"
    for recipe in (loads(text, overrides={table: {override: 7}}), loads(text).replace(**{table: {override: 7}})):
        spec = getattr(recipe, table)
        assert (getattr(spec, override), getattr(spec, written)) == (7, None)
    assert loads(text).replace(**{table: {override: None}}) == loads(text)


def test_overrides_win_over_the_file_and_leave_the_rest() -> None:
    recipe = loads(FULL, overrides=parse_overrides(["model.size=large", "noise.angle_deg=60"]))
    assert differing_keys(recipe, loads(FULL)) == ["model.size", "noise.angle_deg"]
    assert (recipe.model.size, recipe.noise.angle_deg) == ("large", 60.0)


# Changing, resolving, comparing


def test_replace_changes_only_what_is_named_and_checks_it() -> None:
    recipe = loads(FULL)
    changed = recipe.replace(run={"seed": 1}, model={"decoder_size": None})
    assert differing_keys(recipe, changed) == ["model.decoder_size", "run.seed"]
    assert changed.model.decoder_size is None
    assert recipe == loads(FULL)
    with pytest.raises(UsageError, match=r"recipe full\.1_a-b: unknown key run\.sed \(did you mean run\.seed\?\)"):
        recipe.replace(run={"sed": 1})


def test_resolve_turns_epochs_into_images_and_auto_into_a_number() -> None:
    recipe = parse({"name": "x", "run": {"length_epochs": 2.5}, "optim": {"warmup_epochs": 0.25}}, "x")
    resolved = recipe.resolve(images=1001, num_classes=4)
    assert (resolved.run.length_images, resolved.run.length_epochs) == (2502, None)  # 2502.5, to even
    assert (resolved.optim.warmup_images, resolved.optim.warmup_epochs) == (250, None)
    assert resolved.model.classes == 4
    assert differing_keys(recipe, resolved) == [
        "model.num_classes",
        "optim.warmup_epochs",
        "optim.warmup_images",
        "run.length_epochs",
        "run.length_images",
    ]
    assert resolved.resolve(images=5, num_classes=4) == resolved
    short = parse({"name": "x", "run": {"length_epochs": 0.001}}, "x").resolve(images=10, num_classes=0)
    assert (short.optim.warmup_images, short.run.length_images) == (0, 1)  # a run is never empty


@pytest.mark.parametrize(("wanted", "found", "resolved"), [(0, 10, 0), (10, 10, 10), ("auto", 0, 0)])
def test_resolve_accepts_the_recipes_number_of_classes_alone(wanted: Any, found: int, resolved: int) -> None:
    recipe = parse({**SMALL, "model": {"num_classes": wanted}}, "x")
    assert recipe.resolve(images=1, num_classes=found).model.classes == resolved
    if wanted == 10:
        with pytest.raises(UsageError, match=r"expects 10 classes \(model\.num_classes\); the data has 9\.") as caught:
            recipe.resolve(images=1, num_classes=9)
        assert "--set model.num_classes=auto" in caught.value.hint


def test_a_recipe_says_only_what_differs_from_its_base() -> None:
    text = 'name = "mine"\nbase = "cifar10"\n[run]\nlength_images = 5000\n[noise]\nangle_deg = 75.0\n'
    mine, base = loads(text), load(packaged("recipes") / "cifar10.toml")
    assert differing_keys(mine, base) == ["name", "noise.angle_deg", "run.length_epochs", "run.length_images"]
    assert (mine.run.length_images, mine.run.length_epochs) == (5000, None)
    assert loads(text, overrides={"noise": {"angle_deg": 60.0}}).noise.angle_deg == 60
    assert loads(mine.to_toml()) == mine  # whole: it no longer needs its base


@pytest.mark.parametrize("base", ['"no-such"', "3", '"../recipes/cifar10"', '"/etc/x"', '"mine"'])
def test_a_base_that_is_no_recipe_is_a_sentence(base: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nbase = {base}\n', encoding="utf-8")
    expected = "base: expected a recipe that comes with spherectl or lies beside this one, got"
    with pytest.raises(UsageError, match=re.escape(f"{path}: {expected}")):
        load(path)

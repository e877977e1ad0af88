"""spherectl/recipe/ against closed forms, hand-made tables, and the sentences a person should read."""

from __future__ import annotations

import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from spherectl import registry
from spherectl.errors import FileError, UsageError
from spherectl.recipe import (
    LOW_RESOLUTION_PATCH,
    SIZES,
    DataSpec,
    LossSpec,
    ModelSpec,
    NoiseSpec,
    OptimSpec,
    Recipe,
    RunSpec,
    SampleSpec,
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

# A recipe in which no value is the default.
FULL = """
name = "full.1_a-b"
summary = 'quotes " and \\ and ü'

[model]
kind = "other"
image_size = 64
size = "tiny"
decoder_size = "small"
patch_size = 8
latent_resolution = "low"
compression_ratio = 2.5
token_channels = 12
num_classes = 3
in_context_tokens = 4
pixel_head = "conv"
encoder_mixer_blocks = 0
decoder_mixer_blocks = 1
mixer_norm_scale = false
spherify_decoder_blocks = true
halve_depth = true
attention = "math"

[data]
kind = "cifar10"
root = "C:\\\\images"
fit = "pad"
flip = false
channels = "grey"
workers = 3

[noise]
angle_deg = 70.5
hard_case_probability = 0.25
hard_cases = "full"

[loss]
perceptual = "features:some-network"
pooled = 0.6
rec = 2.0
rec_perceptual = 0.0
con = 0.25
con_perceptual = 3.0
latent = 0.2
centre = 0.4
kl = 0.02
label_dropout = 0.3

[[loss.schedule]]
images = 0
pooled = 0.0
rec = 1.0
rec_perceptual = 0.1
con = 0.5
con_perceptual = 0.2
latent = 0.0
centre = 0.0
kl = 0.01

[optim]
lr = 2e-4
lr_batch_size = 64
min_lr = 0.0
encoder_lr_ratio = 0.5
warmup_epochs = 1.5
decay_images = 7_000
betas = [0.8, 0.9]
weight_decay = 0.01
clip_norm = 2.0
ema_half_life_images = 12345
ema_ramp_ratio = 0.05

[run]
length_epochs = 2.5
batch_size = 32
micro_batch_size = 5
parallel = "fsdp"
activation_checkpointing = true
compile = true
dtype = "float64"
seed = 18446744073709551615
default = false
checkpoint_images = 7
sample_images = 8
keep_checkpoints = 9
milestone_images = 10
loggers = []

[sample]
steps = 3
guidance = 1.5
guide = "decoder"
noise = "fresh"
strength = "decaying"
noise_deg = 70.0
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


@pytest.mark.parametrize(
    ("image_size", "low", "high"), [(32, 4, 2), (64, 4, 2), (128, 8, 4), (256, 16, 8), (512, 32, 16)]
)
def test_patch_size(image_size: int, low: int, high: int) -> None:
    assert ModelSpec(image_size=image_size, latent_resolution="low").patch == low
    assert ModelSpec(image_size=image_size).patch == high
    assert ModelSpec(image_size=image_size, patch_size=4).patch == 4


@pytest.mark.parametrize(
    ("keys", "tokens", "channels"),
    [
        ({"image_size": 32, "compression_ratio": 1.5}, 256, 8),
        ({"image_size": 256, "compression_ratio": 1.5}, 1024, 128),
        ({"image_size": 256, "compression_ratio": 3.0}, 1024, 64),
        ({"image_size": 32, "compression_ratio": 7.0}, 256, 1),  # floor(12 / 7)
        ({"image_size": 48, "patch_size": 6, "token_channels": 5}, 64, 5),
    ],
)
def test_tokens_and_latent_size(keys: dict[str, Any], tokens: int, channels: int) -> None:
    model = ModelSpec(**keys)
    assert (model.tokens, model.channels_per_token, model.latent_size) == (tokens, channels, tokens * channels)


@pytest.mark.parametrize(("angle", "hard"), [(80.0, 85.0), (85.0, 89.0), (60.0, 65.0), (89.5, 89.5)])
def test_noise_angles(angle: float, hard: float) -> None:
    noise = NoiseSpec(angle_deg=angle)
    assert math.degrees(math.atan(noise.sigma_max)) == pytest.approx(angle, abs=1e-12)
    assert math.degrees(math.atan(noise.sigma_max * noise.hard_ratio)) == pytest.approx(hard, abs=1e-12)


def test_default_half_life_is_a_decay_of_0_9997_at_batch_256() -> None:
    assert 0.5 ** (256 / OptimSpec().ema_half_life_images) == pytest.approx(0.9997, abs=1e-9)


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


def test_centring_counts_where_any_entry_has_it() -> None:
    entry = {"images": 5, "centre": 0.0}
    assert not LossSpec(schedule=[entry]).centred
    assert LossSpec(schedule=[entry], centre=1).centred
    assert LossSpec(schedule=[entry | {"centre": 1.0}]).centred


def test_classes_are_unknown_until_the_data_was_seen() -> None:
    assert ModelSpec(num_classes=7).classes == 7
    with pytest.raises(UsageError, match=r"model\.num_classes is still"):
        _ = ModelSpec().classes


# TOML in and out


def test_full_recipe_differs_from_the_defaults_in_every_key() -> None:
    """So that the round trip below proves something of each of them."""
    tables = {"model", "data", "noise", "loss", "optim", "run", "sample"}
    changed = {key: value for key, value in tomllib.loads(FULL).items() if key in tables}
    defaults = Recipe(name="x").to_table()
    for table, values in changed.items():
        spec = Recipe.model_fields[table].annotation
        assert isinstance(spec, type)
        assert issubclass(spec, (ModelSpec, DataSpec, NoiseSpec, LossSpec, OptimSpec, RunSpec, SampleSpec))
        alternatives = {"length_images", "warmup_images"}
        assert set(values) == set(spec.model_fields) - alternatives
        same = [key for key, value in values.items() if defaults[table].get(key) == value]
        assert same == []


@pytest.mark.parametrize("text", [FULL, 'name = "x"\n', 'name = "x"\n[run]\nlength_images = 5\n'])
def test_toml_round_trip(text: str) -> None:
    recipe = loads(text)
    assert loads(recipe.to_toml()) == recipe
    assert recipe.to_table() == tomllib.loads(recipe.to_toml())
    for table, values in tomllib.loads(text).items():  # and nothing of what was written is lost
        written = recipe.to_table()[table]
        assert {key: written[key] for key in values} == values if isinstance(values, dict) else written == values


def test_recipes_are_frozen() -> None:
    recipe = loads(FULL)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.name = "other"
    with pytest.raises(ValidationError, match="frozen"):
        recipe.model.size = "base"


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


@pytest.mark.parametrize("content", [None, b"name = '\xff'"])
def test_unreadable_files_are_the_worlds_failure(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "my.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=r"Cannot read the recipe .*my\.toml") as caught:
        load(path)
    assert caught.value.exit_code == 1


# Refusing


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


@pytest.mark.parametrize(
    ("table", "key", "value", "sentence"),
    [
        ("model", "num_classes", "x", "model.num_classes: expected a whole number or 'auto', got 'x'"),
        ("model", "num_classes", -1, "model.num_classes: expected 0 to 100,000 or 'auto', got -1"),
        ("run", "seed", -1, "run.seed: expected 0 to 18,446,744,073,709,551,615, got -1"),
        ("model", "size", 3, 'model.size: expected text in "quotes", got 3'),
        ("data", "flip", "perhaps", "data.flip: expected true or false, got 'perhaps'"),
        ("data", "fit", True, "data.fit: expected 'crop', 'pad' or 'adm', got true"),
        ("data", "root", "x" * 5000, None),
        ("noise", "angle_deg", 90, "noise.angle_deg: expected more than 0 and less than 90, got 90"),
        ("loss", "rec", math.inf, "loss.rec: expected a finite number, got inf"),
        ("loss", "schedule", [{"con": 1}], "loss.schedule.0.images is missing"),
        ("loss", "schedule", [{"images": 5, "con": -1}], "loss.schedule.0.con: expected 0 to 1,000,000, got -1"),
        (
            "loss",
            "schedule",
            [{"images": 5, "cen": 1}],
            "unknown key loss.schedule.0.cen (did you mean loss.schedule.0.con?)",
        ),
        (
            "loss",
            "schedule",
            [{"images": 5}, {"images": 5}],
            "loss.schedule: each entry needs more images than the one before",
        ),
        ("loss", "perceptual", "vgg", f"loss.perceptual: 'vgg' {NO_DISTANCE}"),
        ("optim", "betas", [0.1, 0.2, 0.3], "optim.betas: expected 2 values, got [0.1, 0.2, 0.3]"),
        ("optim", "min_lr", 1.0, FLOOR),
        ("sample", "guide", "combo", "sample.guide: expected 'both', 'encoder' or 'decoder', got 'combo'"),
    ],
)
def test_each_bad_value_is_one_phrase(table: str, key: str, value: Any, sentence: str | None) -> None:
    changed = {**SMALL, table: {**SMALL.get(table, {}), key: value}}
    if sentence is None:
        assert getattr(getattr(parse(changed, "file.toml"), table), key) == value
    else:
        assert message(changed) == sentence


def test_long_values_are_cut_in_the_middle() -> None:
    said = message({**SMALL, "data": {"fit": "x" + "y" * 100_000 + "z"}})
    assert re.fullmatch(r"data.fit: expected 'crop', 'pad' or 'adm', got 'xy+\.\.\.y+z'", said)
    assert len(said) < 300


NUMBERS = [
    f"{table}.{key}"
    for table, spec in Recipe.model_fields.items()
    if table not in ("name", "summary")
    for key, field in spec.annotation.model_fields.items()  # type: ignore[union-attr]
    if re.search(r"\bint\b|\bfloat\b|tuple", str(field.annotation))
]


@pytest.mark.parametrize("path", NUMBERS)
def test_no_number_takes_another_type_or_what_no_machine_has(path: str) -> None:
    """Whatever the key: a sentence that begins with its path, of a length that can be read, with the range."""
    table, _, key = path.partition(".")
    for value in (
        10**30,
        -(10**30),
        1e300,
        10**5000,
        -1,
        True,
        "1",
        math.nan,
        math.inf,
        "x" * 100_000,
        [1] * 3000,
        {"a": 1},
    ):
        said = message({**SMALL, table: {**SMALL.get(table, {}), key: value}})
        assert path in said, said
        assert len(said) < 500, said
        assert not isinstance(value, int) or isinstance(value, bool) or re.search(r" to |and|a list", said), said


def test_thousands_of_unknown_keys_are_counted() -> None:
    said = message({**SMALL, **{f"key{number}": 1 for number in range(3000)}})
    assert said.endswith("unknown key key9 and 2,990 more")
    assert len(message({**SMALL, "\x1b[31m" + "x" * 100_000: 1})) < 200


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": 2048, "patch_size": 8}, "model.patch_size: 8 px of 2048 make 65,536 tokens, at most 16,384"),
        ({"patch_size": 32, "compression_ratio": 0.01}, "model.compression_ratio: 0.01 leaves 307,200 channels"),
    ],
)
def test_numbers_that_are_too_much_together(changes: dict[str, Any], sentence: str) -> None:
    assert message({**SMALL, "model": changes}).startswith(sentence)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "{b=" * 5_000, "a = 1" + "0" * 5_000, "a = \x00"])
def test_toml_that_is_none_is_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not valid TOML") as caught:
        load(path)
    assert len(caught.value.message) < 300 + len(str(path))
    parse_overrides([text.replace(" ", "")])  # a value that is no TOML is text


def test_a_recipe_file_is_a_file_of_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "bom"\n[run]\nlength_images = 5\n')
    assert load(path).name == "bom"
    path.write_bytes(b'name = "\xff"')
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for place, words in ((path, "byte 8 is not UTF-8"), (pipe, "not a regular file"), (tmp_path, "directory")):
        with pytest.raises(FileError, match=words):
            load(place)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": 3}, "model: expected a table, got 3"),
        ({"name": "My Model"}, f"name: expected {NAME}, got 'My Model'"),
        ({"name": "../up"}, f"name: expected {NAME}, got '../up'"),
        ({"run": {}}, f"run.length_epochs, run.length_images: {ONE}"),
        ({"run": {"length_epochs": 1, "length_images": 1}}, f"run.length_epochs, run.length_images: {ONE}"),
        ({"optim": {"warmup_epochs": 1, "warmup_images": 1}}, f"optim.warmup_epochs, optim.warmup_images: {ONE}"),
        ({"model": {"patch_size": 5}}, "model.patch_size: 5 does not divide model.image_size = 32"),
        (
            {"model": {"compression_ratio": 13.0}},
            "model.compression_ratio: 13 leaves 0 channels in a token, 1 to 4,096 are allowed",
        ),
        (
            {"optim": {"warmup_epochs": 1, "warmup_images": 1, "min_lr": 1.0}},
            f"optim.warmup_epochs, optim.warmup_images: {ONE}; {FLOOR}",
        ),
        ({"loss": {"kl": 0.1}}, "loss.kl: a part of a VAE's loss alone; a Sphere Encoder has no posterior"),
        ({"run": {"loggers": ["paper"]}}, "run.loggers: expected 'tensorboard', got 'paper'"),
        (
            {"model": {"kind": "vae"}},
            f"model.kind: networks of the kind 'vae' are in experiments/: use {registry.EXPERIMENTS}",
        ),
        ({"model": {"kind": "gan"}}, "model.kind: expected 'sphere' or 'other', got 'gan'"),
    ],
)
def test_wrong_tables_and_combinations(changes: dict[str, Any], sentence: str) -> None:
    assert message(SMALL | changes) == sentence


def test_a_recipe_needs_a_name() -> None:
    assert message({}) == "name is missing"


def test_every_error_points_at_a_right_recipe() -> None:
    with pytest.raises(UsageError) as caught:
        parse({}, "x")
    assert "spherectl recipes show" in caught.value.hint


# --set


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("5", 5),
        ("500_000", 500_000),
        ("true", True),
        ("[0.9, 0.99]", [0.9, 0.99]),
        ('"5"', "5"),
        ("sdpa", "sdpa"),
        (" base ", "base"),
        ("/a b/c=d", "/a b/c=d"),
        ("features:fashion-features", "features:fashion-features"),
        ("", ""),
        ("1\ny = 2", "1\ny = 2"),  # one value, not a piece of TOML
    ],
)
def test_override_values(text: str, value: Any) -> None:
    assert parse_overrides([f"a.b={text}"]) == {"a": {"b": value}}


def test_overrides_gather_below_their_tables() -> None:
    items = ["optim.lr=2e-4", "optim.clip_norm=2", "name=other", " run.seed =7", "optim.lr=3e-4"]
    expected = {"optim": {"lr": 3e-4, "clip_norm": 2}, "name": "other", "run": {"seed": 7}}
    assert parse_overrides(items) == expected


@pytest.mark.parametrize("item", ["optim.lr", "=3", ".lr=3", "optim.=3", "optim..lr=3", ""])
def test_overrides_need_a_key_and_a_value(item: str) -> None:
    with pytest.raises(UsageError, match=r"expected KEY=VALUE with a dotted key") as caught:
        parse_overrides([item])
    assert repr(item) in caught.value.message


@pytest.mark.parametrize("items", [["run=1", "run.seed=2"], ["run.seed=2", "run=1"]])
def test_overrides_that_contradict_each_other(items: list[str]) -> None:
    with pytest.raises(UsageError, match="already given"):
        parse_overrides(items)


def test_overrides_win_over_the_file_and_leave_the_rest() -> None:
    recipe = loads(FULL, overrides=parse_overrides(["model.size=base", "noise.angle_deg=60"]))
    assert differing_keys(recipe, loads(FULL)) == ["model.size", "noise.angle_deg"]
    assert (recipe.model.size, recipe.noise.angle_deg) == ("base", 60.0)


def test_unknown_overrides_are_named_like_unknown_keys() -> None:
    with pytest.raises(UsageError, match=r"unknown key optim\.l_r \(did you mean optim\.lr\?\)"):
        loads(FULL, overrides=parse_overrides(["optim.l_r=1"]))


@pytest.mark.parametrize(
    ("written", "override", "table", "kept", "gone"),
    [
        ("length_epochs", "length_images", "run", 7, None),
        ("length_images", "length_epochs", "run", 7, None),
        ("warmup_epochs", "warmup_images", "optim", 7, None),
        ("warmup_images", "warmup_epochs", "optim", 7, None),
    ],
)
def test_a_length_given_one_way_replaces_the_other(
    written: str, override: str, table: str, kept: int, gone: None
) -> None:
    text = 'name = "x"\n' + ("[run]\nlength_images = 9\n" if table != "run" else "") + f"[{table}]\n{written} = 3\n"
    for recipe in (loads(text, overrides={table: {override: 7}}), loads(text).replace(**{table: {override: 7}})):
        spec = getattr(recipe, table)
        assert (getattr(spec, override), getattr(spec, written)) == (kept, gone)
    both = {written: 1, override: 2}
    with pytest.raises(UsageError, match="give one of the two"):
        loads(text, overrides={table: both})


# Changing, resolving, comparing


def test_replace_changes_only_what_is_named_and_checks_it() -> None:
    recipe = loads(FULL)
    changed = recipe.replace(run={"seed": 1}, model={"decoder_size": None})
    assert differing_keys(recipe, changed) == ["model.decoder_size", "run.seed"]
    assert changed.model.decoder_size is None
    assert recipe == loads(FULL)
    with pytest.raises(UsageError, match=r"recipe full\.1_a-b: unknown key run\.sed \(did you mean run\.seed\?\)"):
        recipe.replace(run={"sed": 1})


def test_taking_one_length_away_keeps_the_other() -> None:
    recipe = parse({"name": "x", "run": {"length_images": 5}, "optim": {"warmup_images": 3}}, "x")
    assert recipe.replace(run={"length_epochs": None}, optim={"warmup_epochs": None}) == recipe


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


def test_resolve_keeps_lengths_in_images() -> None:
    recipe = parse({"name": "x", "run": {"length_images": 99}, "optim": {"warmup_images": 9}}, "x")
    resolved = recipe.resolve(images=1000, num_classes=0)
    assert (resolved.run.length_images, resolved.optim.warmup_images, resolved.model.classes) == (99, 9, 0)


def test_resolve_without_warmup_has_none_and_a_run_is_never_empty() -> None:
    resolved = parse({"name": "x", "run": {"length_epochs": 0.001}}, "x").resolve(images=10, num_classes=0)
    assert (resolved.optim.warmup_images, resolved.run.length_images) == (0, 1)


@pytest.mark.parametrize(("wanted", "found", "resolved"), [(0, 10, 0), (0, 0, 0), (10, 10, 10), ("auto", 0, 0)])
def test_resolve_accepts_the_recipes_number_of_classes(wanted: Any, found: int, resolved: int) -> None:
    recipe = parse({**SMALL, "model": {"num_classes": wanted}}, "x")
    assert recipe.resolve(images=1, num_classes=found).model.classes == resolved


@pytest.mark.parametrize("found", [0, 9, 11])
def test_resolve_refuses_another_number_of_classes(found: int) -> None:
    recipe = parse({**SMALL, "model": {"num_classes": 10}}, "x")
    with pytest.raises(
        UsageError, match=rf"expects 10 classes \(model\.num_classes\); the data has {found}\."
    ) as caught:
        recipe.resolve(images=1, num_classes=found)
    assert "--set model.num_classes=auto" in caught.value.hint


def test_differing_keys_see_absent_keys_and_whole_values() -> None:
    a = loads(FULL)
    assert differing_keys(a, a) == []
    b = a.replace(optim={"betas": [0.8, 0.95]}, data={"root": None})
    assert differing_keys(a, b) == differing_keys(b, a) == ["data.root", "optim.betas"]


def test_low_resolution_patches_divide_their_images() -> None:
    assert all(size % patch == 0 and patch % 2 == 0 for size, patch in LOW_RESOLUTION_PATCH.items())


def test_a_recipe_says_only_what_differs_from_its_base() -> None:
    text = 'name = "mine"\nbase = "cifar10"\n[run]\nlength_images = 5000\n[noise]\nangle_deg = 75.0\n'
    mine, base = loads(text), load(packaged("recipes") / "cifar10.toml")
    assert differing_keys(mine, base) == ["name", "noise.angle_deg", "run.length_epochs", "run.length_images"]
    assert (mine.run.length_images, mine.run.length_epochs) == (5000, None)
    assert loads(text, overrides={"noise": {"angle_deg": 60.0}}).noise.angle_deg == 60
    assert loads(mine.to_toml()) == mine  # whole: it no longer needs its base


@pytest.mark.parametrize(
    "base",
    [
        '"no-such"',
        "3",
        "true",
        "[]",
        '""',
        '".."',
        '"../recipes/cifar10"',
        '"\\u001b"',
        '"\\u0000"',
        '"/etc/x"',
        '"evidence/../debug"',
        '"mine"',
    ],
)
def test_a_base_that_is_no_recipe_is_a_sentence(base: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nbase = {base}\n', encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load(path)
    assert caught.value.message.startswith(
        f"{path}: base: expected a recipe that comes with spherectl or lies beside this one, got"
    )

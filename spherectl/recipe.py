"""Recipes: what to train, on what, how. Frozen and closed: unknown keys are errors, all reported at once.

A recipe is a TOML file of seven tables, read here into frozen pydantic models. A file may name a `base`, a recipe that
comes with spherectl, and then says only what differs from it. `resolve` turns what depends on the data (epochs, the
number of classes) into plain numbers; the resolved recipe is what a run folder and a model's header keep. Section
numbers refer to the method's description (arXiv 2602.15030).
"""

from __future__ import annotations

import math
import re
import tomllib
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tomli_w
from pydantic import FailFast, Field, ValidationError, model_validator

from spherectl.checks import MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from spherectl.documents import parse_toml
from spherectl.errors import FileError, UsageError
from spherectl.files import read_text
from spherectl.settings import packaged
from spherectl.shown import listed, quoted
from spherectl.tables import Spec, describe, flatten, merge, split_unknown, without_none

# Limits that nobody's own recipe meets. They keep what a recipe promises within what a machine can be asked for, and
# the networks of any recipe are put up without memory in a second.
MAX_IMAGE_SIZE = 2_048  # px; the largest with a patch of its own has 512
MAX_TOKENS = 16_384  # of an image, 16 times the paper's; attention goes with their square
MAX_CHANNELS = 4_096  # of a token, 32 times the paper's
MAX_CLASSES = 100_000  # ImageNet with all its classes has 21,843
MAX_IN_CONTEXT = 1_024  # tokens of the class, 32 times the paper's
MAX_MIXERS = 64  # blocks at an end of a network, 16 times the paper's
MAX_COUNT = 10**12 - 1  # images; checkpoints have their number in a name of twelve digits
MAX_EPOCHS = 1_000_000
MAX_BATCH = 1_000_000  # images of one step; the paper's have 256 to 2,048
MAX_WORKERS = 256  # processes that read images
MAX_KNOTS = 1_000  # entries of loss.schedule
MAX_RATE = 1_000.0  # learning rates, weight decay and ratios of rates; trainings diverge long before
MAX_WEIGHT = 1e6  # of a part of the loss; the largest in recipes/ is 50
MAX_TEXT = 10_000  # characters of a summary or a path
MAX_RECIPE = 1 << 20  # bytes of a file; those in recipes/ have 2 to 6 kB
MAX_NAME = 200  # characters of a name, which files and folders get

Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Images = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Batch = Annotated[int, Field(ge=1, le=MAX_BATCH)]
Epochs = Annotated[float, Field(ge=0, le=MAX_EPOCHS)]
Mixers = Annotated[int, Field(ge=0, le=MAX_MIXERS)]
Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=MAX_RATE)]
AboveZero = Annotated[float, Field(gt=0, le=MAX_RATE)]
Weight = Annotated[float, Field(ge=0, le=MAX_WEIGHT)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]


class Size(NamedTuple):
    """Dimensions of one vision transformer; both networks use one unless the recipe says otherwise."""

    width: int
    blocks: int
    heads: int
    in_context_start: int


# `small` and above are the paper's; those below it are ours, for CPUs and tests.
SIZES: dict[str, Size] = {
    #             width blocks heads in-context start
    "nano":   Size(  32,     3,    2,  1),  # tests, --smoke, --debug
    "micro":  Size( 128,     6,    4,  2),  # a laptop CPU in an hour
    "tiny":   Size( 256,     8,    4,  2),  # a laptop CPU in a day
    "small":  Size( 512,     8,    8,  2),
    "base":   Size( 768,    12,   12,  4),
    "large":  Size(1024,    24,   16,  8),
    "xlarge": Size(1152,    28,   16,  8),
    "huge":   Size(1280,    32,   16, 10),
    "giant":  Size(1664,    40,   16, 12),
}  # fmt: skip

# Patch size at "low" latent resolution; "high" halves it.
LOW_RESOLUTION_PATCH = {32: 4, 64: 4, 128: 8, 256: 16, 512: 32}

# Where pictures come from: the first three are layouts of people's own pictures, the others data sets of that name.
DataKind = Literal[
    "folder", "jsonl", "shards", "fashion-mnist", "emoji", "cifar10", "flowers102", "animal-faces", "imagenet"
]  # fmt: skip

RADIANS_PER_DEGREE = math.pi / 180


class ModelSpec(Spec):
    """The two networks; of another kind than "sphere", a baseline of the same trunk."""

    kind: Literal["sphere", "vae", "diffusion"] = "sphere"
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = 32
    size: str = "base"
    decoder_size: str | None = None  # None: as `size`
    patch_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] | None = (
        None  # None: from image_size and latent_resolution
    )
    latent_resolution: Literal["low", "high"] = "high"
    compression_ratio: Annotated[float, Field(ge=0.01, le=100_000)] = 1.5
    token_channels: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] | None = (
        None  # None: floor(3 patch^2 / compression_ratio)
    )
    num_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)] | Literal["auto"] = "auto"  # 0: unconditional
    in_context_tokens: Annotated[int, Field(ge=0, le=MAX_IN_CONTEXT)] = 0
    pixel_head: Literal["linear", "conv"] = "linear"
    encoder_mixer_blocks: Mixers = 2
    decoder_mixer_blocks: Mixers = 2
    mixer_norm_scale: bool = True
    spherify_decoder_blocks: bool = False
    halve_depth: bool = False
    attention: Literal["auto", "xformers", "sdpa", "math"] = "auto"

    @model_validator(mode="after")
    def _check(self) -> ModelSpec:
        problems = [
            f"model.{key}: no size {quoted(value)}; sizes are {', '.join(SIZES)}"
            for key, value in (("size", self.size), ("decoder_size", self.decoder_size))
            if value is not None and value not in SIZES
        ]
        if self.patch_size is None and self.image_size not in LOW_RESOLUTION_PATCH:
            known = ", ".join(map(str, LOW_RESOLUTION_PATCH))
            problems.append(f"model.image_size: {self.image_size} px needs model.patch_size (known without: {known})")
        elif self.image_size % self.patch:
            problems.append(f"model.patch_size: {self.patch} does not divide model.image_size = {self.image_size}")
        elif self.tokens > MAX_TOKENS:
            problems.append(
                f"model.patch_size: {self.patch} px of {self.image_size} make {self.tokens:,} tokens, "
                f"at most {MAX_TOKENS:,} are allowed"
            )
        elif not 1 <= self.channels_per_token <= MAX_CHANNELS:
            problems.append(
                f"model.compression_ratio: {self.compression_ratio:g} leaves {self.channels_per_token:,} channels in a "
                f"token, 1 to {MAX_CHANNELS:,} are allowed"
            )
        if self.kind == "vae" and self.encoder_mixer_blocks:
            problems.append("model.encoder_mixer_blocks: 0 for a VAE, whose means and variances one norm would tie")
        if self.kind == "diffusion" and self.in_context_tokens:
            problems.append("model.in_context_tokens: 0 for a diffusion model")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def patch(self) -> int:
        """Patch side p in pixels."""
        if self.patch_size is not None:
            return self.patch_size
        return LOW_RESOLUTION_PATCH[self.image_size] // (2 if self.latent_resolution == "high" else 1)

    @property
    def tokens(self) -> int:
        """Number of tokens N = (H / p)^2."""
        return (self.image_size // self.patch) ** 2

    @property
    def channels_per_token(self) -> int:
        """Token channels d = floor(3 p^2 / compression ratio)."""
        if self.token_channels is not None:
            return self.token_channels
        return math.floor(3 * self.patch**2 / self.compression_ratio)

    @property
    def latent_size(self) -> int:
        """Latent size L = N d."""
        return self.tokens * self.channels_per_token

    @property
    def classes(self) -> int:
        """The number of classes once it is known; 0 is unconditional."""
        if self.num_classes == "auto":
            raise UsageError('model.num_classes is still "auto": it is set when the data has been seen.')
        return self.num_classes


class DataSpec(Spec):
    """The pictures and how they are fitted to the model."""

    kind: DataKind = "folder"
    # A path, for shards also a pattern or an https address; None: --data, the settings' data folder, or where the
    # system keeps the set.
    root: Text | None = None
    # "adm" crops too, but halves with a box filter first: for pictures much larger than a model of 64 px or less.
    fit: Literal["crop", "pad", "adm"] = "crop"
    flip: bool = True
    channels: Literal["rgb", "grey"] = "rgb"
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] | Literal["auto"] = "auto"


class NoiseSpec(Spec):
    """The noise of training, as angles (section 2 and 4 of the description)."""

    angle_deg: Annotated[float, Field(gt=0, lt=90)] = 80.0
    hard_case_probability: Probability = 0.1
    hard_cases: Literal["reference", "full"] = "reference"  # one draw decides and places, or two

    @property
    def sigma_max(self) -> float:
        """Largest usual strength, tan(angle_max)."""
        return math.tan(self.angle_deg * RADIANS_PER_DEGREE)

    @property
    def hard_ratio(self) -> float:
        """Strength at angle_hard = min(angle_max + 5, 89) degrees, in units of sigma_max; at least 1."""
        hard_deg = max(min(self.angle_deg + 5.0, 89.0), self.angle_deg)
        return math.tan(hard_deg * RADIANS_PER_DEGREE) / self.sigma_max


class LossKnot(Spec):
    """Weights after so many images; one that is not given is that of the loss itself."""

    images: Images
    pooled: Weight | None = None
    rec: Weight | None = None
    rec_perceptual: Weight | None = None
    con: Weight | None = None
    con_perceptual: Weight | None = None
    latent: Weight | None = None
    centre: Weight | None = None
    kl: Weight | None = None


class LossSpec(Spec):
    """Weights of the parts, and the perceptual distance; of a VAE `rec`, `rec_perceptual` and `kl` count."""

    perceptual: Annotated[str, Field(max_length=MAX_NAME)] = (
        "lpips+convnext"  # or "features:NAME" (a frozen network of the zoo), or "none"
    )
    pooled: Weight = 0.0  # ours: weight in features:NAME of features averaged over space
    rec: Weight = 1.0
    rec_perceptual: Weight = 1.0
    con: Weight = 0.5
    con_perceptual: Weight = 0.5
    latent: Weight = 0.1
    centre: Weight = 0.0  # ours: the mean cosine between a micro-batch's latents of one class
    # Ours: other weights earlier on, linear in the images between its entries.
    schedule: Annotated[tuple[LossKnot, ...], Field(strict=False, max_length=MAX_KNOTS), FailFast()] = ()
    kl: Weight = 0.0  # of a VAE: the divergence's mean over the entries of a latent, in nats
    label_dropout: Probability = 0.1

    @model_validator(mode="after")
    def _check(self) -> LossSpec:
        if self.perceptual not in ("lpips+convnext", "none") and not self.features:
            raise ValueError(
                f"loss.perceptual: {quoted(self.perceptual)} is none of "
                "lpips+convnext, features:NAME (a network in the zoo), none"
            )
        if any(later.images <= earlier.images for earlier, later in pairwise(self.schedule)):
            raise ValueError("loss.schedule: each entry needs more images than the one before")
        return self

    # w(n) = (1 - s) w_k + s w_k+1, s = (n - n_k) / (n_k+1 - n_k); the first before n_1, the last after the last
    def after(self, images_seen: int) -> LossSpec:
        """The loss of a step that begins after so many images, without a schedule."""
        if not self.schedule:
            return self
        position = bisect_right([knot.images for knot in self.schedule], images_seen)
        earlier, later = self.schedule[max(position - 1, 0)], self.schedule[min(position, len(self.schedule) - 1)]
        share = (images_seen - earlier.images) / (later.images - earlier.images) if later is not earlier else 0.0
        weights = {}
        for name in LossKnot.model_fields.keys() - {"images"}:
            given = [getattr(knot, name) for knot in (earlier, later)]
            old, new = (getattr(self, name) if weight is None else weight for weight in given)
            weights[name] = new if old == new else share * new + (1 - share) * old
        return self.model_copy(update=weights | {"schedule": ()})

    @property
    def centred(self) -> bool:
        """Whether the part that centres classes ever counts."""
        return bool(self.centre or any(knot.centre for knot in self.schedule))

    @property
    def features(self) -> str:
        """Name of the zoo network the perceptual part uses, or the empty string."""
        prefix, _, name = self.perceptual.partition(":")
        return name if prefix == "features" else ""


class OptimSpec(Spec):
    """AdamW, its schedule and the moving average. Lengths are in images; epochs are resolved away."""

    lr: AboveZero = 1e-4  # of the decoder, for a batch of lr_batch_size; scaled linearly
    lr_batch_size: Batch = 256
    min_lr: Rate = 1e-6  # scaled alike
    encoder_lr_ratio: AboveZero = 0.1
    warmup_epochs: Epochs | None = None
    warmup_images: Images | None = None
    decay_images: Positive | None = None  # the rate falls over the last so many, and is constant before; None: over all
    betas: Annotated[tuple[Probability, Probability], Field(strict=False)] = (0.9, 0.95)
    weight_decay: Rate = 0.0
    clip_norm: Annotated[float, Field(gt=0, le=1e12)] = 1.0
    ema_half_life_images: Positive = 591_396  # 0.9997 a step at batch 256
    ema_ramp_ratio: Rate = 0.0  # half-life at most this share of images seen; 0: off

    @model_validator(mode="after")
    def _check(self) -> OptimSpec:
        problems = []
        if self.warmup_epochs is not None and self.warmup_images is not None:
            problems.append("optim.warmup_epochs, optim.warmup_images: give one of the two")
        if self.min_lr > self.lr:
            problems.append(f"optim.min_lr: {self.min_lr:g}, the end of the schedule, is above optim.lr = {self.lr:g}")
        if problems:
            raise ValueError("; ".join(problems))
        return self


# Keys that say how a training is computed, not what it is: a run goes on with others, on another machine.
HOW = (
    "data.workers",
    "run.activation_checkpointing",
    "run.compile",
    "run.micro_batch_size",
    "run.parallel",
)


class RunSpec(Spec):
    """Length, batch, precision, how it is computed, and what a run leaves behind."""

    length_epochs: Annotated[float, Field(gt=0, le=MAX_EPOCHS)] | None = None
    length_images: Positive | None = None
    batch_size: Annotated[int, Field(ge=3, le=MAX_BATCH)] = 256  # over all processes
    micro_batch_size: Batch | None = None  # images a process takes at once; None: its whole share of the batch
    parallel: Literal["ddp", "fsdp"] = "ddp"  # in several processes: whole networks in each, or shards of them
    activation_checkpointing: bool = False  # computes blocks twice instead of keeping what they need for the gradient
    compile: bool = False  # torch.compile, block by block
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = "auto"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    default: bool = True  # whether `sample` without --model may pick this run
    checkpoint_images: Positive = 50_000
    sample_images: Positive = 50_000
    keep_checkpoints: Positive = 2
    milestone_images: Positive | None = None  # the first checkpoint at or after each multiple is kept for good

    @model_validator(mode="after")
    def _check(self) -> RunSpec:
        if (self.length_epochs is None) == (self.length_images is None):
            raise ValueError("run.length_epochs, run.length_images: give one of the two")
        return self


class SampleSpec(Spec):
    """How the model likes to be sampled: the defaults of `spherectl sample`."""

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 4
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)] = 1.0
    guide: Literal["both", "encoder", "decoder"] = "both"
    noise: Literal["shared", "fresh"] = "shared"
    strength: Literal["constant", "decaying"] = "constant"
    noise_deg: Annotated[float, Field(ge=0, lt=90)] | Literal["training"] = "training"  # of a round, at most


class Recipe(Spec):
    """A whole recipe."""

    name: Annotated[str, Field(max_length=MAX_NAME, pattern=r"^[a-z0-9][a-z0-9._-]*\z")]
    summary: Text = ""
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    noise: NoiseSpec = NoiseSpec()
    loss: LossSpec = LossSpec()
    optim: OptimSpec = OptimSpec()
    run: RunSpec = RunSpec(length_epochs=1)
    sample: SampleSpec = SampleSpec()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        kind, loss, problems = self.model.kind, self.loss, []
        if kind == "vae" and not loss.kl:
            problems.append("loss.kl: a VAE needs a weight above 0, as in loss.kl = 0.01")
        if kind != "vae" and loss.kl:
            problems.append(f'loss.kl: for model.kind = "vae" alone; this is "{kind}"')
        if kind == "diffusion" and loss.perceptual != "none":
            problems.append('loss.perceptual: "none" for a diffusion model, which is trained on noise')
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def round_sigma(self, settings: SampleSpec) -> float:
        """Largest strength of the noise between steps: the tangent of its own angle, or of training's."""
        if settings.noise_deg == "training":
            return self.noise.sigma_max
        return math.tan(settings.noise_deg * RADIANS_PER_DEGREE)

    def to_table(self) -> dict[str, Any]:
        """Plain nested dict for TOML or JSON; keys without a value are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_toml(self) -> str:
        """The recipe as TOML text; `loads` reads it back equal."""
        return tomli_w.dumps(self.to_table())

    def replace(self, **tables: dict[str, Any]) -> Recipe:
        """A copy with some keys of some tables changed, validated anew: `replace(run={"seed": 1})`.

        None takes a key away, so that its default counts again. A length given in epochs replaces one in images, and
        the other way round.

        Raises:
            UsageError: a key is unknown, or a value is not allowed.
        """
        merged = merge(self.to_table(), tables)
        return parse(without_none(merged), source=f"recipe {self.name}")

    def resolve(self, images: int, num_classes: int) -> Recipe:
        """Replace epochs by images and "auto" by what the data has.

        Args:
            images: pictures in the training set.
            num_classes: classes in the training set; 0 where it has no labels.

        Raises:
            UsageError: the recipe names another number of classes than the data has.
        """
        wanted = self.model.num_classes
        if wanted not in ("auto", 0, num_classes):
            raise UsageError(
                f"The recipe {self.name} expects {wanted} classes (model.num_classes); the data has {num_classes}.",
                "Give --data a folder with one sub-folder a class, or --set model.num_classes=auto.",
            )
        length, warmup = self.run.length_images, self.optim.warmup_images
        if length is None:
            length = max(1, round((self.run.length_epochs or 0) * images))
        if warmup is None:
            warmup = round((self.optim.warmup_epochs or 0) * images)
        return self.replace(
            model={"num_classes": num_classes if wanted == "auto" else wanted},
            run={"length_epochs": None, "length_images": length},
            optim={"warmup_epochs": None, "warmup_images": warmup},
        )


def parse(table: dict[str, Any], source: str) -> Recipe:
    """Validate a nested dict as a recipe.

    Args:
        table: the tables as `tomllib` reads them.
        source: where they come from, a path or "recipe NAME"; the error begins with it.

    Raises:
        UsageError: names every unknown key and every bad value at once, each with its dotted path.
    """
    known, problems = split_unknown(table, Recipe)
    recipe = None
    try:
        recipe = Recipe.model_validate(known)
    except ValidationError as error:
        problems += describe(error, Recipe)
    if problems or recipe is None:
        hint = "`spherectl recipes show imagenet256` prints one to compare with."
        raise UsageError(f"{source}: {listed(problems, separator='; ')}.", hint)
    return recipe


def loads(text: str, source: str = "recipe", overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe from TOML text, its base below it, with `--set` overrides merged in before it is checked."""
    return parse(merge(_with_base(text, source), overrides or {}), source)


def load(path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A recipe from a TOML file."""
    return loads(_read(path), str(path), overrides)


_NAME_OF_BASE = re.compile(
    r"[a-z0-9][a-z0-9._-]{,99}(/[a-z0-9][a-z0-9._-]{,99})?"
)  # of a file in recipes/, or in a folder there


def _with_base(text: str, source: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """The tables of TOML text, over those of the recipe that it names as its base."""
    try:
        table = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not valid TOML: {error}.") from None
    if "base" not in table:
        return table
    base = table.pop("base")
    path = packaged("recipes") / f"{base}.toml" if isinstance(base, str) and _NAME_OF_BASE.fullmatch(base) else None
    if path is None or base in above or not path.is_file():
        raise UsageError(
            f"{source}: base: expected the name of a recipe that comes with spherectl, got {quoted(base)}.",
            "`spherectl recipes ls` lists them.",
        )
    return merge(_with_base(_read(path), str(path), (*above, base)), table)


def _read(path: Path) -> str:
    try:
        return read_text(path, MAX_RECIPE)
    except OSError as error:
        raise FileError(f"Cannot read the recipe {path}: {error.strerror}.") from None


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """Dotted paths at which two recipes are different trainings, sorted; those of `HOW` are not among them."""
    flat_a, flat_b = flatten(a.to_table()), flatten(b.to_table())
    keys = (flat_a.keys() | flat_b.keys()) - set(HOW)
    return sorted(key for key in keys if flat_a.get(key) != flat_b.get(key))

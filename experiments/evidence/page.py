"""docs/evidence.md from the numbers of docs/evidence.json, and from nothing else."""

from __future__ import annotations

import textwrap
from typing import Any

from benchmarks.tables import table
from experiments.evidence.claim import Claim
from experiments.evidence.claims import MAKERS, claims
from experiments.evidence.results import where
from spherectl.recipe import ModelSpec

PAGE = """\
# Evidence

What the paper says of the Sphere Encoder, tried at a small scale, each claim beside its control. Written on {date}
by

    {command}

from [evidence.json](evidence.json), which has the same numbers. The same command goes on where it was stopped; with
`--page` it writes this page again.

## What was found

{summary}

{open}

## How

Every model is trained by `python -m experiments train experiments/recipes/NAME.toml` on {data}: {images:,} images
seen, batch {batch}, one seed, the trunk of size {size}, a latent of {latent} numbers. All images are scored alike,
by {scorer}, which no loss has seen: Frechet distances between {count:,} images, classes in turn, and the test
images, lower being better. Intervals are 95% bootstrap intervals over {resamples} resamples of the images. Two
distances are called lower or higher only where their intervals lie apart. Real training images get {real}; that is
what a perfect model would get. Samples are unguided, of averaged weights in float32, from the same noise, unless it
is said.

{runs}

{claims}

## Limits

- Data: {data} alone, grey garments of 28 pixels. Nothing here speaks of photographs, or of 256 pixels.
- Size: {parameters:,} parameters. The paper's smallest model has 264 million.
- Budget: {images:,} images seen. The paper's recipe for 32 pixels sees 250 million. What helps early need not help
  late.
- Seeds: one training of each. Intervals tell of the noise in samples, not of another training; differences of a few
  percent are not to be trusted, intervals apart or not.
- Choice: the VAE's weight and the guidance scale are the best of those tried, judged by the same numbers.
- Time: milliseconds are of {timed}, a hundred images at once.
- Scores: distances in the features of a small network for garments compare with each other and with nothing published.
{machines}{missing}"""

SECTION = """\
## {title}

{found}

{images}{control}

{table}

Again with:

{commands}
"""

MACHINES = """\
- Machines: the trainings ran on several, whose products round bfloat16 each in its own way. Images a second and CPU
  minutes compare on one processor alone.
"""

TIMED = ("base", "diffusion")  # whose milliseconds are shown

VERDICTS = {"holds": "It holds here.", "does not hold": "It does not hold here.", "open": "It is open."}

ALTERNATIVES = {
    "steps": "Rows of one, two and four steps",
    "diffusion": "Samples of the diffusion model in 1, 4, 10 and 50 steps, by DDIM",
    "modes": "Four-step samples: shared and constant, shared and decaying, fresh and constant, fresh and decaying",
    "variants": "Four-step samples of each Sphere Encoder",
    "interpolation": "Paths between noise of two classes",
    "transitions": "Share of the second class along a path",
    "guidance": "Frechet distance over the guidance scale",
    "cost": "Frechet distance over milliseconds an image",
    "posterior-hole": "Input, reconstruction, prior sample and fitted-posterior sample of sphere and VAE",
    "uniformity": "Points on the sphere: latents, uniform points, a VAE's means, pixels",
}


def page(results: dict[str, Any]) -> str:
    """The page of a table that has one run at least."""
    told, base = claims(results), results["base"]
    real, runs = results["real"], results["runs"]
    rows = [
        {"what": row["name"], "on": row["machine"]["processor"]}
        | {key: row[key] for key in ("summary", "parameters", "images_per_s", "cpu_minutes")}
        for row in runs
    ]
    columns = {"what": "run", "summary": "what", "parameters": "parameters", "images_per_s": "images/s"}
    columns |= {"cpu_minutes": "CPU minutes", "on": "on"}
    summary = [{"claim": _linked(one.title), "outcome": one.outcome} for one in told]
    text = PAGE.format(
        **{key: results[key] for key in ("date", "command", "count", "resamples")},
        summary=table(summary, {"claim": "claim", "outcome": "here"}) if summary else "Nothing yet.",
        open=_open(told),
        data=base["data"]["kind"],
        images=base["run"]["length_images"],
        batch=base["run"]["batch_size"],
        size=base["model"]["size"],
        latent=_latent(base["model"]),
        scorer=real["scorer"],
        real=f"{real['frechet']:g} ({real['low']:g} to {real['high']:g})",
        runs=table(rows, columns),
        claims="\n".join(_section(one, results.get("images", {})) for one in told).rstrip(),
        parameters=max(row["parameters"] for row in runs),
        timed=where(*(row for row in runs if row["name"] in TIMED)),
        machines=MACHINES if len({row["machine"]["processor"] for row in runs}) > 1 else "",
        missing=_missing(told),
    )
    return text.rstrip() + "\n"


def _section(claim: Claim, images: dict[str, str]) -> str:
    shown = [f"![{ALTERNATIVES[name]}](evidence/{images[name]})" for name in claim.images if name in images]
    if "uniformity" in claim.images and "uniformity" in images:
        shown.append("[The same to turn by hand](evidence/uniformity.html).")
    return SECTION.format(
        title=claim.title,
        found=_wrapped(f"**{VERDICTS[claim.outcome]}** {claim.found}"),
        control=_wrapped(f"Control: {claim.control[0].lower()}{claim.control[1:]}"),
        images="".join(f"{one}\n\n" for one in shown),
        table=claim.table,
        commands=textwrap.indent("\n".join(claim.commands), "    "),
    )


def _open(told: list[Claim]) -> str:
    """What failed or is inconclusive."""
    lines = []
    for words, outcome in (("What failed", "does not hold"), ("What is inconclusive", "open")):
        lines += [f"{words}:", ""]
        lines += [f"- {_linked(one.title)}" for one in told if one.outcome == outcome] or ["- nothing of this"]
        lines.append("")
    return "\n".join(lines).rstrip()


def _wrapped(text: str) -> str:
    """A paragraph in lines as the other pages have them."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _missing(told: list[Claim]) -> str:
    """A limit, as long as not all runs have results."""
    left = len(MAKERS) - len(told)
    return f"- Runs: some have no result yet, so {left} of {len(MAKERS)} claims are missing here.\n" if left else ""


def _linked(title: str) -> str:
    """A link to a section, as Markdown readers name it."""
    kept = "".join(one for one in title.lower() if one.isalnum() or one in " -")
    return f"[{title}](#{kept.replace(' ', '-')})"


def _latent(model: dict[str, Any]) -> int:
    """Entries of a latent of a [model] table."""
    return ModelSpec.model_validate(model).latent_size

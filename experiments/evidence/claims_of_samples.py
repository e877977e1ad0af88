"""Claims on what samples are worth: their steps, noise and guidance, what they were trained with, what they cost."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import table
from experiments.evidence.claim import SAMPLES, TRAIN, Claim, decided, samples_table, steps_of
from experiments.evidence.results import (
    against,
    best_vae,
    collapsed,
    compare,
    distance,
    find,
    has,
    run_of,
    samples_of,
    vaes,
)

LOSSES = ("reconstruction-alone", "no-consistency", "no-latent", "no-perceptual")  # runs without some


def one_step(results: dict[str, Any]) -> Claim:
    """A single pass of the decoder draws images."""
    base, vae = find(results, "base"), best_vae(results)
    prior = vae["samples"][0]
    gone = [f"{row['name']}, {distance(row['samples'][0])}" for row in vaes(results) if collapsed(row)]
    left_out = f" One that collapsed to one image a class is no control for that ({'; '.join(gone)})." if gone else ""
    return Claim(
        "One step works",
        decided([compare(base, prior)]),
        f"One pass of the decoder gives a Frechet distance of {distance(base)}; real training images get "
        f"{distance(results['real'])}, the prior of the best VAE {distance(prior)}.",
        "The VAE of the same trunk, data and images seen whose prior does best "
        f"({vae['name']}, KL weight {vae['kl']:g}), sampled with one pass too.{left_out}",
        samples_table({"real images": results["real"], "sphere, 1 step": base, f"{vae['name']}, prior": prior}),
        ("steps",),
        (f"{TRAIN} base {vae['name']}", "spherectl plot samples runs/evidence/base --steps 1,2,4 --guidance 1"),
    )


def more_steps(results: dict[str, Any]) -> Claim:
    """Rounds of encoding and decoding sharpen."""
    rows = {steps: find(results, "base", steps=steps) for steps in (1, 2, 4)}
    one, two, four = rows.values()
    return Claim(
        "Two and four steps are better than one",
        decided([compare(two, one), compare(four, one)]),
        f"Two steps: {against(two, one, 'one')}. Four steps: {against(four, one, 'one')}, {against(four, two, 'two')}.",
        "The same model and the same initial noise in one step.",
        samples_table({steps_of(row): row for row in rows.values()}),
        ("steps",),
        (f"{TRAIN} base", "spherectl evaluate runs/evidence/base --steps 1,2,4 --guidance 1"),
    )


def modes(results: dict[str, Any]) -> Claim:
    """Shared noise of constant strength is the best of four modes."""
    found, verdicts = {}, []
    for steps in (2, 4):
        best = find(results, "base", steps=steps)
        for noise in ("shared", "fresh"):
            for strength in ("constant", "decaying"):
                row = find(results, "base", steps=steps, noise=noise, strength=strength)
                found[f"{steps} steps, {noise}, {strength}"] = row
                if row["setting"] != best["setting"] and steps == 4:
                    verdicts.append(compare(best, row))
    return Claim(
        "Noise shared by all rounds, at constant strength, is the best mode",
        decided(verdicts),
        "Its distance at four steps, against shared and decaying, fresh and constant, fresh and decaying: "
        f"{', '.join(verdicts)}.",
        "The three other modes, from the same initial noise.",
        samples_table(found),
        ("modes",),
        (
            f"{TRAIN} base",
            "spherectl sample --model runs/evidence/base --steps 4 --noise fresh --strength decaying --guidance 1",
        ),
    )


def guidance(results: dict[str, Any]) -> Claim:
    """Guidance helps."""
    rows = samples_of(results, "base", noise="shared", strength="constant")
    four = {row["setting"]["guidance"]: row for row in rows if row["setting"]["steps"] == 4}
    plain, others = four[1.0], {scale: row for scale, row in four.items() if scale > 1}
    scale = min(others, key=lambda one: float(others[one]["frechet"]))
    told = {
        f"{steps_of(row)}, guidance {row['setting']['guidance']:g}": row
        for row in sorted(rows, key=lambda row: (row["setting"]["steps"], row["setting"]["guidance"]))
        if row["setting"]["steps"] != 2
    }
    return Claim(
        "Guidance brings samples nearer to real images",
        decided([compare(others[scale], plain)]),
        f"At four steps the lowest distance with guidance is at {scale:g}: {distance(others[scale])}, "
        f"{against(others[scale], plain, distance(plain))} without. The class is right in "
        f"{others[scale]['right']:g}% of these samples, and in {plain['right']:g}% without guidance.",
        "The same model without guidance. The best of several scales is chosen here, which favours guidance a little.",
        samples_table(told),
        ("guidance",),
        (f"{TRAIN} base", "spherectl evaluate runs/evidence/base --steps 1,4 --guidance 1,1.2,1.4,2,3"),
    )


def angle(results: dict[str, Any]) -> Claim:
    """About 80 degrees are best at 32 px."""
    names = {70: "angle-70", 80: "base", 85: "angle-85"}
    found = {
        f"{degrees} degrees, {steps_of(row)}": row
        for degrees, name in names.items()
        for row in (find(results, name, steps=1), find(results, name, steps=4))
    }
    others = {n: find(results, name, steps=4) for n, name in names.items()}
    recall = [f"{row['recall']:g} at {n}" for n, row in others.items()]
    base = others.pop(80)
    return Claim(
        "Noise up to 80 degrees is best at 32 pixels",
        decided([compare(base, row) for row in others.values()]),
        f"At four steps 80 degrees are {' and '.join(against(base, row, str(n)) for n, row in others.items())}. "
        f"Recall is {', '.join(recall)} degrees.",
        "The same recipe with 70 and with 85 degrees.",
        samples_table(found),
        ("variants",),
        (f"{TRAIN} base angle-70 angle-85",),
    )


def losses(results: dict[str, Any]) -> Claim:
    """All losses together beat each left out."""
    names = ("base", *LOSSES)
    found = {
        f"{name}, {steps_of(row)}": row
        for name in names
        for row in (find(results, name, steps=1), find(results, name, steps=4))
    }
    base = find(results, "base", steps=4)
    others = {name: find(results, name, steps=4) for name in LOSSES}
    told = "; ".join(against(base, row, f"`{name}`") for name, row in others.items())
    return Claim(
        "Each loss is needed",
        decided([compare(base, row) for row in others.values()]),
        f"At four steps the distance with the whole loss is {told}.",
        "The same recipe with one loss left out, and reconstruction alone as in the paper's own ablation. "
        "Reconstruction cannot be left out. `no-perceptual` compares pixels alone in both losses of images.",
        samples_table(found),
        ("variants",),
        (f"{TRAIN} {' '.join(names)}",),
    )


def classes(results: dict[str, Any]) -> Claim:
    """A conditional model is better than one without classes."""
    found = {
        f"{told}, {steps_of(row)}": row
        for name, told in (("base", "with classes"), ("unconditional", "without"))
        for row in (find(results, name, steps=steps) for steps in (1, 2, 4))
    }
    pairs = [(find(results, "base", steps=n), find(results, "unconditional", steps=n)) for n in (1, 4)]
    words = [against(*pair, "without") for pair in pairs]
    bare = run_of(results, "unconditional")
    return Claim(
        "Classes help",
        decided([compare(*pair) for pair in pairs]),
        f"The distance with classes is {words[0]} at one step, {words[1]} at four; both are unguided.",
        f"The same recipe with {bare['summary']}. It has fewer parameters ({bare['parameters']:,} against "
        f"{run_of(results, 'base')['parameters']:,}).",
        samples_table(found),
        ("variants",),
        (f"{TRAIN} base unconditional",),
    )


def cost(results: dict[str, Any]) -> Claim:
    """At equal training, what an image costs and what it is worth."""
    spheres = [find(results, "base", steps=steps) for steps in (1, 2, 4)]
    diffusion = run_of(results, "diffusion")["samples"]
    rivals = [row for row in diffusion if any(row["ms_per_image"] <= one["ms_per_image"] for one in spheres)]
    verdicts = [compare(one, row) for one in spheres for row in rivals if row["ms_per_image"] <= one["ms_per_image"]]
    quickest, best = (min(diffusion, key=lambda row: float(row[key])) for key in ("ms_per_image", "frechet"))
    told = {f"sphere, {steps_of(row)}": row for row in spheres}
    told |= {f"diffusion, {row['setting']['solver']}, {steps_of(row)}": row for row in diffusion}
    plain = ""
    if has(results, "no-perceptual"):
        bare = [find(results, "no-perceptual", steps=steps) for steps in (1, 2, 4)]
        told |= {f"sphere, no-perceptual, {steps_of(row)}": row | {"ms_per_image": None} for row in bare}
        plain = f" Without it (no-perceptual, the same networks) four steps on the sphere get {distance(bare[-1])}, "
        plain += f"{against(bare[-1], best, 'that best setting')}"
        plain += ": the features make the difference." if compare(bare[-1], best) == "higher" else "."
    rows = [row | {"what": what, "interval": f"{row['low']:g} to {row['high']:g}"} for what, row in told.items()]
    columns = {"what": "what", "networks": "networks evaluated", "ms_per_image": "ms an image"}
    columns |= {key: head for key, head in SAMPLES.items() if key != "what"}
    few = (
        f"No setting of the diffusion model is as quick as four steps on the sphere; its quickest takes "
        f"{quickest['ms_per_image']:g} ms an image."
        if not rivals
        else f"Of the diffusion model's settings, {len(rivals)} are as quick as four steps on the sphere or quicker."
    )
    return Claim(
        "At equal training a diffusion model is no better for the same time",
        decided(verdicts),
        f"Four steps on the sphere take {spheres[-1]['ms_per_image']:g} ms an image and get {distance(spheres[-1])}. "
        f"{few} Its best setting ({best['setting']['solver']}, {steps_of(best)}) gets {distance(best)} in "
        f"{best['ms_per_image']:g} ms. The sphere's losses have a distance in features of garments, for which the "
        f"diffusion model's has no counterpart.{plain}",
        "A diffusion model of the same trunk, with the blocks of both networks in one, data and images seen; "
        f"{run_of(results, 'diffusion')['parameters']:,} parameters against {run_of(results, 'base')['parameters']:,}. "
        "One of its passes runs the blocks of an encoder and a decoder.",
        table(rows, columns),
        ("cost", "diffusion"),
        (f"{TRAIN} base diffusion", "python -m experiments.samples runs/evidence/diffusion --steps 1,4,10,50"),
    )

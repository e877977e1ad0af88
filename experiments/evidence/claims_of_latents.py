"""Claims on where latents lie: uniformity, the posterior hole, the paths between them."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import Row, table
from experiments.evidence.claim import PLOT, TRAIN, Claim, decided
from experiments.evidence.results import (
    Verdict,
    against,
    best_vae,
    collapsed,
    compare,
    distance,
    find,
    rivals,
    run_of,
    vaes,
)

UNIFORM = 0.05  # a p-value from which nothing speaks against uniformity
MEASURES = ("mean_direction", "pairwise_angles", "effective_rank", "energy_distance")


def uniform(results: dict[str, Any]) -> Claim:
    """Latents cover the sphere evenly."""
    base, vae = run_of(results, "base"), best_vae(results)
    rows = [{"what": f"sphere, {stage['images_seen']:,} images seen", **_shown(stage)} for stage in base["training"]]
    others = [row for row in results["runs"] if "uniformity" in row and row["name"] != "base"]
    rows += [{"what": row["name"], **_shown(row["uniformity"])} for row in others]
    found = base["uniformity"]
    fits = all(found[name]["p_value"] > UNIFORM for name in MEASURES)
    rank = found["effective_rank"]
    columns = {"what": "latents of test images"} | {name: name.replace("_", " ") for name in MEASURES}
    return Claim(
        "Latents cover the sphere evenly",
        "holds" if fits else "does not hold",
        f"The latents of {found['count']:,} test images use {rank['value'] * found['dimension']:.3g} of "
        f"{found['dimension']} directions, where uniform points use {rank['expected'] * found['dimension']:.3g}. "
        f"The smallest p-value of the four measures is {min(found[name]['p_value'] for name in MEASURES):g}.",
        "Truly uniform points of the same number and dimension in every cell; in the figure also the means of "
        f"{vae['name']} and pixels less their mean.",
        table(rows, columns),
        ("uniformity",),
        (
            f"{TRAIN} base {vae['name']}",
            f"python -m experiments plot uniformity runs/evidence/base --vae runs/evidence/{vae['name']}",
        ),
    )


def _shown(measured: Row) -> Row:
    return {
        name: f"{measured[name]['value']:g} (uniform {measured[name]['expected']:g}, p {measured[name]['p_value']:g})"
        for name in MEASURES
    }


def hole(results: dict[str, Any]) -> Claim:
    """The VAE reconstructs well and draws poorly; the sphere draws better."""
    one, four, count = find(results, "base"), find(results, "base", steps=4), results["count"]
    base = run_of(results, "base")
    swept, best, best_fitted = vaes(results), best_vae(results), best_vae(results, "fitted")
    theirs = {"prior": best["hole"]["prior"], "fitted posterior": best_fitted["hole"]["fitted"]}
    verdicts = [compare(ours, rival) for ours in (one, four) for rival in theirs.values()]
    told = " ".join(
        f"{steps}: {against(ours, theirs['prior'], 'its prior')}, "
        f"{against(ours, theirs['fitted posterior'], 'its fitted posterior')}."
        for steps, ours in (("One step", one), ("Four steps", four))
    )
    rows = [
        {"what": row["name"], **{name: distance(row["hole"][name]) for name in row["hole"]}, "psnr": row["psnr_db"]}
        for row in (base, *swept)
    ]
    columns = {"what": "model", "input": "input", "reconstruction": "reconstruction", "prior": "prior sample"}
    columns |= {"fitted": "fitted-posterior sample", "psnr": "PSNR, dB"}
    return Claim(
        "The sphere samples better than a VAE, from its prior or from its fitted posterior",
        decided(verdicts),
        f"Of {len(swept)} weights of the divergence, {_weight(best, swept)} gives the best prior samples, "
        f"{distance(theirs['prior'])}, and {_weight(best_fitted, swept)} the best fitted-posterior samples, "
        f"{distance(theirs['fitted posterior'])}. The sphere: {distance(one)} in one step, {distance(four)} in four. "
        f"Against the VAE: {told[0].lower()}{told[1:]} Neither is without a hole: from reconstructions to samples of "
        f"the prior the VAE's distance goes from {best['hole']['reconstruction']['frechet']:g} to "
        f"{best['hole']['prior']['frechet']:g}, the sphere's from {base['hole']['reconstruction']['frechet']:g} to "
        f"{base['hole']['prior']['frechet']:g}.{_of_collapsed(swept)}",
        "The VAEs of the same trunk, data, latent size and images seen, each column's best weight chosen, which "
        "favours the VAE. A prior sample of the sphere is its one step; classes come in another order here than in the "
        "tables above, so the two differ a little.",
        table(rows, columns),
        ("posterior-hole",),
        (
            f"{TRAIN} base {' '.join(row['name'] for row in swept)}",
            f"{PLOT} runs/evidence/base --vae runs/evidence/{best['name']} --count {count}",
        ),
    )


def _of_collapsed(swept: list[Row]) -> str:
    """What is to be said of the VAEs that are not chosen from."""
    gone = [
        f"{row['name']} (prior {distance(row['hole']['prior'])}, recall {row['samples'][0]['recall']:g}, "
        f"{row['psnr_db']:g} dB)"
        for row in swept
        if collapsed(row)
    ]
    return (
        f" Not chosen from, for collapse: {', '.join(gone)}. There the latents carry nothing, a class is one image, "
        "and prior, fitted posterior and reconstruction are alike: no hole, and no variety either, which the distance "
        "hardly sees."
        if gone
        else ""
    )


def _weight(vae: Row, swept: list[Row]) -> str:
    """The weight of a VAE, and where it stands at an end of those tried that did not collapse."""
    tried = [one["kl"] for one in rivals(swept)]
    end = "the largest" if vae["kl"] == max(tried) else "the smallest" if vae["kl"] == min(tried) else ""
    end += " that did not collapse" if end and len(tried) < len(swept) else ""
    return f"{vae['kl']:g} ({end})" if end and len(tried) > 1 else f"{vae['kl']:g}"


def interpolation(results: dict[str, Any]) -> Claim:
    """Along a path the class changes fast."""
    found = run_of(results, "base")["interpolation"]
    path, fade, less = found["path"]["width"], found["crossfade"]["width"], found["difference"]
    change: Verdict = "lower" if less["high"] < 0 else "higher" if less["low"] > 0 else "not told apart"
    rows = [
        {"what": told, "width": found[name]["width"], "middle": found[name]["curve"][len(found[name]["curve"]) // 2]}
        for name, told in (("path", "path on the sphere"), ("crossfade", "crossfade of its ends"))
    ]
    columns = {"what": "along", "width": "10% to 90%, share of the path", "middle": "second class at the middle"}
    return Claim(
        "Between two classes, images change class fast",
        decided([change]),
        f"In the median of {found['pairs']} paths between noise of two classes, the scorer's share of the second class "
        f"goes from 10% to 90% within {path:g} of the path; in a crossfade of the same ends within {fade:g}. "
        f"The mean difference of a pair is {less['value']:g} ({less['low']:g} to {less['high']:g}).",
        "A crossfade, pixel by pixel, of the images at both ends.",
        table(rows, columns),
        ("interpolation", "transitions"),
        (f"{TRAIN} base", "spherectl interpolate --model runs/evidence/base"),
    )

// Rounds of decode, encode, add noise, decode, as in spherectl/model/sampler.py; images are in [0, 1] here.
//
// A network is {encode(image, labels), decode(latent, labels)}: one output for each label, latents before f.

import { perturb, spherify } from "./sphere.js";

const clamp = (value) => Math.min(1, Math.max(0, value));

// free + w (bound - free)
const mix = ([free, bound], w) => free.map((value, i) => value + w * (bound[i] - value));

/**
 * A network under classifier-free guidance, with one label a call.
 *
 * @param network the plain one
 * @param {number} nullLabel the class that stands for none
 * @param {number} scale guidance scale w; 1 is off
 * @param {"both"|"encoder"|"decoder"} guide what it acts on; on both with the root of w on each
 */
export function guided(network, nullLabel, scale, guide) {
  const w = guide === "both" ? Math.sqrt(scale) : scale;
  const acts = (side, label) => scale !== 1 && label !== nullLabel && (guide === "both" || guide === side);
  return {
    async encode(image, label) {
      if (!acts("encoder", label)) return (await network.encode(image, [label]))[0];
      return mix(await network.encode(image, [nullLabel, label]), w);
    },
    async decode(latent, label) {
      if (!acts("decoder", label)) return (await network.decode(latent, [label]))[0];
      return mix(await network.decode(latent, [nullLabel, label]), w).map(clamp);
    },
  };
}

/** Share of sigma_max that round k of `steps` adds: s_k = 1, or 1 - k / T. */
export function roundStrength(k, steps, strength) {
  return strength === "constant" ? 1 : 1 - k / steps;
}

/**
 * Sample an image: one of every step, of which the last is the result.
 *
 * @param network from `guided`
 * @param {Float32Array} initial Gaussian noise, or any latent
 * @param {number} label
 * @param {{steps: number, sigmaMax: number, strength: string, noise: (k: number) => Float32Array}} settings
 * @returns {Promise<Float32Array[]>} `steps` images
 */
export async function generate(network, initial, label, { steps, sigmaMax, strength, noise }) {
  const images = [await network.decode(spherify(initial), label)];
  for (let k = 1; k < steps; k++) {
    const sigma = Math.fround(roundStrength(k, steps, strength) * sigmaMax);
    images.push(await again(network, images[k - 1], label, sigma, () => noise(k)));
  }
  return images;
}

/**
 * Encode and decode an image for several rounds, with noise between.
 *
 * @param network from `guided`
 * @param {Float32Array} image
 * @param {number} label the class to encode and decode as
 * @param {{rounds: number, sigma: number, noise: (k: number) => Float32Array}} settings
 * @returns {Promise<Float32Array[]>} the image of each round
 */
export async function rounds(network, image, label, { rounds: count, sigma, noise }) {
  const images = [];
  for (let k = 1; k <= count; k++) {
    images.push(await again(network, images[k - 2] ?? image, label, Math.fround(sigma), () => noise(k)));
  }
  return images;
}

// x = D(f(f(E(x, y)) + sigma e), y)
async function again(network, image, label, sigma, noise) {
  const point = spherify(await network.encode(image, label));
  return network.decode(sigma === 0 ? point : perturb(point, sigma, noise()), label);
}

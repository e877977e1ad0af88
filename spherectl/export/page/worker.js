// The model in a thread of its own, so that the page never freezes. Takes {id, task, ...what}, answers {id, result} or
// {id, error}, and {id, progress} on the way.

import { INITIAL, ROUND, noise, parseSeed } from "./noise.js";
import { load } from "./network.js";
import { fit, readImage, stitch, toFloat, toRgba } from "./image.js";
import { generate, guided, rounds } from "./sampler.js";
import { slerp, spherify, strength } from "./sphere.js";

let about, network;

const tasks = {
  async load(_, progress) {
    ({ about, network } = await load((loaded, total) => progress({ loaded, total })));
    return about;
  },

  /** The images of every step from a seed, as image 0 of `spherectl sample --seed SEED --count 1` and its like. */
  async sample({ seed, ...settings }) {
    const from = parseSeed(seed);
    return timed(() => sample(initial(from), (k) => roundNoise(from, k), settings));
  },

  /** The same between two seeds; the noise of the rounds walks along, so that both ends are those of `sample`. */
  async walk({ from, to, t, ...settings }) {
    const a = parseSeed(from), b = parseSeed(to);
    const start = slerp(spherify(initial(a)), spherify(initial(b)), t);
    const between = (k) => slerp(roundNoise(a, k), roundNoise(b, k), t);
    return timed(() => sample(start, between, settings));
  },

  /** A file's image at the model's size. */
  async fit({ blob }) {
    return { image: fit(await readImage(blob), about) };
  },

  /** Two images of the model's size side by side. */
  async stitch({ first, second, layout }) {
    return { image: stitch(first, second, layout) };
  },

  /** Rounds of encode and decode from an image of the model's size, with shared noise; every round's image. */
  async edit({ image, label, guidance, count, angle, seed }) {
    const model = guided(network, about.classes, guidance, "both");
    const from = parseSeed(seed);
    const settings = { rounds: count, sigma: strength(angle), noise: () => gaussian(from, ROUND, 1) };
    return timed(() => rounds(model, toFloat(image), label, settings));
  },
};

function sample(start, between, { label, steps, guidance }) {
  const model = guided(network, about.classes, guidance, about.sample.guide);
  const settings = { steps, sigmaMax: about.sigma_max, strength: about.sample.strength, noise: between };
  return generate(model, start, label, settings);
}

const gaussian = (seed, stream, k = 0) => noise(seed, stream, 0, about.tokens * about.token_channels, k);

const initial = (seed) => gaussian(seed, INITIAL);

const roundNoise = (seed, k) => gaussian(seed, ROUND, about.sample.noise === "shared" ? 1 : k);

/** Compute images; returns them as RGBA bytes, with the milliseconds it took. */
async function timed(compute) {
  const start = performance.now();
  const images = await compute();
  const ms = performance.now() - start;
  return { images: images.map((image) => toRgba(image, about.image_size)), ms };
}

async function answer({ id, task, ...what }) {
  try {
    const result = await tasks[task](what, (progress) => self.postMessage({ id, progress }));
    self.postMessage({ id, result });
  } catch (error) {
    self.postMessage({ id, error: error.message || String(error) });
  }
}

let last = Promise.resolve(); // one after another: a session runs once at a time

self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};

// Counter-based randomness, as in spherectl/model/seeding.py: Philox-4x32-10 (Salmon et al., SC 2011). What is drawn
// depends on the seed, the stream, the image and the round, so that a seed means the same image here and there.

export const INITIAL = 0;
export const ROUND = 1;

const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57];
const WEYL = [0x9e3779b9, 0xbb67ae85];
const ROUNDS = 10;
const LARGEST_SEED = (1n << 64n) - 1n;

/** The high 32 bits of a product of two words; halves of 16 bits keep every sum exact in a double. */
function high(a, b) {
  const aLow = a & 0xffff, aHigh = a >>> 16, bLow = b & 0xffff, bHigh = b >>> 16;
  const middle = aHigh * bLow + aLow * bHigh + Math.floor((aLow * bLow) / 65536);
  return (aHigh * bHigh + Math.floor(middle / 65536)) >>> 0;
}

/** Ten rounds of Philox-4x32: a counter of four words and a key of two to four words. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = high(c0, MULTIPLIERS[0]), low0 = Math.imul(c0, MULTIPLIERS[0]) >>> 0;
    const high1 = high(c2, MULTIPLIERS[1]), low1 = Math.imul(c2, MULTIPLIERS[1]) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL[0]) >>> 0;
    k1 = (k1 + WEYL[1]) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** A seed from what a person typed; throws a sentence where it is none. */
export function parseSeed(text) {
  const digits = String(text).trim();
  if (!/^\d+$/.test(digits) || BigInt(digits) > LARGEST_SEED) {
    throw new Error(`A seed is a whole number from 0 to ${LARGEST_SEED}, not "${digits}".`);
  }
  return BigInt(digits);
}

/** The first `count` words of an image's stream; `seed` is a BigInt. */
export function words(seed, stream, image, count, round = 0) {
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const out = new Uint32Array(4 * Math.ceil(count / 4));
  for (let block = 0; 4 * block < count; block++) {
    out.set(philox([block, image, round, stream], key), 4 * block);
  }
  return out.subarray(0, count);
}

/** Normals by Box and Muller, in float64: r cos t, r sin t with r = sqrt(-2 ln u0), t = 2 pi u1. */
export function normals(seed, stream, image, count, round = 0) {
  const drawn = words(seed, stream, image, count + (count % 2), round);
  const out = new Float64Array(drawn.length);
  for (let i = 0; i < drawn.length; i += 2) {
    const u0 = (drawn[i] + 0.5) / 2 ** 32, u1 = (drawn[i + 1] + 0.5) / 2 ** 32;
    const radius = Math.sqrt(-2 * Math.log(u0)), angle = 2 * Math.PI * u1;
    out[i] = radius * Math.cos(angle);
    out[i + 1] = radius * Math.sin(angle);
  }
  return out.subarray(0, count);
}

/** Noise for one latent of `size` numbers, as float32. */
export function noise(seed, stream, image, size, round = 0) {
  return Float32Array.from(normals(seed, stream, image, size, round));
}

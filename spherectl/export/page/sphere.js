// The sphere, as in spherectl/model/geometry.py. A latent is one Float32Array of L numbers; sums are in float64.

const EPSILON = 1e-6;

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** f(z) = z / sqrt(mean(z^2) + 1e-6): the point of RMS 1 in the direction of z. */
export function spherify(z) {
  const scale = 1 / Math.sqrt(dot(z, z) / z.length + EPSILON);
  return z.map((value) => value * scale);
}

/** f(v + sigma e): v turned by noise; v itself where sigma is 0. */
export function perturb(v, sigma, e) {
  return sigma === 0 ? v : spherify(v.map((value, i) => value + sigma * e[i]));
}

/** The strength of noise that turns a point by an angle in degrees. */
export function strength(angleDeg) {
  return Math.tan((angleDeg * Math.PI) / 180);
}

/** The great circle from a (t = 0) to b (t = 1); where they nearly coincide or oppose, the chord put on the sphere. */
export function slerp(a, b, t) {
  const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  const omega = Math.acos(Math.min(1, Math.max(-1, cosine)));
  if (Math.abs(Math.sin(omega)) < 1e-6) return spherify(a.map((value, i) => value + t * (b[i] - value)));
  const fromA = Math.sin((1 - t) * omega) / Math.sin(omega), fromB = Math.sin(t * omega) / Math.sin(omega);
  return a.map((value, i) => fromA * value + fromB * b[i]);
}

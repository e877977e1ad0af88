// The model's two networks, run by onnxruntime-web: decoder.onnx and encoder.onnx as spherectl exports them.

import * as ort from "./onnxruntime-web/ort.wasm.bundle.min.mjs";

const RUNTIME = "onnxruntime-web/ort-wasm-simd-threaded.wasm";
const MOST_THREADS = 4;

/**
 * Fetch everything and start the runtime.
 *
 * @param {(loaded: number, total: number) => void} progress bytes so far, and in all
 * @returns {Promise<{about: object, network: {encode: Function, decode: Function}}>} what model.json says, and the
 *   network that sampler.js takes
 */
export async function load(progress) {
  const about = await (await fetchFile("model.json")).json();
  const names = [RUNTIME, ...Object.keys(about.files)];
  const total = about.runtime_bytes + Object.values(about.files).reduce((sum, bytes) => sum + bytes, 0);
  let loaded = 0;
  const arrived = (bytes) => progress((loaded += bytes), total);
  const files = {};
  for (const name of names) files[name] = await read(await fetchFile(name), arrived);

  ort.env.wasm.wasmBinary = files[RUNTIME].buffer;
  // Threads share memory, which browsers allow to isolated pages alone.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  const decoder = await ort.InferenceSession.create(files["decoder.onnx"]);
  const encoder = await ort.InferenceSession.create(files["encoder.onnx"]);
  return { about, network: network(about, encoder, decoder) };
}

function network({ image_size: size, tokens, token_channels: channels, classes }, encoder, decoder) {
  return {
    /** (3, H, W) in [0, 1] -> for each label a latent of N d numbers, before it is put on the sphere. */
    encode: (image, labels) => run(encoder, "image", image, [3, size, size], classes ? labels : [null], "raw"),
    /** N d numbers, a point on the sphere -> for each label an image (3, H, W) in [0, 1]. */
    decode: (latent, labels) => run(decoder, "latent", latent, [tokens, channels], classes ? labels : [null], "image"),
  };
}

/** One call of a session on the same input under several labels; [null] for a network without classes. */
async function run(session, name, input, shape, labels, wanted) {
  const batch = new Float32Array(labels.length * input.length);
  labels.forEach((_, i) => batch.set(input, i * input.length));
  const feeds = { [name]: new ort.Tensor("float32", batch, [labels.length, ...shape]) };
  if (labels[0] !== null) feeds.labels = new ort.Tensor("int64", BigInt64Array.from(labels, BigInt), [labels.length]);
  const { data } = (await session.run(feeds, [wanted]))[wanted];
  const length = data.length / labels.length;
  return labels.map((_, i) => data.slice(i * length, (i + 1) * length));
}

async function fetchFile(name) {
  const response = await fetch(new URL(name, import.meta.url)).catch(() => null);
  if (!response?.ok) {
    const why = response ? `the server answered ${response.status}` : "the server does not answer";
    throw new Error(`Cannot load ${name}: ${why}.`);
  }
  return response;
}

async function read(response, arrived) {
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    arrived(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

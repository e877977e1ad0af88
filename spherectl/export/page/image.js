// Images of any size to what the model takes, as in spherectl/data/transforms.py, and between bytes and floats.
//
// An image is {width, height, pixels}: bytes, three a pixel. What a network takes is a Float32Array (3, H, W) in [0, 1].

const CHANNELS = 3;
const PRECISION = 2 ** 22; // Pillow's weights are integers of so many parts

const FILTERS = {
  box: { support: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  bicubic: {
    support: 2,
    weight(x) {
      const a = -0.5, d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? ((d - 5) * d + 8) * d * a - 4 * a : 0;
    },
  },
};

/** Decode a file, upright and over white; throws a sentence where it is no image. */
export async function readImage(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Error("This file is not an image that the browser can read; try a PNG, JPEG or WebP.");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return fromRgba({ width, height, data: context.getImageData(0, 0, width, height).data });
}

/** Drop the fourth byte of each pixel. */
export function fromRgba({ width, height, data }) {
  const pixels = new Uint8Array(width * height * CHANNELS);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < CHANNELS; c++) pixels[CHANNELS * i + c] = data[4 * i + c];
  }
  return { width, height, pixels };
}

/**
 * An image at the model's size.
 *
 * "pad" puts one that is small enough in the middle of a black square. All others are halved with a box filter while they
 * stay large enough, resized bicubically, and cut to their centre.
 *
 * @param image of any size
 * @param {{image_size: number, fit: "crop"|"pad", channels: "rgb"|"grey"}} about
 */
export function fit(image, { image_size: size, fit: how, channels }) {
  const padded = how === "pad" && Math.max(image.width, image.height) <= size;
  const fitted = padded ? pad(image, size) : crop(image, size);
  return channels === "grey" ? grey(fitted) : fitted;
}

// ITU-R 601, in the 16-bit integers Pillow uses
function grey({ width, height, pixels }) {
  const out = new Uint8Array(pixels.length);
  for (let i = 0; i < pixels.length; i += CHANNELS) {
    out.fill((19595 * pixels[i] + 38470 * pixels[i + 1] + 7471 * pixels[i + 2] + 0x8000) >> 16, i, i + CHANNELS);
  }
  return { width, height, pixels: out };
}

function pad(image, size) {
  const { width, height } = image;
  const out = { width: size, height: size, pixels: new Uint8Array(size * size * CHANNELS) };
  copy(image, out, Math.floor((size - width) / 2), Math.floor((size - height) / 2));
  return out;
}

function crop(image, size) {
  let { width, height } = image;
  while (Math.min(width, height) >= 2 * size) {
    image = resize(image, Math.floor(width / 2), Math.floor(height / 2), FILTERS.box);
    ({ width, height } = image);
  }
  const scale = size / Math.min(width, height);
  const resized = resize(image, evenRound(width * scale), evenRound(height * scale), FILTERS.bicubic);
  const out = { width: size, height: size, pixels: new Uint8Array(size * size * CHANNELS) };
  copy(resized, out, -Math.floor((resized.width - size) / 2), -Math.floor((resized.height - size) / 2));
  return out;
}

// Python rounds halves to the even neighbour.
function evenRound(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

/** Copy pixels to a place in another image; what falls outside is left out. */
function copy(from, to, left, top) {
  for (let y = Math.max(0, -top); y < Math.min(from.height, to.height - top); y++) {
    const start = Math.max(0, -left), end = Math.min(from.width, to.width - left);
    const row = from.pixels.subarray((y * from.width + start) * CHANNELS, (y * from.width + end) * CHANNELS);
    to.pixels.set(row, ((y + top) * to.width + left + start) * CHANNELS);
  }
}

/** Pillow's resize: rows first, then columns, rounded to bytes after each. */
function resize(image, width, height, filter) {
  const rows = width === image.width ? image : resizeRows(image, width, filter);
  return height === rows.height ? rows : transpose(resizeRows(transpose(rows), height, filter));
}

function resizeRows({ width, height, pixels }, target, filter) {
  const taps = weights(width, target, filter);
  const out = new Uint8ClampedArray(target * height * CHANNELS);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < target; x++) {
      const { first, parts } = taps[x];
      for (let c = 0; c < CHANNELS; c++) {
        let sum = PRECISION / 2;
        for (let i = 0; i < parts.length; i++) sum += parts[i] * pixels[(y * width + first + i) * CHANNELS + c];
        out[(y * target + x) * CHANNELS + c] = Math.floor(sum / PRECISION);
      }
    }
  }
  return { width: target, height, pixels: new Uint8Array(out.buffer) };
}

/** For each target pixel, its first source pixel and the integer weight of each from there on. */
function weights(from, to, { support, weight }) {
  const scale = from / to, wide = Math.max(scale, 1);
  return Array.from({ length: to }, (_, x) => {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const end = Math.min(from, Math.trunc(centre + support * wide + 0.5));
    const shares = Array.from({ length: end - first }, (_, i) => weight((first + i - centre + 0.5) / wide));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const integer = (share) => Math.trunc(share * PRECISION + (share < 0 ? -0.5 : 0.5));
    return { first, parts: shares.map((share) => integer(share / total)) };
  });
}

function transpose({ width, height, pixels }) {
  const out = new Uint8Array(pixels.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < CHANNELS; c++) out[(x * height + y) * CHANNELS + c] = pixels[(y * width + x) * CHANNELS + c];
    }
  }
  return { width: height, height: width, pixels: out };
}

/** Bytes to floats, channels first: x = b / 255. */
export function toFloat({ width, height, pixels }) {
  const area = width * height;
  return Float32Array.from({ length: area * CHANNELS }, (_, i) => pixels[(i % area) * CHANNELS + Math.floor(i / area)] / 255);
}

/** Floats in [0, 1], channels first, to RGBA bytes as a canvas takes them: floor(255 x + 1/2). */
export function toRgba(image, size) {
  const area = size * size;
  const out = new Uint8ClampedArray(area * 4).fill(255);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < CHANNELS; c++) {
      out[4 * i + c] = Math.floor(Math.min(1, Math.max(0, image[c * area + i])) * 255 + 0.5);
    }
  }
  return out;
}

const FIRST_SHOWS = {
  "left-right": (x, y, size) => x < Math.floor(size / 2),
  "top-bottom": (x, y, size) => y < Math.floor(size / 2),
  diagonal: (x, y) => x <= y,
  "anti-diagonal": (x, y, size) => x + y < size,
};

/** Two images of the model's size as one; `layout` says where the first shows, as in spherectl/editing/stitching.py. */
export function stitch(first, second, layout) {
  const { width, height } = first;
  const pixels = second.pixels.slice();
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const place = (y * width + x) * CHANNELS;
      if (FIRST_SHOWS[layout](x, y, width)) pixels.set(first.pixels.subarray(place, place + CHANNELS), place);
    }
  }
  return { width, height, pixels };
}

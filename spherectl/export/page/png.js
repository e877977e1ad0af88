// Text in a PNG file, so that a saved image says how it was made, as those of `spherectl sample` do.

const HEADER = 8 + 25; // the signature and the chunk IHDR, which comes first

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/**
 * A PNG with text chunks: tEXt for ASCII, else iTXt in UTF-8.
 *
 * @param {Blob} png
 * @param {Object<string, string>} texts by keyword
 */
export function withText(png, texts) {
  const chunks = Object.entries(texts).map(([keyword, text]) => {
    const ascii = /^[\x00-\x7f]*$/.test(text);
    return chunk(ascii ? "tEXt" : "iTXt", `${keyword}\0${ascii ? "" : "\0\0\0\0"}${text}`);
  });
  return new Blob([png.slice(0, HEADER), ...chunks, png.slice(HEADER)], { type: "image/png" });
}

// Length, type, content, checksum of type and content
function chunk(type, content) {
  const body = new TextEncoder().encode(type + content);
  const out = new DataView(new ArrayBuffer(body.length + 8));
  out.setUint32(0, body.length - type.length);
  new Uint8Array(out.buffer).set(body, 4);
  out.setUint32(body.length + 4, crc(body));
  return out.buffer;
}

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) sum = CRC[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

// What a person sees and does. All computing is asked of worker.js; this file moves bytes to canvases.

import { fromRgba } from "./image.js";
import { withText } from "./png.js";

const PLAY_S = 4; // seconds for one way
const DICE = `<svg viewBox="0 0 24 24" aria-hidden="true" fill="currentColor"><rect x="2" y="2" width="20" height="20" rx="4"
  fill="none" stroke="currentColor" stroke-width="2"/><circle cx="7.5" cy="7.5" r="1.8"/><circle cx="16.5" cy="7.5" r="1.8"/>
  <circle cx="12" cy="12" r="1.8"/><circle cx="7.5" cy="16.5" r="1.8"/><circle cx="16.5" cy="16.5" r="1.8"/></svg>`;

const at = (id) => document.getElementById(id);
const value = (id) => Number(at(id).value);
const chosenTask = () => document.querySelector("input[name=task]:checked").value;

let about; // model.json
let sampled; // RGBA bytes of the image sampled last
let sampledFrom; // its seed, label, steps, guidance
const slots = { first: null, second: null }; // images at the model's size

// Talking to the worker

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;

worker.onmessage = ({ data: { id, result, error, progress } }) => {
  const { resolve, reject, onProgress } = waiting.get(id);
  if (progress) return onProgress(progress);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(result);
};

worker.onerror = (event) => {
  event.preventDefault();
  const error = new Error(`The page's worker cannot start: ${event.message || "its script did not load"}.`);
  for (const { reject } of waiting.values()) reject(error);
  waiting.clear();
};

function ask(task, what = {}, onProgress) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject, onProgress });
    worker.postMessage({ id: asked, task, ...what });
  });
}

/** Run a job now; asked for again while it runs, once more at its end. Sliders ask far more often than that. */
function latest(said, job) {
  let running = false, again = false;
  const section = said.closest("section");
  return async () => {
    if (running) return void (again = true);
    running = true;
    section.setAttribute("aria-busy", "true");
    do {
      again = false;
      try {
        say(said, await job());
      } catch (error) {
        say(said, error.message, true);
      }
    } while (again);
    running = false;
    section.setAttribute("aria-busy", "false");
  };
}

function say(place, text, wrong = false) {
  place.textContent = text ?? "";
  place.classList.toggle("wrong", wrong);
}

// Showing

function show(canvas, rgba, label) {
  canvas.width = canvas.height = about.image_size;
  canvas.getContext("2d").putImageData(new ImageData(rgba, about.image_size), 0, 0);
  if (label) canvas.setAttribute("aria-label", label);
}

/** A row of images with a word under each. */
function showStrip(list, entries) {
  list.replaceChildren(...entries.map(([rgba, word]) => {
    const item = document.createElement("li"), canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    show(canvas, rgba, word);
    item.append(canvas, word);
    return item;
  }));
}

const withAlpha = ({ width, height, pixels }) => {
  const rgba = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) rgba.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
  return rgba;
};

const className = (label) => (label === about.classes ? "no class" : about.class_names[label] ?? `class ${label}`);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

// Sampling and walking

const settings = () => ({ label: value("class"), steps: value("steps"), guidance: value("guidance") });

const sample = latest(at("sample-said"), async () => {
  const { label, steps, guidance } = settings(), seed = at("seed").value.trim();
  showCommand(seed, label, steps, guidance);
  const { images, ms } = await ask("sample", { seed, label, steps, guidance });
  sampled = images.at(-1);
  sampledFrom = { seed, label, steps, guidance };
  show(at("sampled"), sampled, `Point ${seed}${about.classes ? `, ${className(label)}` : ""}, ${plural(steps, "step")}`);
  show(at("walk-start"), sampled);
  at("steps-strip").hidden = steps === 1;
  showStrip(at("steps-strip"), images.map((image, i) => [image, `step ${i + 1}`]));
  walk();
  return `${plural(steps, "step")} in ${milliseconds(ms)}`;
});

let shownEnds; // whose end stands beside the slider

const walk = latest(at("walk-said"), async () => {
  const ends = { from: at("seed").value, to: at("to").value, ...settings() };
  if (JSON.stringify(ends) !== shownEnds) {
    const end = await ask("walk", { ...ends, t: 1 });
    show(at("walk-end"), end.images.at(-1));
    shownEnds = JSON.stringify(ends);
  }
  const t = value("way");
  const { images, ms } = await ask("walk", { ...ends, t });
  show(at("between"), images.at(-1), `${Math.round(100 * t)}% of the way`);
  return `${Math.round(100 * t)}% of the way, ${milliseconds(ms)}`;
});

/** A word as a shell reads it, quoted where it has to be; control characters are none of a name that can be typed. */
const shellWord = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function showCommand(seed, label, steps, guidance) {
  const words = ["spherectl sample", `--model ${shellWord(about.name)}`];
  if (about.classes) words.push(`--class ${label === about.classes ? "none" : label}`, `--guidance ${guidance}`);
  words.push(`--steps ${steps}`, `--seed ${shellWord(seed)}`, "--count 1", "--dtype float32");
  at("command").replaceChildren(...words.flatMap((word) => {
    const together = document.createElement("span"); // lines break between options alone
    together.textContent = word;
    return [together, " "];
  }));
}

/** Walk to the end and back until it is pressed again. */
function play() {
  const button = at("play"), playing = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", playing);
  const start = performance.now() - value("way") * PLAY_S * 1000;
  const move = (now) => {
    if (button.getAttribute("aria-pressed") !== "true") return;
    const ways = (now - start) / (PLAY_S * 1000);
    at("way").value = Math.abs((ways % 2 + 2) % 2 - 1) * -1 + 1;
    tell(at("way"));
    walk();
    requestAnimationFrame(move);
  };
  if (playing) requestAnimationFrame(move);
}

function save() {
  at("sampled").toBlob((png) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(withText(png, texts()));
    link.download = `${about.name}-seed${sampledFrom.seed}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

/** The text in a saved image: that it is generated and, where `sample --like` can make it again, all settings. */
function texts() {
  const { seed, label, steps, guidance } = sampledFrom;
  if (about.precision !== "float32") return about.text;
  const decides = { ...about.provenance, seed: null, class: about.classes ? label : null, steps, guidance };
  const json = JSON.stringify(decides).replace('"seed":null', `"seed":${BigInt(seed)}`); // 64 bits are no JSON number
  return { ...about.text, spherectl: json.replace(/[^\x00-\x7f]/g, (c) => `\\u${c.charCodeAt().toString(16).padStart(4, "0")}`) };
}

// Images

const edit = latest(at("edit-said"), async () => {
  const task = chosenTask(), strip = at("rounds-strip");
  strip.replaceChildren();
  if (!slots.first || (task === "join" && !slots.second)) {
    return task === "join" ? "Joining needs two images." : "";
  }
  const plain = { label: about.classes, guidance: 1, angle: 0, count: 1, seed: at("seed").value };
  let image = slots.first, asks = plain;
  if (task === "join") {
    ({ image } = await ask("stitch", { ...slots, layout: at("layout").value }));
    asks = { ...plain, count: value("rounds") };
  } else if (task === "class") {
    const guidance = value("new-guidance");
    asks = { ...plain, label: value("new-class"), guidance, angle: value("angle"), count: value("rounds") };
  }
  const { images, ms } = await ask("edit", { image, ...asks });
  const word = (i) => (task === "reconstruct" ? "reconstruction" : `round ${i + 1}`);
  showStrip(strip, [[withAlpha(image), "image"], ...images.map((image, i) => [image, word(i)])]);
  return `${plural(asks.count, "round")} in ${milliseconds(ms)}`;
});

function put(slot, image, what) {
  slots[slot] = image;
  show(document.querySelector(`#slot-${slot} canvas`), withAlpha(image), what);
  edit();
}

async function bring(slot, blob) {
  try {
    put(slot, (await ask("fit", { blob })).image, blob.name || "A pasted image");
  } catch (error) {
    say(at("edit-said"), error.message, true);
  }
}

function takeSample(slot) {
  if (sampled) put(slot, fromRgba({ width: about.image_size, height: about.image_size, data: sampled }), "The sampled image");
}

const firstEmpty = () => (!slots.first || slots.second || chosenTask() !== "join" ? "first" : "second");

// Controls

const scale = (v) => (Number(v) === 1 ? "off" : Number(v).toFixed(1));
const SHOWN = {
  steps: (v) => v,
  guidance: scale,
  "new-guidance": scale,
  way: (v) => `${Math.round(100 * v)}%`,
  rounds: (v) => v,
  angle: (v) => `${v}°`,
};

/** The number beside a slider. */
function tell(slider) {
  document.querySelector(`output[for=${slider.id}]`).textContent = SHOWN[slider.id](slider.value);
}

function showTask() {
  const task = chosenTask();
  for (const row of document.querySelectorAll(".only-class, .only-join")) {
    row.hidden = !row.classList.contains(`only-${task}`);
  }
  at("slot-second").hidden = task !== "join";
}

function fillControls() {
  document.title = at("name").textContent = about.name;
  at("about").textContent = describe();
  document.body.classList.toggle("pixels", about.image_size <= 64);
  for (const row of document.querySelectorAll(".with-classes")) row.hidden = about.classes === 0;
  for (const [id, withNone] of [["class", true], ["new-class", false]]) {
    const labels = Array.from({ length: about.classes + Number(withNone) }, (_, i) => i);
    at(id).replaceChildren(...labels.map((label) => new Option(className(label), label)));
  }
  at("steps").value = about.sample.steps;
  at("guidance").value = about.classes ? about.sample.guidance : 1;
  at("angle").max = Math.round(about.angle_deg);
  at("angle").value = about.to_class.noise_deg;
  at("new-guidance").value = about.to_class.guidance;
  at("rounds").value = about.to_class.steps;
  const size = about.image_size;
  const how = about.fit === "pad" ? "; a smaller one lies on black" : "";
  const grey = about.channels === "grey" ? " in grey" : "";
  at("fitted").textContent = `The model sees its centre at ${size} × ${size} pixels${grey}${how}.`;
  for (const slider of document.querySelectorAll("input[type=range]")) tell(slider);
}

function describe() {
  const facts = [`Model ${about.name}, ${about.image_size} px, ${about.precision}`];
  if (about.licence) facts.push(`licence ${about.licence}`);
  if (about.data) facts.push(`trained on ${about.data}${about.data_licence ? ` (${about.data_licence})` : ""}`);
  return `${facts.join("; ")}.`;
}

function connect() {
  for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll(".dice")) {
    button.innerHTML = DICE;
    button.addEventListener("click", () => {
      at(button.dataset.for).value = crypto.getRandomValues(new Uint32Array(1))[0];
      at(button.dataset.for).dispatchEvent(new Event("input", { bubbles: true }));
    });
  }
  at("sample").addEventListener("input", sample);
  at("walk").addEventListener("input", walk);
  at("edit").addEventListener("input", () => { showTask(); edit(); });
  document.addEventListener("input", ({ target }) => target.type === "range" && tell(target));
  at("play").addEventListener("click", play);
  at("save").addEventListener("click", save);
  for (const slot of Object.keys(slots)) connectSlot(slot);
  document.addEventListener("paste", ({ clipboardData }) => {
    const file = [...clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (file) bring(firstEmpty(), file);
  });
  // A file dropped beside a slot would otherwise replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
}

function connectSlot(slot) {
  const place = at(`slot-${slot}`), over = (is) => () => place.classList.toggle("over", is);
  at(slot).addEventListener("change", ({ target }) => target.files.length && bring(slot, target.files[0]));
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", ({ dataTransfer }) => {
    over(false)();
    if (dataTransfer.files.length) bring(slot, dataTransfer.files[0]);
  });
  place.querySelector("button").addEventListener("click", () => takeSample(slot));
}

async function start() {
  const said = at("loading-said"), bar = at("loading-bar"), megabytes = at("loading-bytes");
  try {
    about = await ask("load", {}, ({ loaded, total }) => {
      bar.hidden = false;
      [bar.max, bar.value] = [total, loaded];
      megabytes.textContent = `${Math.round(loaded / 1e6)} of ${Math.round(total / 1e6)} MB`;
    });
  } catch (error) {
    bar.hidden = true;
    return say(said, error.message, true);
  }
  fillControls();
  connect();
  showTask();
  at("loading").hidden = true;
  at("ready").hidden = false;
  await sample();
  takeSample("first");
}

start();

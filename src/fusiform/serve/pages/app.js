// The page for people. It asks the same service that programs ask, and keeps nothing.

import { draw } from "/static/drawing.js";

const $ = (id) => document.getElementById(id);
const say = (words) => { $("said").textContent = words; };
let key = "";
let model = null;
let looked = null;
let turn = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

class Refusal extends Error {
  constructor(status, body, after) {
    const words = [body.detail ?? `The service answered ${status}`];
    if (body.expected) words.push(`Expected: ${body.expected}`);
    if (after) words.push(`Try again in ${after} seconds`);
    super(words.join(". ").replace(/\.?$/, "."));
    this.status = status;
    this.reason = body.reason;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(key ? { "X-API-Key": key } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch {
    throw new Refusal(0, { detail: "The service cannot be reached, or it closed the connection" });
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  throw new Refusal(answer.status, body, answer.headers.get("Retry-After"));
}

function complain(error) {
  say("");
  $("problem").textContent = error.message;
  $("problem").hidden = false;
}

async function busy(words, work) {
  $("problem").hidden = true;
  say(words);
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (error) {
    complain(error);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

// ---------------------------------------------------------------- views

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab, focus = true) {
  for (const each of tabs) {
    const on = each === tab;
    each.setAttribute("aria-selected", String(on));
    each.tabIndex = on ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !on;
  }
  if (focus) tab.focus();
  $("problem").hidden = true;
  say("");
  if (tab.id === "tab-runs") browse();
}

tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    choose(tabs[(step + tabs.length) % tabs.length]);
  });
});

// ---------------------------------------------------------------- photos

async function opened(file) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null; // the service may still read it; then its own crops are shown
  }
}

function fileOf(input) {
  return input.picked ?? input.files[0] ?? null;
}

for (const zone of document.querySelectorAll("[data-drop]")) {
  const input = $(zone.dataset.drop);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!file) return complain(new Error("What was dropped is not a file."));
    pick(input, file);
  });
  input.addEventListener("change", () => { if (input.files[0]) pick(input, input.files[0]); });
}

for (const quiet of ["dragover", "drop"]) window.addEventListener(quiet, (event) => event.preventDefault());

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (!file) return;
  const open = ["photo", "photo-a", "photo-b"].map($).filter((input) => input.offsetParent !== null);
  pick(open.find((input) => !fileOf(input)) ?? open[0], file);
});

function pick(input, file) {
  if (!input) return;
  input.picked = file;
  if (input.id === "photo") look(file);
  else preview(input, file);
}

// ---------------------------------------------------------------- look

const layers = [...document.querySelectorAll("[data-layer]")];
layers.forEach((box) => box.addEventListener("change", redraw));

function redraw() {
  if (!looked?.photo) return;
  draw($("canvas"), looked.photo, looked.faces, new Set(layers.filter((b) => b.checked).map((b) => b.dataset.layer)));
}

async function look(file) {
  const mine = ++turn;
  await busy("Looking at the photo …", async () => {
    const form = new FormData();
    form.append("photo", file);
    const wanted = model?.pictures ?? [];
    const [photo, answer] = await Promise.all([
      opened(file),
      ask(`/v1/analyze?pictures=${encodeURIComponent(wanted.join(","))}`, { method: "POST", body: form }),
    ]);
    const said = await answer.json();
    for (const face of said.faces) {
      face.shown = {};
      for (const name of ["parsing", "attention"]) {
        if (face.pictures[name]) face.shown[name] = await bitmap(face.pictures[name]);
      }
    }
    if (mine !== turn) return; // a later photo was chosen meanwhile
    looked = { photo, faces: said.faces };
    $("result").hidden = false;
    $("canvas").hidden = !photo;
    $("layers").hidden = !photo || !said.faces.length;
    $("canvas").setAttribute("aria-label", described(said));
    $("faces").replaceChildren(...said.faces.map(card));
    redraw();
    say(described(said));
  });
}

async function bitmap(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

function described(said) {
  const count = said.faces.length;
  const words = [count === 0 ? "No face was found" : count === 1 ? "One face was found" : `${count} faces were found`];
  if (said.faces_seen > count) words.push(`${said.faces_seen - count} smaller ones are left out`);
  const left = Object.entries(said.left_out).map(([why, times]) => `${times} ${why}`);
  if (left.length) words.push(`not believed: ${left.join(", ")}`);
  return `${words.join("; ")}, in a photo of ${said.photo.width} × ${said.photo.height} pixels.`;
}

const CAPTIONS = {
  parsing: "parts of the face",
  attention: "where the encoder looks: bright",
  reconstruction: "what the encoder sees, and what its decoder makes of it",
};

function image(base64, alt) {
  return make("img", { src: `data:image/png;base64,${base64}`, alt });
}

function card(face, i) {
  const node = make("article", { class: "face", "aria-label": `Face ${i + 1}` });
  const [x0, y0, x1, y1] = face.box.map(Math.round);
  const sure = `${x1 - x0} × ${y1 - y0} pixels; detector's confidence ${number(face.score)}`;
  node.append(make("h3", {}, `Face ${i + 1}`), make("p", { class: "quiet" }, face.note ? `${sure}; ${face.note}` : sure));
  const pictures = make("div", { class: "pictures" });
  const crop = face.pictures.crop;
  if (crop) {
    pictures.append(figure(make("div", { class: "stack" }, image(crop, `Face ${i + 1}, as the encoder sees it`)), "crop"));
  }
  for (const name of ["parsing", "attention"]) {
    const over = face.pictures[name];
    if (!over || !crop) continue;
    const stack = make("div", { class: "stack" }, image(crop, ""), image(over, `Face ${i + 1}: ${CAPTIONS[name]}`));
    const parts = name === "parsing" && Object.values(face.answers).find((said) => Array.isArray(said.runs));
    pictures.append(figure(stack, CAPTIONS[name], ...(parts ? [legend(parts, face.shown.parsing)] : [])));
  }
  if (face.pictures.reconstruction) {
    const painted = image(face.pictures.reconstruction, `Face ${i + 1}: ${CAPTIONS.reconstruction}`);
    pictures.append(figure(make("div", { class: "wide" }, painted), CAPTIONS.reconstruction));
  }
  node.append(pictures);
  for (const [name, said] of Object.entries(face.answers)) {
    const table = tableOf(name, said);
    if (table) node.append(table);
  }
  if (!Object.keys(face.answers).length) {
    node.append(make("p", { class: "quiet" }, "This model has no trained heads: fusiform head TASK trains one."));
  }
  return node;
}

function figure(content, caption, ...more) {
  return make("figure", {}, content, make("figcaption", {}, caption), ...more);
}

/** The parts of a face by their share of the crop, each with the colour that it is painted in. */
function legend(parts, painted) {
  const seen = new Map();
  let at = 0;
  for (const [part, length] of parts.runs) {
    const known = seen.get(part) ?? { first: at, pixels: 0 };
    seen.set(part, { ...known, pixels: known.pixels + length });
    at += length;
  }
  const sheet = make("canvas", { width: parts.size, height: parts.size }).getContext("2d", { willReadFrequently: true });
  sheet.drawImage(painted, 0, 0, parts.size, parts.size);
  const list = make("ul", { class: "legend", "aria-label": "Parts of the face" });
  for (const [part, { first, pixels }] of [...seen].sort((a, b) => b[1].pixels - a[1].pixels)) {
    if (!part || !parts.classes[part]) continue; // background and unlabelled pixels are left bare
    const [r, g, b] = sheet.getImageData(first % parts.size, Math.floor(first / parts.size), 1, 1).data;
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.backgroundColor = `rgb(${r}, ${g}, ${b})`;
    const share = (100 * pixels) / at;
    list.append(make("li", {}, swatch, `${parts.classes[part]} ${share < 1 ? "under 1" : Math.round(share)} %`));
  }
  return list;
}

const number = (value) => (value === null ? "–" : Number(value).toFixed(Math.abs(value) >= 10 ? 0 : 2));

/** The numbers of one head, largest first where they compete; null for points and maps, which are drawn. */
function tableOf(name, said) {
  if (Array.isArray(said.xy) || Array.isArray(said.runs)) return null;
  const head = model?.heads.find((each) => each.name === name);
  const inner = said.probability ?? said.intensity ?? said;
  let rows = Object.entries(inner).filter(([, value]) => value === null || typeof value === "number");
  if (said.probability || said.intensity) rows = rows.sort((a, b) => (b[1] ?? -9) - (a[1] ?? -9)).slice(0, 8);
  const table = make("table", {}, make("caption", {}, name));
  const body = make("tbody");
  for (const [label, value] of rows) {
    const shown = said.probability && value !== null
      ? [make("meter", { min: 0, max: 1, value: Math.max(0, Math.min(1, value)), "aria-hidden": "true" }), ` ${Math.round(100 * value)} %`]
      : [number(value)];
    body.append(make("tr", {}, make("th", { scope: "row" }, label), make("td", { class: "number" }, ...shown)));
  }
  table.append(body);
  const about = [];
  if (head) about.push(`${head.unit}; ${head.signs}`);
  if (head?.score) about.push(`scored ${head.score.metric} ${number(head.score.value)} on ${head.score.dataset} (n = ${head.score.n})`);
  return make("div", {}, table, ...(about.length ? [make("p", { class: "quiet" }, about.join(" · "))] : []));
}

// ---------------------------------------------------------------- compare

async function preview(input, file) {
  const canvas = $(input.id.replace("photo", "canvas"));
  const photo = await opened(file);
  canvas.photo = photo;
  canvas.hidden = !photo;
  $("alike").hidden = true;
  if (photo) draw(canvas, photo, [], new Set());
  say(`${input.id === "photo-a" ? "First" : "Second"} photo chosen: ${file.name || "pasted"}.`);
}

$("compare-go").addEventListener("click", async () => {
  const [a, b] = ["photo-a", "photo-b"].map((id) => fileOf($(id)));
  if (!a || !b) return complain(new Error("Two photos are needed. Choose both first."));
  await busy("Comparing …", async () => {
    const form = new FormData();
    form.append("a", a);
    form.append("b", b);
    const said = await (await ask("/v1/compare", { method: "POST", body: form })).json();
    const percent = said.similarity.toFixed(3);
    const verdict = said.decision === "same" ? "Probably the same person" : said.decision === "different"
      ? "Probably two persons" : said.decision ? "One cannot tell" : `Similarity ${percent}`;
    const why = said.threshold
      ? `Similarity ${percent}; the same above ${said.threshold.same_above.toFixed(3)}, different up to ${said.threshold.different_up_to.toFixed(3)}, set for a false-accept rate of ${said.threshold.far}`
        + (said.threshold.far_interval ? ` (95 % interval ${said.threshold.far_interval.map((v) => v.toPrecision(2)).join(" to ")}).` : ".")
        + (said.threshold.supported ? "" : " There were too few pairs for that rate: claim no better than the upper end.")
      : "Cosine of the two embeddings, −1 to 1. This model has no threshold, so nothing is decided.";
    $("alike").replaceChildren(make("p", { class: "verdict" }, verdict), make("p", {}, why));
    $("alike").hidden = false;
    for (const side of ["a", "b"]) {
      const canvas = $(`canvas-${side}`);
      if (canvas.photo) draw(canvas, canvas.photo, [{ box: said[side].box, answers: {}, found: null }], new Set(["box"]));
    }
    say(`${verdict}. ${why}`);
  });
});

// ---------------------------------------------------------------- runs

async function browse() {
  const shelf = $("shelf");
  try {
    const said = await (await ask("/v1/runs")).json();
    const rows = said.shown.map((entry) => {
      const open = entry.kind === "report"
        ? make("button", { type: "button" }, "Open")
        : document.createTextNode(entry.about.done ? "finished" : "not finished");
      if (entry.kind === "report") open.addEventListener("click", () => report(entry));
      const about = entry.kind === "run"
        ? [entry.about.method, entry.about.recipe, `${entry.about.steps} steps`,
           entry.about.loss === null ? "" : `loss ${number(entry.about.loss)}`].filter(Boolean).join(", ")
        : `${Math.ceil(entry.about.bytes / 1000)} kB`;
      return make("tr", {}, make("th", { scope: "row" }, entry.name), make("td", {}, entry.kind), make("td", {}, about), make("td", {}, open));
    });
    const head = make("thead", {}, make("tr", {}, ...["Name", "Kind", "About", "State"].map((word) => make("th", { scope: "col" }, word))));
    shelf.replaceChildren(
      rows.length ? make("table", {}, head, make("tbody", {}, ...rows)) : make("p", {}, "There are no runs and no reports in the folder."),
      ...(said.unreadable ? [make("p", { class: "quiet" }, `${said.unreadable} runs cannot be read.`)] : []),
      ...(said.more ? [make("p", { class: "quiet" }, `${said.more} older entries are left out.`)] : []),
    );
    say(`${rows.length} runs and reports.`);
  } catch (error) {
    if (error.reason === "no-runs") shelf.replaceChildren(make("p", {}, "This service shows no runs: start it with --runs FOLDER."));
    else complain(error);
  }
}

function report(entry) {
  const frame = $("report");
  frame.src = entry.address; // sandboxed, with a policy of its own: nothing in it runs or reaches this page
  frame.title = `Report ${entry.name}`;
  frame.hidden = false;
  frame.scrollIntoView();
  frame.focus();
  say(`Report ${entry.name} is open.`);
}

// ---------------------------------------------------------------- start

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  $("key").value = "";
  $("key-form").hidden = true;
  $("problem").hidden = true;
  introduce();
});

async function introduce() {
  try {
    const said = await (await ask("/v1/models")).json();
    [model] = said.models;
    const heads = model.heads.map((head) => head.task);
    $("model").textContent = `${model.name}: ${heads.length ? heads.join(", ") : "no trained heads"}; encoder ${model.encoder_sha256.slice(0, 12)}`;
    $("compare-go").disabled = !model.embedding;
    $("no-compare").hidden = Boolean(model.embedding);
    for (const box of layers) {
      const needed = { parsing: "parsing", attention: "attention" }[box.dataset.layer];
      box.parentElement.hidden = (needed && !model.pictures.includes(needed))
        || (box.dataset.layer === "pose" && !model.heads.some((head) => head.task === "head-pose"));
    }
  } catch (error) {
    $("model").textContent = "The model is not known yet.";
    complain(error);
    if (error.status === 503) setTimeout(introduce, 2000);
  }
}

introduce();

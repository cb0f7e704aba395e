// The page: one state, drawn by render(); milpverify/polytope/page.py says what the data hold.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const state = { scene: data.start, off: new Set(data.off), colour: data.colour, fit: true, hot: null, kept: null, neuron: null };
const reachOf = new Map(); // scene -> what its planes show

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// --- the scene: polygons of the faces, in both planes -----------------------------------------------------------

function unpack(scene) {
  if (scene.faces[0] && scene.faces[0].input) return scene;
  const v = scene.vertices, ring = (corners, at) => corners.flatMap((i) => [v[4 * i + at], v[4 * i + at + 1]]);
  scene.faces = scene.faces.map(([piece, label, area, ...corners]) => (
    { piece, label, area, corners, input: ring(corners, 0), output: ring(corners, 2), parts: [] }));
  for (const [face, label, ...flat] of scene.parts) {
    const side = (at) => flat.filter((_, i) => i % 4 === at || i % 4 === at + 1);
    scene.faces[face].parts.push({ label, input: side(0), output: side(2) });
  }
  return scene;
}

function bit(bits, neuron) {
  return (parseInt(bits[neuron >> 2], 16) >> (3 - (neuron & 3))) & 1;
}

const bitsOf = (face) => data.pieces[face.piece].bits;

// Edges between two drawn faces on which a neuron differs: where its ReLU folds.
function fold(scene, neuron) {
  if (!scene.edges) {
    scene.edges = new Map();
    scene.faces.forEach((face) => face.corners.forEach((a, i) => {
      const b = face.corners[(i + 1) % face.corners.length], key = a < b ? `${a} ${b}` : `${b} ${a}`;
      scene.edges.set(key, [...(scene.edges.get(key) || []), face]);
    }));
  }
  const lines = { input: [], output: [] }, v = scene.vertices;
  for (const [key, faces] of scene.edges) {
    if (faces.length !== 2 || bit(bitsOf(faces[0]), neuron) === bit(bitsOf(faces[1]), neuron)) continue;
    const [a, b] = key.split(" ").map(Number);
    lines.input.push([v[4 * a], v[4 * a + 1], v[4 * b], v[4 * b + 1]]);
    lines.output.push([v[4 * a + 2], v[4 * a + 3], v[4 * b + 2], v[4 * b + 3]]);
  }
  return lines;
}

function boxOf(rings, pad) {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const ring of rings) for (let i = 0; i < ring.length; i += 2) {
    x0 = Math.min(x0, ring[i]); x1 = Math.max(x1, ring[i]);
    y0 = Math.min(y0, ring[i + 1]); y1 = Math.max(y1, ring[i + 1]);
  }
  const w = x1 - x0 || Math.abs(x0) * 1e-3 || 1e-3, h = y1 - y0 || Math.abs(y0) * 1e-3 || 1e-3;
  return [x0 - pad * w, x1 + pad * w, y0 - pad * h, y1 + pad * h];
}

// --- drawing ----------------------------------------------------------------------------------------------------

const scene = () => unpack(data.scenes[state.scene]);
const shown = (name) => !state.off.has(name);
const planes = {};

function paint(plane) {
  const side = plane === planes.input ? "input" : "output", now = scene();
  if (side === "input" || shown("exact")) {
    // What is left out is grey, not blank.
    if (now.faces.length < now.regions) plane.fill(side === "input" ? [now.polygon] : now.outlines.exact, "--left-out");
    const actives = data.pieces.map((piece) => piece.active), least = Math.min(...actives), most = Math.max(...actives);
    for (const face of now.faces) {
      if (state.colour === "active") {
        plane.fill([face[side]], "--ramp-low", "--ramp-high", (data.pieces[face.piece].active - least) / (most - least || 1));
      } else if (face.label >= 0) plane.fill([face[side]], fillOf(face.label));
      else for (const part of face.parts) plane.fill([part[side]], fillOf(part.label));
    }
    plane.edges(now.faces.map((face) => face[side]), Math.max(0.25, Math.min(0.9, 30 / Math.sqrt(now.faces.length + 1))));
  }
  outlines(plane, side, now);
  marks(plane, side, now);
}

function fillOf(label) {
  return `--class-${label % data.palette}`;
}

function outlines(plane, side, now) {
  const layer = plane.layers.outlines;
  layer.replaceChildren();
  if (side === "input") layer.append(plane.element("path", { class: "box", d: plane.path([now.polygon]) }));
  else for (const method of [...data.methods].reverse()) {
    if (!shown(method.name) || !now.outlines[method.name]) continue;
    layer.append(plane.element("path", { class: "outline", "data-method": method.name, ...pen(method), d: plane.path(now.outlines[method.name], false) }));
  }
  const centre = side === "input" ? data.centre : data.image;
  if (centre) layer.append(plane.element("circle", { class: "centre", r: 3.6, cx: plane.px(centre[0]), cy: plane.py(centre[1]) }));
}

function pen(method) {
  return { stroke: `var(--m-${method.name})`, "stroke-width": method.width, "stroke-dasharray": method.dash.join(" ") };
}

function marks(plane, side, now) {
  const layer = plane.layers.marks, hot = state.hot || state.kept;
  layer.replaceChildren();
  if (state.neuron && state.neuron.at >= 0 && (side === "input" || shown("exact"))) {
    layer.append(plane.element("path", { class: "fold", d: plane.path(fold(now, state.neuron.at)[side], false) }));
  }
  if (!hot || (side === "output" && !shown("exact"))) return;
  for (const face of hot.also) layer.append(plane.element("path", { class: "also", d: plane.path([face[side]]) }));
  layer.append(plane.element("path", { class: "mark", d: plane.path([hot.face[side]]) }));
  const at = hot[side];
  if (at) layer.append(plane.element("circle", { class: "probe", r: 4, cx: plane.px(at[0]), cy: plane.py(at[1]) }));
}

function repaint() {
  colours.clear();
  for (const plane of Object.values(planes)) plane.draw();
}

function remark() {
  for (const [side, plane] of Object.entries(planes)) marks(plane, side, scene());
  byId("readout").replaceChildren(...readout());
}

function fit() {
  const at = state.fit ? scene() : data.scenes[data.scenes.length - 1];
  planes.input.setHome(boxOf([at.polygon], 0.03));
  const rings = data.methods.filter((m) => shown(m.name)).flatMap((m) => at.outlines[m.name] || []);
  planes.output.setHome(boxOf(rings.length ? rings : at.outlines.exact, 0.05));
}

// --- pointing ---------------------------------------------------------------------------------------------------

function value(face, x, y) {
  const [a, b, c, d, e, f] = data.pieces[face.piece].map;
  return [a * x + b * y + c, d * x + e * y + f];
}

// The input of a point of a face's image, or null where the face is folded flat.
function origin(face, u, v) {
  const [a, b, c, d, e, f] = data.pieces[face.piece].map, det = a * e - b * d;
  return det ? [(e * (u - c) - b * (v - f)) / det, (a * (v - f) - d * (u - c)) / det] : null;
}

function probe(side, point, keep) {
  const found = point ? scene().faces.filter((face) => inside(face[side], ...point)) : [];
  const [face, ...also] = found.sort((p, q) => q.area - p.area);
  let hot = null;
  if (face) {
    const input = side === "input" ? point : origin(face, ...point), output = side === "output" ? point : value(face, ...point);
    hot = { face, also, input, output };
  }
  if (keep) state.kept = state.kept && hot && state.kept.face === hot.face ? null : hot;
  state.hot = hot;
  remark();
}

// --- what stands beside the planes ------------------------------------------------------------------------------

function chip(label) {
  return make("span", { class: "chip", style: `background: var(${fillOf(label)})` });
}

function aboutNeuron({ entry, at }, now) {
  const list = make("dl"), row = (name, what) => list.append(make("dt", {}, name), make("dd", {}, what));
  const total = now.faces.reduce((sum, face) => sum + face.area, 0);
  const on = at < 0 ? 0 : now.faces.reduce((sum, face) => sum + face.area * bit(bitsOf(face), at), 0) / total;
  const where = now.faces.length < now.regions ? "of the area shown" : "of the inputs";
  row("ReLU", neuronName(entry.neuron));
  row("gain", `${number(entry.gap)}: what the LP\u2019s bound rises by if it is exact`);
  row("slack", number(entry.slack));
  row("share", `${number(entry.share)} of the gap`);
  row("on", at >= 0 && on > 0 && on < 1 ? `in ${number(100 * on, 3)}\u202f% ${where}`
    : `everywhere or nowhere ${where}: it never switches there, which the LP\u2019s bounds do not see`);
  return [make("h2", {}, "ReLU"), list];
}

function readout() {
  if (state.neuron) return aboutNeuron(state.neuron, scene());
  const hot = state.hot || state.kept, now = scene();
  if (!hot) {
    const left = now.regions - now.faces.length;
    const text = `${now.regions.toLocaleString("en")} linear region${now.regions === 1 ? "" : "s"} at \u03b5 = ${data.labels[state.scene]}` +
      (left ? `; the largest ${now.faces.length.toLocaleString("en")} are shown, ${number(100 * now.shown_share, 4)}\u202f% of the area; the rest is grey.` : ", all shown.");
    return [make("h2", {}, "Linear region"), make("p", { class: "faint" }, text), key(now)];
  }
  const { face } = hot, piece = data.pieces[face.piece], list = make("dl");
  const row = (name, ...what) => list.append(make("dt", {}, name), make("dd", {}, ...what));
  const labels = face.label >= 0 ? [face.label] : [...new Set(face.parts.map((part) => part.label))];
  if (data.classes.length > 1) row("class", ...labels.flatMap((label) => [chip(label), `${data.classes[label]} `]), face.label < 0 ? "(the boundary runs through)" : "");
  row("area", `${number(face.area)} (${number((100 * face.area) / now.area, 3)}\u202f% of the inputs)`);
  if (hot.input) row(data.inputs.join(", "), hot.input.map((x) => number(x)).join(", "));
  if (hot.output) row(data.outputs.join(", "), hot.output.map((y) => number(y)).join(", "));
  const line = (name, [a, b, c]) => `${name} = ${number(a)} ${data.inputs[0]} ${signed(b)} ${data.inputs[1]} ${signed(c)}`;
  row("map", make("span", { class: "formula" }, `${line(data.outputs[0], piece.map.slice(0, 3))}\n${line(data.outputs[1], piece.map.slice(3))}`));
  row("pattern", `${piece.active} of ${data.relus} ReLUs active; ${difference(face)}`);
  if (hot.also.length) row("overlap", `${hot.also.length} more region${hot.also.length > 1 ? "s map" : " maps"} here`);
  return [make("h2", {}, state.kept && !state.hot ? "Linear region (kept)" : "Linear region"), list];
}

// What the colours stand for.
function key(now) {
  const list = make("p", { class: "key" });
  if (state.colour === "active") {
    const actives = data.pieces.map((piece) => piece.active);
    list.append(make("span", { class: "chip ramp" }), `${Math.min(...actives)} to ${Math.max(...actives)} of ${data.relus} ReLUs active`);
  } else {
    const labels = new Set(now.faces.flatMap((face) => (face.label >= 0 ? [face.label] : face.parts.map((part) => part.label))));
    for (const label of [...labels].sort((a, b) => a - b)) list.append(make("span", {}, chip(label), `class ${data.classes[label]}`));
  }
  return list;
}

function signed(x) {
  return (x < 0 ? "\u2212 " : "+ ") + number(Math.abs(x));
}

function neuronName([layer, index]) {
  return `layer ${layer}, ${index}`;
}

function difference(face) {
  const other = data.neurons.map((neuron, i) => [neuron, i]).filter(([, i]) => bit(bitsOf(face), i) !== bit(data.home, i));
  if (!other.length) return "the centre\u2019s own pattern";
  const named = other.slice(0, 8).map(([neuron, i]) => `${bit(bitsOf(face), i) ? "+" : "\u2212"}${neuron.join(":")}`);
  return `${other.length} unlike at the centre (layer:neuron, + on, \u2212 off): ${named.join(" ")}${other.length > 8 ? " \u2026" : ""}`;
}

function table() {
  const now = scene(), range = (r) => `[${number(r[0])}, ${number(r[1])}]`;
  const heads = ["method", "area", "ratio to exact", "mean gap", "largest gap", `${data.outputs[0]} within`, `${data.outputs[1]} within`, "seconds"];
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = make("tbody");
  for (const entry of now.table) {
    const method = data.methods.find((m) => m.name === entry.method);
    const cells = [number(entry.area), entry.ratio === null ? "\u2013" : number(entry.ratio), number(entry.mean_gap, 3), number(entry.largest_gap, 3),
      range(entry.range[0]), range(entry.range[1]), number(entry.seconds, 2)];
    const row = make("tr", { "data-method": entry.method, class: shown(entry.method) ? "" : "off" },
      make("th", { scope: "row" }, swatch(method), method.label), ...cells.map((text) => make("td", {}, text)));
    row.addEventListener("pointerenter", () => loud(entry.method, true));
    row.addEventListener("pointerleave", () => loud(entry.method, false));
    body.append(row);
  }
  byId("table").replaceChildren(make("caption", {}, `Outputs at \u03b5 = ${data.labels[state.scene]}`), make("thead", {}, head), body);
}

function loud(name, on) {
  for (const path of planes.output.layers.outlines.querySelectorAll(`[data-method="${name}"]`)) path.classList.toggle("loud", on);
}

function swatch(method) {
  const svg = planes.output.element("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
  svg.append(planes.output.element("path", { d: "M0 5H30", fill: "none", ...pen(method), "stroke-width": 1.5 * method.width }));
  return svg;
}

function gaps() {
  const now = scene().gaps, place = byId("gaps");
  if (!now || !now.neurons.length) return place.replaceChildren();
  const most = Math.max(...now.neurons.map((entry) => entry.gap)) || 1;
  const rows = now.neurons.map((entry) => {
    const bar = make("span", { class: "bar", style: `width: ${(100 * Math.max(0, entry.gap)) / most}%` });
    const row = make("button", { class: "gap", type: "button" }, make("span", {}, neuronName(entry.neuron)), bar, make("span", {}, number(entry.gap, 3)));
    const at = data.neurons.findIndex((neuron) => neuron.join() === entry.neuron.join());
    const show = (on) => {
      state.neuron = on ? { entry, at } : null;
      row.classList.toggle("on", on);
      remark();
    };
    for (const [event, on] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) row.addEventListener(event, () => show(on));
    return row;
  });
  place.replaceChildren(make("h2", {}, now.heading), make("p", { class: "faint" }, now.text), ...rows);
}

// --- state ------------------------------------------------------------------------------------------------------

function render() {
  byId("eps").value = state.scene;
  byId("eps").setAttribute("aria-valuetext", data.labels[state.scene]);
  byId("eps-value").textContent = data.labels[state.scene];
  byId("colour").value = state.colour;
  byId("fit").checked = state.fit;
  for (const box of document.querySelectorAll("#methods input")) box.checked = shown(box.value);
  byId("input-note").textContent = `${data.inputs.join(", ")}: ${scene().regions.toLocaleString("en")} linear regions`;
  byId("output-note").textContent = `${data.outputs.join(", ")}: image and outlines`;
  fit();
  table();
  gaps();
  repaint();
  remark();
}

function show(change) {
  if ("scene" in change && change.scene !== state.scene) Object.assign(state, { hot: null, kept: null, neuron: null });
  Object.assign(state, change);
  render();
  const words = [`eps=${data.labels[state.scene]}`, `off=${[...state.off].join(",")}`, `colour=${state.colour}`, `fit=${Number(state.fit)}`];
  try { history.replaceState(null, "", `#${words.join("&")}`); } catch { /* a page without an address of its own keeps no state */ }
}

// #eps=0.1&off=lp,crown&colour=active&fit=0 is a link to a state; words that mean nothing here are passed over.
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const at = data.labels.indexOf(asked.get("eps"));
  if (at >= 0) state.scene = at;
  if (asked.has("off")) state.off = new Set(asked.get("off").split(",").filter((name) => data.methods.some((m) => m.name === name)));
  if (["class", "active"].includes(asked.get("colour"))) state.colour = asked.get("colour");
  if (asked.has("fit")) state.fit = asked.get("fit") !== "0";
}

function start() {
  planes.input = new Plane(byId("input-plane"), data.inputs, paint, (point, keep) => probe("input", point, keep));
  planes.output = new Plane(byId("output-plane"), data.outputs, paint, (point, keep) => probe("output", point, keep));
  const dial = byId("eps");
  dial.max = data.scenes.length - 1;
  const every = Math.ceil(data.labels.length / 10);
  data.labels.forEach((label, i) => {
    if ((data.labels.length - 1 - i) % every) return;
    const tick = make("span", {}, label);
    tick.style.left = `${data.labels.length > 1 ? (100 * i) / (data.labels.length - 1) : 50}%`;
    byId("eps-ticks").append(tick);
  });
  dial.addEventListener("input", () => show({ scene: Number(dial.value) }));
  for (const method of data.methods) {
    const box = make("input", { type: "checkbox", value: method.name });
    box.addEventListener("change", () => {
      const off = new Set(state.off);
      if (box.checked) off.delete(method.name); else off.add(method.name);
      show({ off });
    });
    const label = make("label", {}, box, swatch(method), method.label);
    for (const [event, on] of [["pointerenter", true], ["focusin", true], ["pointerleave", false], ["focusout", false]]) {
      label.addEventListener(event, () => loud(method.name, on));
    }
    byId("methods").append(label);
  }
  byId("colour").addEventListener("change", (event) => show({ colour: event.target.value }));
  byId("fit").addEventListener("change", (event) => show({ fit: event.target.checked }));
  byId("table-note").textContent = data.table_note;
  byId("honesty").textContent = data.honesty;
  window.addEventListener("hashchange", () => { fromAddress(); render(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  const print = (onPaper) => {
    for (const plane of Object.values(planes)) plane.onPaper = onPaper;
    repaint();
  };
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
  fromAddress();
  render();
}

start();

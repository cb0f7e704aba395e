// A plane of numbers: regions on a canvas, for there are thousands; axes, outlines and marks in SVG above it. On paper
// the regions are SVG too: sharp, in the colours of paper, and of whatever shape the sheet gives the stage.

const MARGIN = { left: 60, right: 8, top: 6, bottom: 34 };
const MOST_ZOOM = 1e5;

function niceStep(span, most) {
  const raw = span / most, power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((m) => m * power >= raw);
}

// Values of CSS variables, looked up once a drawing: asking the browser for each of thousands takes long.
const colours = new Map();

function colourOf(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

// A colour between two of the form #rrggbb.
function mix(a, b, share) {
  if (share === 1) return b;
  const part = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(part(a, i) + share * (part(b, i) - part(a, i)))).join(" ")})`;
}

function number(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-4 ? value.toExponential(Math.max(0, digits - 2)) : String(Number(value.toPrecision(digits)));
  return text.replace("-", "\u2212");
}

// Even-odd, so that it serves polygons with holes as well; `ring` is a flat list x, y, x, y, ...
function inside(ring, x, y) {
  let odd = false;
  for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
    if (ring[i + 1] > y !== ring[j + 1] > y) {
      const t = (y - ring[i + 1]) / (ring[j + 1] - ring[i + 1]);
      if (x < ring[i] + t * (ring[j] - ring[i])) odd = !odd;
    }
  }
  return odd;
}

class Plane {
  // `paint(plane)` fills polygons by `plane.fill` and draws into the layers; `probed(point, keep)` hears where the
  // reader points.
  constructor(figure, names, paint, probed) {
    this.stage = figure.querySelector(".stage");
    this.canvas = figure.querySelector("canvas");
    this.svg = figure.querySelector("svg");
    this.names = names;
    this.paint = paint;
    this.probed = probed;
    this.layers = { axes: this.svg.appendChild(this.element("g")) };
    this.inner = this.svg.appendChild(this.element("svg", { overflow: "hidden" })); // what stays within the axes
    for (const name of ["regions", "outlines", "marks"]) this.layers[name] = this.inner.appendChild(this.element("g"));
    this.home = [0, 1, 0, 1];
    this.view = this.home;
    this.zoomed = false;
    this.cursor = null;
    this.onPaper = false;
    this.measure();
    new ResizeObserver(() => { if (this.measure()) this.draw(); }).observe(this.stage);
    this.listen();
  }

  element(tag, attributes = {}, text = "") {
    const made = document.createElementNS(this.svg.namespaceURI, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    return made;
  }

  // The part of the plane shown while the reader has not moved it.
  setHome(box) {
    this.home = box;
    if (!this.zoomed) this.view = box;
  }

  // Whether the stage has another size than before.
  measure() {
    const { clientWidth, clientHeight } = this.stage, before = [this.width, this.height];
    [this.width, this.height] = [clientWidth, clientHeight];
    return before[0] !== clientWidth || before[1] !== clientHeight;
  }

  px(x) { return MARGIN.left + ((x - this.view[0]) / (this.view[1] - this.view[0])) * (this.width - MARGIN.left - MARGIN.right); }
  py(y) { return MARGIN.top + ((this.view[3] - y) / (this.view[3] - this.view[2])) * (this.height - MARGIN.top - MARGIN.bottom); }
  at(px, py) {
    const s = (px - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right);
    const t = (py - MARGIN.top) / (this.height - MARGIN.top - MARGIN.bottom);
    return [this.view[0] + s * (this.view[1] - this.view[0]), this.view[3] - t * (this.view[3] - this.view[2])];
  }

  draw() {
    this.measure(); // a scroll bar may have come or gone since the observer was last told
    if (!this.width) return;
    const sharpness = window.devicePixelRatio || 1;
    const [x, y, width, height] = [MARGIN.left, MARGIN.top, this.width - MARGIN.left - MARGIN.right, this.height - MARGIN.top - MARGIN.bottom];
    this.canvas.width = Math.round(this.width * sharpness);
    this.canvas.height = Math.round(this.height * sharpness);
    this.context = this.canvas.getContext("2d");
    this.context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    this.context.beginPath();
    this.context.rect(x, y, width, height);
    this.context.clip();
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    for (const [key, value] of Object.entries({ x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` })) this.inner.setAttribute(key, value);
    this.layers.regions.replaceChildren();
    this.drawAxes();
    this.paint(this);
  }

  // A share between two CSS variables that hold #rrggbb; holes of the rings stay open.
  fill(rings, low, high = low, share = 1) {
    if (this.onPaper) {
      const style = `fill: color-mix(in srgb, var(${high}) ${(100 * share).toFixed(1)}%, var(${low}))`;
      this.layers.regions.append(this.element("path", { style, "fill-rule": "evenodd", d: this.path(rings) }));
      return;
    }
    this.context.beginPath();
    for (const ring of rings) this.trace(ring);
    this.context.fillStyle = mix(colourOf(low), colourOf(high), share);
    this.context.fill("evenodd");
  }

  edges(rings, width) {
    if (this.onPaper) {
      this.layers.regions.append(this.element("path", { class: "edges", "stroke-width": width, d: this.path(rings) }));
      return;
    }
    this.context.beginPath();
    for (const ring of rings) this.trace(ring);
    this.context.lineJoin = "round";
    this.context.strokeStyle = colourOf("--edge");
    this.context.lineWidth = width;
    this.context.stroke();
  }

  drawAxes() {
    const add = (tag, attributes, text) => this.layers.axes.append(this.element(tag, attributes, text));
    const right = this.width - MARGIN.right, bottom = this.height - MARGIN.bottom;
    const [x0, x1, y0, y1] = this.view;
    this.layers.axes.replaceChildren();
    const dx = niceStep(x1 - x0, Math.max(2, this.width / 90)), dy = niceStep(y1 - y0, Math.max(2, this.height / 60));
    for (let k = Math.ceil(x0 / dx); k * dx <= x1; k++) {
      const x = this.px(k * dx);
      add("line", { class: "tick", x1: x, x2: x, y1: bottom, y2: bottom + 4 });
      add("text", { class: "axis", x, y: bottom + 15, "text-anchor": "middle" }, number(k * dx, 6));
    }
    for (let k = Math.ceil(y0 / dy); k * dy <= y1; k++) {
      const y = this.py(k * dy);
      add("line", { class: "tick", x1: MARGIN.left - 4, x2: MARGIN.left, y1: y, y2: y });
      add("text", { class: "axis", x: MARGIN.left - 6, y: y + 4, "text-anchor": "end" }, number(k * dy, 6));
    }
    add("rect", { class: "frame", x: MARGIN.left, y: MARGIN.top, width: right - MARGIN.left, height: bottom - MARGIN.top });
    add("text", { class: "axis name", x: right, y: bottom + 29, "text-anchor": "end" }, this.names[0]);
    add("text", { class: "axis name", x: 11, y: MARGIN.top + 4, "text-anchor": "end", transform: `rotate(-90 11 ${MARGIN.top + 4})` }, this.names[1]);
  }

  // SVG path data of closed flat rings, or of an open line.
  path(rings, closed = true) {
    let text = "";
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i += 2) text += `${i ? "L" : "M"}${this.px(ring[i]).toFixed(2)} ${this.py(ring[i + 1]).toFixed(2)}`;
      if (closed) text += "Z";
    }
    return text;
  }

  // The same on the canvas.
  trace(ring) {
    this.context.moveTo(this.px(ring[0]), this.py(ring[1]));
    for (let i = 2; i < ring.length; i += 2) this.context.lineTo(this.px(ring[i]), this.py(ring[i + 1]));
    this.context.closePath();
  }

  zoom(factor, px = (this.width + MARGIN.left) / 2, py = (this.height - MARGIN.bottom) / 2) {
    const [x, y] = this.at(px, py), [x0, x1, y0, y1] = this.view;
    const share = ((x1 - x0) * factor) / (this.home[1] - this.home[0]);
    if (share > 20 || share < 1 / MOST_ZOOM) return;
    this.view = [x + (x0 - x) * factor, x + (x1 - x) * factor, y + (y0 - y) * factor, y + (y1 - y) * factor];
    this.zoomed = true;
    this.draw();
  }

  move(dpx, dpy) {
    const [a, b] = [this.at(0, 0), this.at(dpx, dpy)];
    const [dx, dy] = [a[0] - b[0], a[1] - b[1]];
    this.view = [this.view[0] + dx, this.view[1] + dx, this.view[2] + dy, this.view[3] + dy];
    this.zoomed = true;
    this.draw();
  }

  reset() {
    this.view = this.home;
    this.zoomed = false;
    this.draw();
  }

  listen() {
    const fingers = new Map();
    let travelled = 0, spread = 0;
    const here = (event) => {
      const box = this.stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const on = (name, act, options) => this.stage.addEventListener(name, act, options);
    on("pointerdown", (event) => {
      fingers.set(event.pointerId, here(event));
      travelled = 0;
      spread = 0;
    });
    on("pointermove", (event) => {
      const now = here(event), before = fingers.get(event.pointerId);
      if (!before) return this.probed(this.at(...now), false);
      fingers.set(event.pointerId, now);
      travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
      if (fingers.size === 2) {
        const [p, q] = [...fingers.values()], wide = Math.hypot(p[0] - q[0], p[1] - q[1]);
        if (spread) this.zoom(spread / wide, (p[0] + q[0]) / 2, (p[1] + q[1]) / 2);
        spread = wide;
      } else if (event.pointerType === "mouse" && travelled > 4) {
        this.stage.setPointerCapture(event.pointerId);
        this.move(now[0] - before[0], now[1] - before[1]);
      }
    });
    on("pointerup", (event) => {
      if (fingers.delete(event.pointerId) && travelled <= 4) this.probed(this.at(...here(event)), true);
    });
    on("pointercancel", (event) => fingers.delete(event.pointerId));
    on("pointerleave", (event) => {
      fingers.delete(event.pointerId);
      if (document.activeElement !== this.stage) this.probed(null, false);
    });
    on("dblclick", () => this.reset());
    on("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== this.stage) return; // the page scrolls
      event.preventDefault();
      this.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.004), ...here(event));
    }, { passive: false });
    on("keydown", (event) => this.key(event));
    on("blur", () => { this.cursor = null; });
  }

  key(event) {
    const step = event.shiftKey ? 40 : 8;
    const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const start = [(this.view[0] + this.view[1]) / 2, (this.view[2] + this.view[3]) / 2];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in arrows) {
      const [dx, dy] = arrows[event.key], from = this.cursor || start;
      const x = Math.max(MARGIN.left, Math.min(this.width - MARGIN.right, this.px(from[0]) + dx));
      const y = Math.max(MARGIN.top, Math.min(this.height - MARGIN.bottom, this.py(from[1]) + dy));
      this.cursor = this.at(x, y);
      this.probed(this.cursor, false);
    } else if (event.key === "Enter" || event.key === " ") this.probed(this.cursor || start, true);
    else if (event.key === "Escape") this.probed(null, true);
    else if (event.key === "+" || event.key === "=") this.zoom(0.8);
    else if (event.key === "-") this.zoom(1.25);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }
}

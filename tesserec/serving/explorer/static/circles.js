// The map itself: circles that keep their places, labels where they fit, and arrow keys between them.

import { el, svg } from "./dom.js";

const LINE = 13;
const ROOM = 3;
const EDGE = 5;
const NARROW = 560;
const LOWEST = 400;
const OTHER_LINES = 290;
const [LARGE, SMALL] = [11.5, 10];
const pen = document.createElement("canvas").getContext("2d");

// What a circle says inside: its kind in small letters and a typical title, as far as they fit.
function label(cell, radius) {
  const [category] = cell.categories;
  const title = radius < 30 || !cell.typical.length ? [] : wrap(cell.typical[0], radius, 2);
  const above = title.length ? ((title.length + 1) * LINE) / 2 : SMALL / 2;
  const kind = category && width(category, SMALL) <= room(radius, above) ? [{ text: category, kind: true }] : [];
  return [...kind, ...title.map((text) => ({ text, kind: false }))];
}

// Width of a text in pixels, in the font of the page.
function width(text, size = LARGE) {
  pen.font = `${size}px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(text).width;
}

const room = (radius, height) => 2 * (Math.sqrt(Math.max(radius * radius - height * height, 0)) - ROOM);

function wrap(text, radius, most) {
  const wide = room(radius, LINE);
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const last = lines.length - 1;
    const longer = lines[last] ? `${lines[last]} ${word}` : word;
    if (width(longer) <= wide) lines[last] = longer;
    else if (lines[last] && lines.length < most) lines.push(word);
    else {
      lines[last] = longer;
      break;
    }
  }
  return lines.map((line) => shortened(line, wide)).filter(Boolean);
}

function shortened(line, wide) {
  if (width(line) <= wide) return line;
  let letters = line.length - 1;
  while (letters > 1 && width(`${line.slice(0, letters)}…`) > wide) letters -= 1;
  return `${line.slice(0, letters).trimEnd()}…`;
}

// From model units to pixels: as large as the box is wide and the window high, turned where the box is narrow.
function fitted(cells, width) {
  const narrow = width < NARROW;
  const turned = cells.map((cell) => (narrow ? { ...cell, x: cell.y, y: cell.x } : { ...cell }));
  const reach = (side, sign) => Math.max(...turned.map((cell) => sign * cell[side] + cell.radius));
  const [left, top] = [-reach("x", -1), -reach("y", -1)];
  const [across, down] = [reach("x", 1) - left, reach("y", 1) - top];
  const high = narrow ? Infinity : Math.max(innerHeight - OTHER_LINES, LOWEST);
  const scale = Math.min((width - 2 * EDGE) / across, high / down);
  for (const cell of turned) {
    cell.x = (width - across * scale) / 2 + (cell.x - left) * scale;
    cell.y = EDGE + (cell.y - top) * scale;
    cell.radius *= scale;
  }
  return turned;
}

// A map in `box`. `step` gives a cell's colour step 0 to 4, `describe` its accessible name, `choose` is called with a
// code or null; without `choose` the map is one picture.
export class CircleMap {
  constructor(box, cells, { name, step, describe, choose, hover, marks }) {
    Object.assign(this, { box, cells, name, step, describe, choose, hover, marks, selected: null });
    this.current = cells[0]?.interest;
    this.observer = new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width !== this.width) this.draw(width);
    });
    this.observer.observe(box);
  }

  stop() {
    this.observer.disconnect();
  }

  draw(width) {
    const held = this.box.contains(document.activeElement);
    this.width = width;
    const placed = fitted(this.cells, width);
    const height = Math.ceil(Math.max(...placed.map((cell) => cell.y + cell.radius)) + EDGE);
    this.at = new Map(placed.map((cell) => [cell.interest, cell]));
    this.nodes = new Map(placed.map((cell) => [cell.interest, this.circle(cell)]));
    this.rings = svg("g", { class: "rings", "aria-hidden": "true" });
    const role = this.choose ? { role: "group", "aria-label": this.name } : { role: "img", "aria-label": this.name };
    this.box.replaceChildren(
      svg("svg", { ...role, class: "map", width, height, viewBox: `0 0 ${width} ${height}` }, ...this.nodes.values(), this.rings));
    this.select(this.selected);
    if (held) this.nodes.get(this.current)?.focus();
  }

  circle(cell) {
    const lines = label(cell, cell.radius);
    const first = cell.y - ((lines.length - 1) * LINE) / 2;
    const text = lines.map((line, at) =>
      svg("text", { x: cell.x, y: first + at * LINE, "aria-hidden": "true", class: line.kind ? "kind" : null }, line.text));
    const node = svg("g", { class: `cell step-${this.step(cell)}`, "data-interest": cell.interest },
      svg("circle", { cx: cell.x, cy: cell.y, r: Math.max(cell.radius, 1) }), ...text, ...this.marked(cell));
    if (!this.choose) return node;
    for (const [name, value] of Object.entries({ role: "button", tabindex: "-1", "aria-label": this.describe(cell) }))
      node.setAttribute(name, value);
    node.addEventListener("click", () => this.press(cell.interest));
    node.addEventListener("keydown", (event) => this.key(event, cell.interest));
    node.addEventListener("focus", () => this.hover(cell));
    node.addEventListener("pointerenter", () => this.hover(cell));
    return node;
  }

  // Small dots along the lower rim, one an event of a history.
  marked(cell) {
    const events = Math.min(this.marks?.(cell) ?? 0, 5);
    return Array.from({ length: events }, (_, at) => {
      const turn = Math.PI / 2 + (at - (events - 1) / 2) * Math.min(0.6, 7 / cell.radius);
      return svg("circle", { class: "event", r: 3,
        cx: cell.x + Math.cos(turn) * cell.radius, cy: cell.y + Math.sin(turn) * cell.radius });
    });
  }

  press(interest) {
    this.move(interest);
    this.choose(this.selected === interest ? null : interest);
  }

  select(interest) {
    this.selected = interest;
    if (!this.nodes) return;
    const from = this.at.get(interest);
    for (const [code, node] of this.nodes) {
      if (this.choose) node.setAttribute("aria-pressed", String(code === interest));
      node.tabIndex = code === this.current ? 0 : -1;
    }
    const near = (from?.neighbours ?? []).filter((code) => this.at.has(code)).map((code) => this.at.get(code));
    this.rings.replaceChildren(...[from, ...near].filter(Boolean).map((cell) =>
      svg("circle", { cx: cell.x, cy: cell.y, r: cell.radius + 2, class: cell === from ? "chosen" : "near" })));
  }

  move(interest) {
    this.nodes.get(this.current)?.setAttribute("tabindex", "-1");
    this.current = interest;
    const node = this.nodes.get(interest);
    node.setAttribute("tabindex", "0");
    node.focus();
  }

  key(event, interest) {
    const towards = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    const place = this.cells.findIndex((cell) => cell.interest === interest);
    const last = this.cells.length - 1;
    const bySize = { Home: 0, End: last, PageDown: Math.min(place + 1, last), PageUp: Math.max(place - 1, 0) }[event.key];
    if (event.key === "Enter" || event.key === " ") this.press(interest);
    else if (event.key === "Escape") this.choose(null);
    else if (bySize !== undefined) this.move(this.cells[bySize].interest);
    else if (towards) this.move(this.next(interest, towards) ?? interest);
    else return;
    event.preventDefault();
  }

  // The nearest circle in a direction, where straying to the side counts double.
  next(interest, [right, down]) {
    const from = this.at.get(interest);
    let best = { cost: Infinity };
    for (const cell of this.at.values()) {
      const [dx, dy] = [cell.x - from.x, cell.y - from.y];
      const [ahead, aside] = [dx * right + dy * down, Math.abs(dx * down) + Math.abs(dy * right)];
      if (ahead <= 1) continue;
      const cost = ahead + 2 * aside;
      if (cost < best.cost) best = { cost, interest: cell.interest };
    }
    return best.interest;
  }
}

// Swatches with the range that each stands for, in order of step; null leaves one out.
export function scale(title, ranges) {
  return el("div", { class: "scale" }, el("span", { class: "what" }, title),
    el("ol", {}, ranges.map((range, step) => (range === null ? null : el("li", { class: `step-${step}` }, range)))));
}

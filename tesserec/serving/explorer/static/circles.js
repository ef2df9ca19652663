// The map itself: circles that keep their places, labels where they fit, and arrow keys between them.

import { el, svg } from "./dom.js";

const LINE = 13;
const WIDTH_OF_LETTER = 6.1;

// What a circle says inside, from the largest text that fits to none at all.
function label(cell, radius) {
  const lines = [];
  const [category] = cell.categories;
  const title = cell.typical[0] ?? "";
  if (radius >= 33) lines.push(...wrap(title, radius, 2));
  if (category && fits(category, radius, lines.length ? (lines.length * LINE) / 2 + 4 : 0)) lines.unshift(category);
  return radius < 15 ? [] : lines;
}

const room = (radius, height) => 2 * Math.sqrt(Math.max(radius * radius - height * height, 0)) - 8;
const fits = (text, radius, height) => text.length * WIDTH_OF_LETTER <= room(radius, height);

function wrap(text, radius, most) {
  const letters = Math.floor(room(radius, LINE) / WIDTH_OF_LETTER);
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const last = lines[lines.length - 1];
    const longer = last ? `${last} ${word}` : word;
    if (longer.length <= letters) lines[lines.length - 1] = longer;
    else if (lines.length < most && last) lines.push(word);
    else {
      lines[lines.length - 1] = `${longer.slice(0, Math.max(letters - 1, 1)).trimEnd()}…`;
      break;
    }
    if (lines[lines.length - 1].length > letters)
      lines[lines.length - 1] = `${lines[lines.length - 1].slice(0, Math.max(letters - 1, 1))}…`;
  }
  return lines.filter(Boolean);
}

// From model units to pixels: as wide as the box, turned where the box is narrow.
function fitted(cells, width) {
  const narrow = width < 560;
  const turned = cells.map((cell) => (narrow ? { ...cell, x: cell.y, y: cell.x } : { ...cell }));
  const reach = (side, sign) => Math.max(...turned.map((cell) => sign * cell[side] + cell.radius));
  const [left, top] = [-reach("x", -1), -reach("y", -1)];
  const scale = (width - 8) / (reach("x", 1) - left);
  for (const cell of turned) {
    cell.x = 4 + (cell.x - left) * scale;
    cell.y = 4 + (cell.y - top) * scale;
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
    const height = Math.ceil(Math.max(...placed.map((cell) => cell.y + cell.radius)) + 4);
    this.at = new Map(placed.map((cell) => [cell.interest, cell]));
    this.nodes = new Map(placed.map((cell) => [cell.interest, this.circle(cell)]));
    this.lines = svg("g", { class: "lines", "aria-hidden": "true" });
    const role = this.choose ? { role: "group", "aria-label": this.name } : { role: "img", "aria-label": this.name };
    this.box.replaceChildren(
      svg("svg", { ...role, class: "map", width, height, viewBox: `0 0 ${width} ${height}` }, this.lines, ...this.nodes.values()));
    this.select(this.selected);
    if (held) this.nodes.get(this.current)?.focus();
  }

  circle(cell) {
    const lines = label(cell, cell.radius);
    const first = cell.y - ((lines.length - 1) * LINE) / 2;
    const text = lines.map((line, at) =>
      svg("text", { x: cell.x, y: first + at * LINE, "aria-hidden": "true",
        class: line === cell.categories[0] && lines.length > 1 ? "kind" : null }, line));
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
    const events = Math.min(this.marks?.(cell) ?? 0, 7);
    return Array.from({ length: events }, (_, at) => {
      const turn = Math.PI / 2 + (at - (events - 1) / 2) * Math.min(0.5, 7 / cell.radius);
      return svg("circle", { class: "event", r: 3.2,
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
      node.classList.toggle("near", Boolean(from?.neighbours.includes(code)));
      node.tabIndex = code === this.current ? 0 : -1;
    }
    this.lines.replaceChildren(...(from?.neighbours ?? []).filter((code) => this.at.has(code)).map((code) => {
      const to = this.at.get(code);
      return svg("line", { x1: from.x, y1: from.y, x2: to.x, y2: to.y });
    }));
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
    const ends = { Home: this.cells[0], End: this.cells[this.cells.length - 1] };
    if (event.key === "Enter" || event.key === " ") this.press(interest);
    else if (event.key === "Escape") this.choose(null);
    else if (event.key in ends) this.move(ends[event.key].interest);
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

// Swatches with the range that each stands for.
export function scale(title, ranges) {
  return el("div", { class: "scale" }, el("span", { class: "what" }, title),
    el("ol", {}, ranges.map((range, step) => el("li", { class: `step-${step}` }, range))));
}

// Health of the codebook: how evenly its cells are used, generation by generation, and how many items move.

import { get } from "./api.js";
import { count, el, percent, plural, svg, table } from "./dom.js";
import { noInterests } from "./map.js";

export async function codebookView(main, model) {
  if (model.why_no_interests) {
    main.replaceChildren(noInterests(model));
    return {};
  }
  const health = await get("health");
  const healthy = health.generations.filter((one) => !one.problem);
  const now = healthy.find((one) => one.generation === health.current) ?? healthy[healthy.length - 1];
  main.replaceChildren(
    el("div", { class: "intro" },
      el("h1", {}, "How the codebook is doing"),
      el("p", {}, "A codebook is healthy when its cells hold like numbers of items, none is empty, and items keep their cell from one generation to the next.")),
    ...(now ? [tiles(now), sizes(now)] : []),
    ...(healthy.length > 1 ? [el("div", { class: "charts" },
      chart("Effective cells", healthy, (one) => one.perplexity, (value) => value.toFixed(1)),
      chart("Dead cells", healthy, (one) => one.dead, count),
      chart("Code changed", healthy, (one) => one.moved, (value) => percent(value)),
      chart("Company changed", healthy, (one) => one.regrouped, (value) => percent(value)))] : []),
    generations(health));
  return {};
}

function tiles(now) {
  const tile = (value, name, note) => el("div", { class: "tile" }, el("dt", {}, name), el("dd", {}, el("span", { class: "big" }, value), el("span", { class: "soft" }, note)));
  return el("dl", { class: "tiles" },
    tile(now.perplexity.toFixed(1), "Effective cells", `of ${count(now.cells)}; perplexity of the items per cell`),
    tile(count(now.dead), "Dead cells", "hold no item"),
    tile(count(now.largest), "Largest cell", `${percent(now.largest / now.items)} of the items; even shares would be ${percent(1 / now.cells)}`));
}

function sizes(now) {
  const most = Math.max(...now.sizes, 1);
  const [width, height] = [720, 150];
  const step = width / now.sizes.length;
  const even = height - (height * now.items) / now.cells / most;
  const drawn = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height + 4}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Items per cell, largest first, from ${count(most)} to ${count(now.sizes[now.sizes.length - 1])}` },
    now.sizes.map((size, at) => svg("rect", { x: at * step + step * 0.1, width: step * 0.8, y: height - (height * size) / most, height: (height * size) / most })),
    svg("line", { class: "even", x1: 0, x2: width, y1: even, y2: even }));
  return el("section", { class: "figure" }, el("h2", {}, "Items per cell, largest first"), drawn,
    el("p", { class: "soft" }, `Generation ${now.generation}: from ${count(most)} to ${plural(now.sizes[now.sizes.length - 1], "item")}. The line is an even share, ${(now.items / now.cells).toFixed(1)} items.`));
}

// One figure over the generations: dots on a line, with the last value in words.
function chart(title, generations, value, written) {
  const held = generations.filter((one) => value(one) !== null);
  if (!held.length) return null;
  const [width, height, edge] = [320, 96, 10];
  const most = Math.max(...held.map(value), 1e-9);
  const x = (one) => edge + ((width - 2 * edge) * generations.indexOf(one)) / Math.max(generations.length - 1, 1);
  const y = (one) => height - edge - ((height - 2 * edge) * value(one)) / most;
  const last = held[held.length - 1];
  return el("section", { class: "figure" },
    el("h2", {}, title),
    el("p", { class: "big" }, written(value(last))),
    svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": held.map((one) => `generation ${one.generation}: ${written(value(one))}`).join(", ") },
      svg("line", { class: "ground", x1: 0, x2: width, y1: height - edge, y2: height - edge }),
      svg("polyline", { points: held.map((one) => `${x(one)},${y(one)}`).join(" ") }),
      held.map((one) => svg("circle", { cx: x(one), cy: y(one), r: 4 }))),
    el("p", { class: "soft" }, `Generations ${generations[0].generation} to ${generations[generations.length - 1].generation}, at most ${written(Math.max(...held.map(value)))}`));
}

function generations(health) {
  const number = (label) => ({ label, number: true });
  const heads = [{ label: "Generation" }, { label: "Model" }, number("Items"), number("Cells"), number("Effective"), number("Dead"),
    number("Largest"), number("Shared items"), number("Code changed"), number("Company changed")];
  const share = (value) => (value === null ? "–" : percent(value));
  const rows = health.generations.map((one) => {
    const name = `${one.generation}${one.generation === health.current ? " (served)" : ""}`;
    if (one.problem) return [name, one.problem, ...Array(8).fill("–")];
    return [name, one.model ?? "", count(one.items), count(one.cells), one.perplexity.toFixed(1), count(one.dead), count(one.largest),
      one.shared === null ? "–" : count(one.shared), share(one.moved), share(one.regrouped)];
  });
  return el("section", {},
    el("h2", {}, "Generations"),
    table(`${health.generations.length} newest, oldest first${health.earlier ? `; ${count(health.earlier)} earlier ones are not shown` : ""}`, heads, rows),
    el("p", { class: "soft" }, "Code changed: the item has another number than in the generation before; two codebooks trained apart share no numbers. Company changed: it lies apart from most of its old cell, whatever the numbers."));
}

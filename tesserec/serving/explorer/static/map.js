// The map of interests, and beside it the page of the interest that is chosen.

import { get } from "./api.js";
import { CircleMap, scale } from "./circles.js";
import { announce, count, el, percent, plural, refusal, table } from "./dom.js";

export async function mapView(main, model, place) {
  if (model.why_no_interests) {
    main.replaceChildren(noInterests(model));
    return {};
  }
  const data = await get("map");
  const breaks = fifths(data.cells.map((cell) => cell.share));
  const step = (cell) => breaks.filter((limit) => cell.share > limit).length;
  const panel = el("section", { class: "panel", "aria-labelledby": "interest", id: "panel" });
  const readout = el("p", { class: "readout", "aria-hidden": "true" });
  const box = el("div", { class: "canvas" });
  const traffic = data.traffic_of;
  const describe = (cell) =>
    `${cell.name}, ${plural(cell.items, "item")}, ${percent(cell.share)} of ${traffic}`;
  const map = new CircleMap(box, data.cells, {
    name: "Map of interests. Arrow keys move to the next circle in a direction, Page Down and Page Up to the next smaller and larger, Enter opens its interest.",
    step, describe,
    choose: (code) => { location.hash = code === null ? "#/map" : `#/map/${code}`; },
    hover: (cell) => { readout.textContent = `${cell.name} · ${plural(cell.items, "item")} · ${percent(cell.share)} of ${traffic}`; },
  });
  main.replaceChildren(
    el("div", { class: "intro" },
      el("h1", {}, "The interests that this model has learned"),
      el("p", {}, `Each circle is an interest. The larger it is, the more items it holds; the stronger its colour, the more
        ${traffic} it gets. Circles that lie close are alike.`)),
    el("div", { class: "beside" },
      el("div", { class: "figure" }, box, readout, scale(`Share of ${traffic}`, ranges(breaks)), asTable(data)),
      panel));

  async function choose(code) {
    map.select(code);
    if (code === null) {
      panel.replaceChildren(...overview(data));
      return;
    }
    try {
      const page = await get(`interests/${code}`);
      if (map.selected !== code) return;
      panel.replaceChildren(...interestPage(page, traffic));
      announce(`${page.name}: ${plural(page.items, "item")}, shown beside the map.`);
      if (matchMedia("(max-width: 60rem)").matches)
        panel.scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    } catch (error) {
      panel.replaceChildren(refusal(error));
    }
  }
  const chosen = ({ rest }) => (/^\d+$/.test(rest[0] ?? "") ? Number(rest[0]) : null);
  await choose(chosen(place));
  return { stop: () => map.stop(), update: (next) => { choose(chosen(next)); return true; } };
}

export function noInterests(model) {
  return el("div", { class: "intro" },
    el("h1", {}, "No interests to map"),
    el("p", {}, model.why_no_interests),
    el("p", {}, "Models with a codebook have interests, for example tessera or sparc. ",
      el("a", { href: "#/user" }, "What this model recommends to a user"), " can be seen all the same."));
}

// Upper limits of all but the last of five classes, which hold equally many interests where shares differ.
function fifths(shares) {
  const sorted = [...shares].sort((a, b) => a - b);
  return [1, 2, 3, 4].map((part) => sorted[Math.max(Math.ceil((part * sorted.length) / 5) - 1, 0)]);
}

// What each class stands for, null where equal limits leave it empty.
function ranges(breaks) {
  const written = breaks.map((share) => percent(share));
  const between = (at) => (breaks[at - 1] === breaks[at] ? null : `${written[at - 1].replace(" %", "")} – ${written[at]}`);
  return [`up to ${written[0]}`, between(1), between(2), between(3), `over ${written[3]}`];
}

function asTable(data) {
  const heads = [{ label: "Interest" }, { label: "Items", number: true }, { label: "Share", number: true }, { label: "Typical" }];
  const rows = data.cells.map((cell) => [
    el("a", { href: `#/map/${cell.interest}` }, cell.name), count(cell.items), percent(cell.share), cell.typical.join(", ")]);
  return el("details", {}, el("summary", {}, "The map as a table"),
    table(`Interests by number of items, with their share of ${data.traffic_of}`, heads, rows));
}

function overview(data) {
  const busiest = [...data.cells].sort((a, b) => b.traffic - a.traffic).slice(0, 8);
  const notes = [];
  if (data.dead.length) notes.push(`${plural(data.dead.length, "interest")} without items ${data.dead.length === 1 ? "is" : "are"} not drawn.`);
  if (data.left_out) notes.push(`The smallest ${count(data.left_out)} are not drawn either.`);
  return [
    el("h2", { id: "interest" }, "Most visited"),
    el("ol", { class: "bars" }, busiest.map((cell) => bar(
      el("a", { href: `#/map/${cell.interest}` }, cell.name), cell.share, busiest[0].share))),
    el("p", { class: "soft" }, "Choose a circle to see what the interest holds. ", notes.join(" "))];
}

function bar(name, share, most, note = null) {
  const length = 100 * (most ? share / most : 0);
  const drawn = el("span", { class: "bar", "aria-hidden": "true" });
  drawn.style.setProperty("--length", `${length}%`);
  return el("li", {}, el("span", { class: "name" }, name), drawn, el("span", { class: "value" }, percent(share)), note);
}

function interestPage(page, traffic) {
  const items = (list, note) => el("ul", { class: "items" }, list.map((item) =>
    el("li", {}, item.title, note ? el("span", { class: "soft" }, ` ${note(item)}`) : null)));
  const most = Math.max(...page.categories.map((one) => one.share), 0);
  return [
    el("p", { class: "soft" }, `Interest ${page.interest} · ${plural(page.items, "item")} · ${count(page.traffic)} ${traffic}`),
    el("h2", { id: "interest" }, page.name),
    page.items ? null : el("p", {}, "No item lies in it: a dead code."),
    ...(page.typical.length ? [el("h3", {}, "Typical"), items(page.typical)] : []),
    ...(page.newest.length ? [el("h3", {}, "Newest"), items(page.newest, (item) => item.when)] : []),
    ...(page.categories.length ? [el("h3", {}, "Categories"),
      el("ol", { class: "bars" }, page.categories.map((one) =>
        bar(one.value, one.share, most, el("span", { class: "soft note" }, `catalogue ${percent(one.catalogue)}`))))] : []),
    ...(page.neighbours.length ? [el("h3", {}, "Neighbours"),
      el("ul", { class: "items" }, page.neighbours.map((one) =>
        el("li", {}, el("a", { href: `#/map/${one.interest}` }, one.name), el("span", { class: "soft" }, ` cosine ${one.cosine.toFixed(2)}`))))] : []),
    el("p", {}, el("a", { href: "#/map" }, "Back to the most visited"))].filter(Boolean);
}

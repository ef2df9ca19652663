// Elements from data. Text only ever becomes text: titles come from catalogues that nobody has vetted.

const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

export function announce(text) {
  document.getElementById("status").textContent = text;
}

export function refusal(error) {
  return el("p", { class: "refusal", role: "alert" }, error.message);
}

export function table(caption, heads, rows) {
  const cells = (row, name) =>
    row.map((cell, at) => el(at ? "td" : name, { scope: at ? null : "row", class: heads[at].number ? "number" : null }, cell));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head) =>
        el("th", { scope: "col", class: head.number ? "number" : null }, head.label)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row, "th"))))));
}

export const count = (n) => n.toLocaleString("en");
export const percent = (share) => `${(100 * share).toFixed(1)} %`;
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

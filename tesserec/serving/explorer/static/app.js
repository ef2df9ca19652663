// Which view is shown follows from the fragment: #/map, #/map/12, #/user?i=1&i=2, #/codebook.

import { get } from "./api.js";
import { codebookView } from "./codebook.js";
import { el, plural, refusal } from "./dom.js";
import { mapView } from "./map.js";
import { userView } from "./user.js";

const main = document.getElementById("main");
const views = { map: mapView, user: userView, codebook: codebookView };
const titles = { map: "Interests", user: "A user", codebook: "Codebook" };
let shown = { view: null, stop: null };

function where() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  return { view: view in views ? view : "map", rest, query: new URLSearchParams(query) };
}

async function show() {
  if (location.hash === "#main") return;
  const place = where();
  const moved = shown.view !== null && shown.view !== place.view;
  if (shown.view === place.view && shown.update?.(place)) return;
  shown.stop?.();
  shown = { view: place.view };
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === place.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${titles[place.view]} · tesserec explorer`;
  try {
    const model = await get("model");
    tellFacts(model);
    shown = { view: place.view, ...(await views[place.view](main, model, place)) };
  } catch (error) {
    main.replaceChildren(refusal(error));
  }
  if (moved) main.focus({ preventScroll: true });
}

function tellFacts(model) {
  const parts = [`generation ${model.generation}`, plural(model.items, "item")];
  if (model.interests) parts.push(plural(model.interests, "interest"));
  document.getElementById("facts").replaceChildren(el("strong", {}, model.model), ` · ${parts.join(" · ")}`);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", show);
show();

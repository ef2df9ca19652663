// A user: their history and the model's posterior row by row, what the sliders change, and the candidates by interest.

import { get, post } from "./api.js";
import { CircleMap, scale } from "./circles.js";
import { announce, el, percent, plural, refusal, svg } from "./dom.js";
import { Sliders } from "./sliders.js";

const WAIT = 150;
const LIMITS = [0.01, 0.03, 0.1, 0.2];

export async function userView(main, model, place) {
  const view = new UserView(model);
  main.replaceChildren(view.page);
  await view.start(place.query);
  return { stop: () => view.stop(), update: (next) => { view.told(view.start(next.query)); return true; } };
}

class UserView {
  constructor(model) {
    this.model = model;
    this.invented = 0;
    this.asked = { history: [], k: model.settings.k, explore: model.settings.explore, interests: model.settings.interests };
    this.history = el("ol", { class: "history", "aria-label": "History, oldest first" });
    this.beliefs = el("div");
    this.list = el("section", { "aria-labelledby": "candidates" });
    this.problem = el("div");
    this.sliders = new Sliders(model, (settings) => this.change(settings));
    this.page = el("div", {},
      el("div", { class: "intro" }, el("h1", {}, "What this model believes of a user"), this.chooser()),
      this.problem, this.history, this.beliefs, this.sliders.box, this.list);
  }

  chooser() {
    const found = el("ul", { class: "found", id: "found" });
    const search = el("input", { type: "search", id: "search", placeholder: "Title of an item", autocomplete: "off",
      oninput: () => this.told(this.search(search, found)) });
    const row = el("div", { class: "chooser" },
      el("div", { class: "field" }, el("label", { for: "search" }, "Add to the history"), search, found),
      el("button", { type: "button", onclick: () => this.told(this.invent()) }, "Invent a user"),
      el("button", { type: "button", class: "quiet", onclick: () => this.go([]) }, "Start empty"));
    if (this.model.users) row.append(this.byId());
    return row;
  }

  byId() {
    const id = el("input", { id: "id", autocomplete: "off" });
    const show = (event) => {
      event.preventDefault();
      if (id.value.trim()) location.hash = `#/user?${new URLSearchParams({ user: id.value.trim() })}`;
    };
    return el("form", { class: "field", onsubmit: show },
      el("label", { for: "id" }, "User id"), el("span", { class: "pair" }, id, el("button", { type: "submit" }, "Show")));
  }

  // What goes wrong later is shown where the answer would be.
  async told(work) {
    try {
      await work;
    } catch (error) {
      this.problem.replaceChildren(refusal(error));
    }
  }

  stop() {
    this.request?.abort();
    this.map?.stop();
    clearTimeout(this.timer);
  }

  async start(query) {
    const user = query.get("user");
    const history = query.getAll("i");
    if (!user && !history.length && !query.has("empty")) return this.invent(true);
    const number = (name) => (query.has(name) && Number.isFinite(Number(query.get(name))) ? Number(query.get(name)) : this.model.settings[name]);
    this.asked = { ...(user ? { user } : { history }), k: this.model.settings.k, explore: number("explore"), interests: number("interests") };
    this.sliders.set(this.asked);
    await this.ask();
  }

  async invent(first = false) {
    this.invented += 1;
    const { items } = await get(`invented/${this.invented}`);
    const ids = items.map((item) => item.id);
    if (!first) return this.go(ids);
    this.asked = { ...this.asked, history: ids };
    history.replaceState(null, "", this.fragment());
    await this.ask();
  }

  go(ids) {
    this.asked = { history: ids, k: this.asked.k, explore: this.asked.explore, interests: this.asked.interests };
    location.hash = this.fragment();
  }

  fragment() {
    const query = new URLSearchParams();
    if (this.asked.user) query.set("user", this.asked.user);
    for (const id of this.asked.history ?? []) query.append("i", id);
    if (!this.asked.user && !this.asked.history.length) query.set("empty", "");
    for (const name of ["explore", "interests"])
      if (this.asked[name] !== this.model.settings[name]) query.set(name, this.asked[name]);
    return `#/user?${query}`;
  }

  async search(input, found) {
    const title = input.value.trim();
    const { items } = title.length < 2 ? { items: [] } : await get(`items?${new URLSearchParams({ title })}`);
    if (title !== input.value.trim()) return;
    const add = (item) => {
      input.value = "";
      found.replaceChildren();
      input.focus();
      this.go([...this.ids(), item.id]);
      announce(`${item.title} is added to the history.`);
    };
    found.replaceChildren(...items.slice(0, 8).map((item) =>
      el("li", {}, el("button", { type: "button", class: "quiet", onclick: () => add(item) }, item.title))));
    announce(title.length < 2 ? "" : `${plural(items.length, "title")} found.`);
  }

  ids() {
    return this.asked.history ?? this.shown?.history.map((event) => event.id) ?? [];
  }

  change(settings) {
    this.asked = { ...this.asked, ...settings };
    history.replaceState(null, "", this.fragment());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(true), WAIT);
  }

  async ask(aloud = false) {
    this.request?.abort();
    const request = (this.request = new AbortController());
    if (!this.asked.user && !this.asked.history.length) return this.empty();
    try {
      this.shown = await post("user", this.asked, request.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.problem.replaceChildren(refusal(error));
      return;
    }
    this.problem.replaceChildren();
    this.draw();
    if (aloud) announce(inWords(this.shown));
  }

  empty() {
    this.problem.replaceChildren(el("p", { class: "soft" }, "The history is empty: add an item, or invent a user."));
    for (const part of [this.history, this.beliefs, this.list]) part.replaceChildren();
    this.sliders.box.hidden = true;
    this.refocus();
  }

  draw() {
    const { shown } = this;
    this.sliders.box.hidden = false;
    this.history.replaceChildren(...shown.history.map((event, at) => this.event(event, at)));
    if (shown.unknown.length)
      this.problem.replaceChildren(el("p", { class: "soft" }, `Not in the catalogue, left out: ${shown.unknown.join(", ")}`));
    this.beliefs.replaceChildren(...(shown.beliefs.length ? beliefs(shown) : [el("p", { class: "soft" }, this.model.why_no_interests)]));
    this.list.replaceChildren(...candidates(shown));
    this.refocus();
    this.told(this.onMap());
  }

  event(event, at) {
    const ids = this.shown.history.map((one) => one.id).filter((_, place) => place !== at);
    const remove = el("button", { type: "button", class: "remove", "aria-label": `Remove ${event.title}`, onclick: () => this.remove(event, at, ids) }, "×");
    return el("li", {}, el("span", {}, event.title), remove);
  }

  // The focus goes on to what took the place of the removed event.
  remove(event, at, ids) {
    this.next = Math.min(at, ids.length - 1);
    this.go(ids);
    announce(`${event.title} is removed from the history.`);
  }

  refocus() {
    if (this.next === undefined) return;
    (this.history.querySelectorAll(".remove")[this.next] ?? this.page.querySelector("#search")).focus();
    this.next = undefined;
  }

  // The same circles as on the map, coloured by this user's posterior.
  async onMap() {
    if (!this.shown.beliefs.length) return;
    this.cells ??= (await get("map")).cells;
    const box = this.beliefs.querySelector(".canvas");
    if (!box) return;
    this.map?.stop();
    const visits = (cell) => this.shown.history.filter((event) => event.interest === cell.interest).length;
    this.map = new CircleMap(box, this.cells, {
      name: "The map of interests, coloured by this user's posterior; the table beside it holds the same figures.",
      step: (cell) => LIMITS.filter((limit) => this.shown.posterior[cell.interest] >= limit).length,
      marks: visits,
    });
  }
}

function inWords({ settings, candidates, left }) {
  const entered = candidates.filter((one) => one.entered);
  const first = (items) => items.slice(0, 3).map((one) => one.title).join(", ");
  const now = `Exploration ${Math.round(100 * settings.explore)} percent, ${plural(settings.interests, "interest")}: `;
  if (!entered.length && !left.length) return `${now}the list is that of the model's own settings.`;
  return `${now}${plural(entered.length, "candidate")} entered${entered.length ? ` (${first(entered)})` : ""}, ` +
    `${left.length} left${left.length ? ` (${first(left)})` : ""}.`;
}

function beliefs(shown) {
  const brought = new Map();
  for (const one of shown.candidates) brought.set(one.interest, (brought.get(one.interest) ?? 0) + 1);
  const most = shown.beliefs[0].probability;
  const listed = new Set(shown.beliefs.map((one) => one.interest));
  const rows = shown.beliefs.map((one) =>
    el("tr", { role: "row", class: one.role, "data-interest": one.interest },
      el("th", { role: "rowheader", scope: "row" }, el("a", { href: `#/map/${one.interest}` }, one.name), one.role === "explored" ? tag("explored") : null),
      lane(shown, (event) => event.interest === one.interest),
      el("td", { role: "cell", class: "chance" }, probability(one.probability, most)),
      el("td", { role: "cell", class: "number" }, String(brought.get(one.interest) ?? ""))));
  const others = el("tr", { role: "row" },
    el("th", { role: "rowheader", scope: "row", class: "soft" }, "All other interests"),
    lane(shown, (event) => !listed.has(event.interest)),
    el("td", { role: "cell", class: "chance" }, probability(shown.rest, most)), el("td", { role: "cell", class: "number" }));
  const heads = [["Interest"], ["History, oldest to newest", "lane"], ["Probability", "chance"], ["Candidates", "number"]];
  return [
    el("h2", { id: "beliefs" }, "From the history to the posterior"),
    el("div", { class: "beside" },
      el("div", { class: "scroll", role: "region", tabindex: "0", "aria-labelledby": "beliefs" },
        // The roles are said aloud because a phone's style sheet lays the rows out anew, which drops them.
        el("table", { role: "table", class: "beliefs", "aria-labelledby": "beliefs" },
          el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, heads.map(([text, kind]) =>
            el("th", { role: "columnheader", scope: "col", class: kind ?? null }, text)))),
          el("tbody", { role: "rowgroup" }, rows, others))),
      el("div", { class: "figure small" }, el("div", { class: "canvas" }),
        scale("Probability", ["under 1 %", "1 – 3 %", "3 – 10 %", "10 – 20 %", "20 % and more"]),
        el("p", { class: "soft" }, "Dots on a rim are events of the history.")))];
}

function probability(share, most) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--length", `${Math.min(100, most ? (100 * share) / most : 0)}%`);
  return [bar, el("span", { class: "value" }, percent(share))];
}

// Where on the line of the history an interest was visited.
function lane(shown, belongs) {
  const { history } = shown;
  const at = history.map((event, place) => [event, place]).filter(([event]) => belongs(event));
  const x = (place) => (history.length === 1 ? 100 : 6 + (188 * place) / (history.length - 1));
  const names = at.map(([event]) => event.title).join(", ");
  const size = Math.max(2, Math.min(5, 300 / history.length));
  const line = svg("svg", { class: "events", viewBox: "0 0 200 14", preserveAspectRatio: "xMinYMid", role: "img", "aria-label": names || "no event" },
    svg("line", { x1: 0, y1: 7, x2: 200, y2: 7 }),
    at.map(([event, place]) => svg("circle", { cx: x(place), cy: 7, r: size }, svg("title", {}, `${place + 1}. ${event.title}`))));
  return el("td", { role: "cell", class: at.length ? "lane" : "lane empty" }, line);
}

const tag = (text) => el("span", { class: `tag ${text}` }, text);

function candidates(shown) {
  const groups = new Map();
  for (const one of shown.candidates) groups.set(one.interest, [...(groups.get(one.interest) ?? []), one]);
  const entered = shown.candidates.filter((one) => one.entered).length;
  const change = entered || shown.left.length
    ? `${entered} entered and ${shown.left.length} left, compared with the model's own settings.`
    : "As the model's own settings have it.";
  return [
    el("h2", { id: "candidates" }, plural(shown.candidates.length, "candidate"), groups.has(null) ? "" : ` from ${plural(groups.size, "interest")}`),
    el("p", { class: "soft" }, change),
    el("div", { class: "groups" }, [...groups].map(([code, list]) => group(shown, code, list)), gone(shown))];
}

function group(shown, code, list) {
  const [first] = list;
  const explored = list.some((one) => one.explored);
  return el("section", { class: explored ? "group explored" : "group", "data-interest": code },
    code === null ? null : el("h3", {}, shown.names[code]),
    code === null ? null : el("p", { class: "soft" }, `Probability ${percent(first.probability ?? 0)}`, explored ? tag("explored") : null),
    el("ol", {}, list.map((one) => candidate(one))));
}

function candidate(one) {
  return el("li", { value: one.rank, "data-item": one.id },
    el("span", {}, one.title), one.entered ? tag("new") : null,
    one.propensity === null || one.propensity === 1 ? null : el("span", { class: "soft" }, ` propensity ${one.propensity.toPrecision(2)}`));
}

function gone(shown) {
  if (!shown.left.length) return null;
  return el("section", { class: "group gone" },
    el("h3", {}, "Left the list"),
    el("p", { class: "soft" }, "Shown under the model's own settings, with the rank they had"),
    el("ol", {}, shown.left.map((one) => el("li", { value: one.rank, "data-item": one.id }, el("span", {}, one.title)))));
}

// The sliders for exploration and the number of interests; `changed` gets what they say.

import { el } from "./dom.js";

export class Sliders {
  constructor(model, changed) {
    this.own = model.settings;
    this.changed = changed;
    this.explore = this.slider("explore", "Exploration", { min: 0, max: 100, step: 5 }, "Share of the list for interests outside the history");
    this.interests = this.slider("interests", "Interests read (K)", { min: 1, max: model.most_interests, step: 1 }, "The likeliest of the posterior");
    const reset = el("button", { type: "button", class: "quiet", onclick: () => { this.set(this.own); this.tell(); } }, "Model's own settings");
    const shown = [model.can_explore && this.explore.box, model.most_interests > 1 && this.interests.box].filter(Boolean);
    this.box = el("form", { class: "sliders", "aria-label": "Settings of the list", onsubmit: (event) => event.preventDefault() },
      ...shown, shown.length ? reset : null);
    this.set(this.own);
  }

  slider(name, label, range, hint) {
    const output = el("output", { for: name });
    const input = el("input", { id: name, type: "range", ...range, "aria-describedby": `${name}-hint`, oninput: () => this.tell() });
    return { input, output, box: el("div", { class: "slider" },
      el("label", { for: name }, label), output, input, el("span", { class: "soft", id: `${name}-hint` }, hint)) };
  }

  set({ explore, interests }) {
    this.explore.input.value = Math.round(100 * explore);
    this.interests.input.value = interests;
    this.values();
  }

  values() {
    const settings = { explore: Number(this.explore.input.value) / 100, interests: Number(this.interests.input.value) };
    this.explore.output.textContent = `${this.explore.input.value} %`;
    this.explore.input.setAttribute("aria-valuetext", `${this.explore.input.value} percent`);
    this.interests.output.textContent = this.interests.input.value;
    return settings;
  }

  tell() {
    this.changed(this.values());
  }
}

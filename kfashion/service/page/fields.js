// The inputs of a garment's five fields: one word from a list, or several, each a button that removes it.

import { at, button, FIELDS, say, SINGLE, state } from "./core.js";
import { element } from "./charts.js";

export class FieldInputs {
  /**
   * Shown in the element `place`; the ids of the inputs begin with `prefix`, `empty` is the label of no choice, and
   * `refuse` is told of an unknown word.
   */
  constructor(place, prefix, empty, refuse) {
    Object.assign(this, { place, prefix, empty, refuse, chosen: {} });
  }

  render() {
    if (!state.tokens) return;
    at(this.place).replaceChildren(...FIELDS.map((field) => (SINGLE.includes(field) ? this.single(field) : this.several(field))));
  }

  clear() {
    this.chosen = {};
    this.render();
  }

  /** The fields that say something; null after a word that nobody knows, which has been told. */
  given() {
    const inputs = FIELDS.map((field) => at(`${this.prefix}-${field}`));
    const left = inputs.find((input) => input?.tagName === "INPUT" && input.value.trim());
    if (left) {
      this.refuse({ text: ["unknownToken", left.value.trim()] });
      return null;
    }
    return Object.fromEntries(Object.entries(this.chosen).filter(([, value]) => value?.length));
  }

  single(field) {
    const options = state.tokens[field].map((token) => element("option", { value: token, selected: this.chosen[field] === token }, token));
    const select = element("select", { id: `${this.prefix}-${field}` }, element("option", { value: "" }, say(this.empty)), ...options);
    select.addEventListener("change", () => { this.chosen[field] = select.value || null; });
    return element("div", {}, element("label", { for: select.id }, say(field)), select);
  }

  several(field) {
    const id = `${this.prefix}-${field}`;
    const tokens = state.tokens[field];
    const input = element("input", { id, list: `${id}-tokens`, autocomplete: "off", placeholder: say("addHint") });
    const chips = element("ul", { class: "chips" });
    const show = () => chips.replaceChildren(...(this.chosen[field] ?? []).map((token) => element("li", {}, chip(token))));
    const chip = (token) => button(`${token} ×`, () => {
      this.chosen[field] = this.chosen[field].filter((each) => each !== token);
      show();
      input.focus();
    }, { "aria-label": say("remove", token) });
    const add = () => {
      const token = input.value.trim().normalize("NFC");
      if (!tokens.includes(token)) return false;
      this.chosen[field] = [...new Set([...(this.chosen[field] ?? []), token])];
      input.value = "";
      show();
      return true;
    };
    input.addEventListener("change", add);
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !input.value.trim()) return;
      event.preventDefault();
      if (!add()) this.refuse({ text: ["unknownToken", input.value.trim()] });
    });
    show();
    return element("div", {}, element("label", { for: id }, say(field)), input,
      element("datalist", { id: `${id}-tokens` }, ...tokens.map((token) => element("option", { value: token }))), chips);
  }
}

// What the parts of the page share: its state, its words, asking the service, and small pieces to show.

import { element, number } from "./charts.js";
import { LABELS } from "./labels.js";

export const SINGLE = ["category", "silhouette"];
export const FIELDS = ["category", "style", "silhouette", "material", "detail"];

/** `data` is the answer of /api/dashboard/kpi, `tokens` of /api/dashboard/vocabulary, `problem` the last failure of either. */
export const state = { language: firstLanguage(), data: null, tokens: null, problem: null };

export const at = (id) => document.getElementById(id);

export function say(key, ...values) {
  const label = LABELS[state.language][key] ?? key;
  return typeof label === "function" ? label(...values) : label;
}

function firstLanguage() {
  const kept = localStorage.getItem("language");
  return kept in LABELS ? kept : navigator.language.startsWith("ko") ? "ko" : "en";
}

/** The JSON of an answer; throws the service's code, message and number of the request. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw { code: "offline" };
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw { code: body.error_code ?? "other", message: body.error_message, request: body.request_id };
  return body;
}

/** A failure in words: of the service, or `{text: [label, …values]}` of the page itself. */
export function told(failure) {
  if (failure instanceof Error) throw failure;
  if (failure.text) return say(...failure.text);
  const known = failure.code in LABELS.en ? failure.code : "other";
  const parts = [say(known)];
  if (failure.message && ["BAD_REQUEST", "VALIDATION_ERROR", "other"].includes(known)) parts.push(failure.message);
  if (failure.request) parts.push(`(${say("request", failure.request)})`);
  return parts.join(" ");
}

/** Shows a failure in its place, or hides the place. */
export function showFailure(place, failure) {
  place.hidden = !failure;
  place.textContent = failure ? told(failure) : "";
}

export const percent = (value) => (value === null || value === undefined ? null : `${(100 * value).toFixed(1)} %`);

/** The words of a garment, each once. */
export const words = (garment) => [...new Set(FIELDS.flatMap((field) => garment[field] ?? []))].join(", ");

export function cards(rows) {
  return element("dl", { class: "cards" }, ...rows.map(([name, value, ...notes]) => element("div", {},
    element("dt", {}, name),
    element("dd", {}, typeof value === "string" ? value : number(value, 3),
      ...notes.filter(Boolean).map((note) => element("small", {}, note))))));
}

/** What stands where there is nothing to show: why, and the command that changes it. */
export function nothing(label, command, section) {
  return unread(section, command) ?? element("p", { class: "empty" }, say(label), command ? element("code", {}, command) : null);
}

/** That a file of a section cannot be read, and why; null if all is well. */
export function unread(section, command) {
  const problem = state.data?.problems.find((each) => each.section === section);
  if (!problem) return null;
  return element("div", { class: "error" }, say("unread"), " ", element("q", {}, problem.reason), command ? element("code", {}, command) : null);
}

export function picture(url, name) {
  const place = element("div", { class: "picture" });
  if (!url) {
    place.append(say("noImage"));
    return place;
  }
  const image = element("img", { src: url, alt: name, loading: "lazy" });
  image.addEventListener("error", () => place.replaceChildren(say("noImage")));
  place.append(image);
  return place;
}

export function button(label, act, attributes = {}) {
  const made = element("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", () => act(made));
  return made;
}

/** Shows the picture that is chosen in an input, where the browser can. */
export function preview(input, image) {
  input.addEventListener("change", () => {
    const file = input.files[0];
    URL.revokeObjectURL(image.src);
    image.hidden = !file;
    if (!file) return;
    image.src = URL.createObjectURL(file);
    image.alt = say("uploaded");
  });
  image.addEventListener("error", () => { image.hidden = true; });
}

/** A button that waits while `act` runs. */
export async function waiting(made, act) {
  if (made) made.disabled = true;
  try {
    return await act();
  } finally {
    if (made) made.disabled = false;
  }
}

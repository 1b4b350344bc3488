// The page: asks the service for its figures and has them shown. Words are in labels.js, charts in charts.js, the parts in
// figures.js, search.js and catalogue.js.

import { loadCatalogue, renderCatalogue, setUpCatalogue } from "./catalogue.js";
import { element } from "./charts.js";
import { ask, at, say, showFailure, state } from "./core.js";
import { remember, renderFigures, renderService } from "./figures.js";
import { renderSearch, setUpSearch } from "./search.js";

const LIVE_EVERY_MS = 5000;
const RETRY_AFTER_MS = 2000;

async function load() {
  at("refresh").disabled = true;
  const asked = [ask("/api/dashboard/kpi"), ask("/api/dashboard/vocabulary"), loadCatalogue()];
  const [data, tokens, catalogue] = await Promise.allSettled(asked);
  state.data = data.value ?? state.data;
  state.tokens = tokens.value ?? state.tokens;
  state.problem = data.reason ?? tokens.reason ?? catalogue.reason ?? null;
  remember(state.data?.api_metrics);
  at("refresh").disabled = false;
  render();
  if (state.problem?.code === "NOT_READY") setTimeout(load, RETRY_AFTER_MS);
}

async function watch() {
  if (document.hidden || !state.data) return;
  try {
    const measured = await ask("/api/dashboard/live");
    remember(measured);
    state.data.api_metrics = measured;
    state.problem = null;
    const place = at("service");
    const inUse = place.contains(document.activeElement) || place.querySelector("details[open]");
    if (!inUse) renderService();
  } catch (error) {
    state.problem = error;
  }
  showFailure(at("problem"), state.problem);
}

function render() {
  translate();
  showFailure(at("problem"), state.problem);
  renderSource();
  renderSearch();
  renderCatalogue();
  renderFigures();
}

function translate() {
  document.documentElement.lang = state.language;
  document.title = say("title");
  for (const each of document.querySelectorAll("[data-label]")) each.textContent = say(each.dataset.label);
  for (const each of document.querySelectorAll("[data-name]")) each.setAttribute("aria-label", say(each.dataset.name));
  for (const each of document.querySelectorAll("[data-language]")) {
    each.setAttribute("aria-pressed", each.dataset.language === state.language);
  }
}

function renderSource() {
  const source = state.data?.data_source;
  at("source").replaceChildren(source ? element("span", { class: `badge ${source}` }, say(source)) : "");
  if (!state.data) return;
  at("time").dateTime = state.data.timestamp;
  at("time").textContent = new Date(state.data.timestamp).toLocaleString(state.language);
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    state.language = button.dataset.language;
    localStorage.setItem("language", state.language);
    render();
  });
}
at("refresh").addEventListener("click", load);
setUpSearch(watch);
setUpCatalogue(watch);
render();
load();
setInterval(watch, LIVE_EVERY_MS);

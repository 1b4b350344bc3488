// The dashboard: asks the service for its figures and shows them, and searches. Words are in labels.js, charts in charts.js.

import { element, lineChart, number, rangeChart, table } from "./charts.js";
import { LABELS } from "./labels.js";

const SINGLE = ["category", "silhouette"];
const FIELDS = ["category", "style", "silhouette", "material", "detail"];
const LIVE_EVERY_MS = 5000;
const LIVE_KEPT = 120;
const RETRY_AFTER_MS = 2000;
const COMMANDS = {
  searches: "python evaluate.py run=latest:kfashion_stage2",
  tuning: "python train.py -m experiment=kfashion_stage2 sweep=kfashion_1",
  samples: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/augmentation",
  centrality: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/centrality",
  kinds: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/query_aware",
};

const state = { language: firstLanguage(), data: null, tokens: null, chosen: {}, answer: null, failure: null, live: [], opened: Date.now() };
const at = (id) => document.getElementById(id);
const say = (key, ...values) => {
  const label = LABELS[state.language][key] ?? key;
  return typeof label === "function" ? label(...values) : label;
};

// ---- language

function firstLanguage() {
  const kept = localStorage.getItem("language");
  return kept in LABELS ? kept : navigator.language.startsWith("ko") ? "ko" : "en";
}

function setLanguage(language) {
  state.language = language;
  localStorage.setItem("language", language);
  render();
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

// ---- asking the service

/** The JSON of an answer; throws an error with the service's code, message and number of the request. */
async function ask(path, options = {}) {
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

function told(error) {
  if (error instanceof Error) throw error;
  const known = error.code in LABELS.en ? error.code : "other";
  const parts = [say(known)];
  if (error.message && ["BAD_REQUEST", "VALIDATION_ERROR", "other"].includes(known)) parts.push(error.message);
  if (error.request) parts.push(`(${say("request", error.request)})`);
  return parts.join(" ");
}

async function load() {
  at("refresh").disabled = true;
  const [data, tokens] = await Promise.allSettled([ask("/api/dashboard/kpi"), ask("/api/dashboard/vocabulary")]);
  state.data = data.value ?? state.data;
  state.tokens = tokens.value ?? state.tokens;
  state.problem = data.reason ?? tokens.reason ?? null;
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
  renderProblem();
}

function remember(measured) {
  if (!measured?.latency_ms) return;
  const seconds = Math.round((Date.now() - state.opened) / 1000);
  if (state.live.at(-1)?.[0] === seconds) state.live.pop();
  state.live.push([seconds, measured.latency_ms.total]);
  if (state.live.length > LIVE_KEPT) state.live.shift();
}

// ---- the page

function render() {
  translate();
  renderProblem();
  renderSource();
  renderFields();
  renderAnswer();
  if (!state.data) {
    at("kpi").replaceChildren(state.problem ? "" : element("p", { class: "quiet" }, say("loading")));
    return;
  }
  renderKpi();
  renderCurves();
  renderSearches();
  renderSettings();
  renderSamples();
  renderCentrality();
  renderService();
}

function renderProblem() {
  at("problem").hidden = !state.problem;
  at("problem").textContent = state.problem ? told(state.problem) : "";
}

function renderSource() {
  const source = state.data?.data_source;
  at("source").replaceChildren(source ? element("span", { class: `badge ${source}` }, say(source)) : "");
  if (!state.data) return;
  const time = new Date(state.data.timestamp);
  at("time").dateTime = state.data.timestamp;
  at("time").textContent = time.toLocaleString(state.language);
}

function cards(rows) {
  return element("dl", { class: "cards" }, ...rows.map(([name, value, ...notes]) => element("div", {},
    element("dt", {}, name),
    element("dd", {}, typeof value === "string" ? value : number(value, 3),
      ...notes.filter(Boolean).map((note) => element("small", {}, note))))));
}

function nothing(label, command) {
  return element("p", { class: "empty" }, say(label), command ? element("code", {}, command) : null);
}

const percent = (value) => (value === null || value === undefined ? null : `${(100 * value).toFixed(1)} %`);

function renderKpi() {
  const kpi = state.data.kpi;
  const source = kpi.accuracy_source && say(kpi.accuracy_source === "evaluation" ? "evaluation" : "trained", kpi.accuracy_split);
  const interval = kpi.ci95_top_5 && say("interval", ...kpi.ci95_top_5.map(percent));
  const chance = kpi.chance_top_5 !== null && say("chance", percent(kpi.chance_top_5));
  const epochs = `${number(kpi.current_epoch)} / ${number(kpi.total_epochs)}`;
  at("kpi").replaceChildren(
    cards([
      [say("top_5_accuracy"), percent(kpi.top_5_accuracy), interval, chance, source],
      [say("top_1_accuracy"), percent(kpi.top_1_accuracy), source],
      [say("mrr"), kpi.mrr, source],
      [say("positive"), kpi.positive_similarity_avg],
      [say("negative"), kpi.negative_similarity_avg],
      [say("norm"), kpi.embedding_l2_norm],
      [say("items"), kpi.total_items],
      [say("split"), `${number(kpi.train_split)} / ${number(kpi.validation_split)}`],
      [say("progress"), epochs, kpi.progress_percentage !== null && percent(kpi.progress_percentage / 100), kpi.status && say(kpi.status)],
      [say("stage"), (kpi.current_stage ?? say("none")).replace("kfashion_", "")],
    ]),
    element("details", {}, element("summary", {}, say("categories")),
      table(say("categories"), [say("category"), say("items")], Object.entries(kpi.categories))));
}

function renderCurves() {
  const rows = state.data.loss_curve;
  if (!rows.length) return at("curves").replaceChildren(nothing("noCurve"));
  const stages = [...new Set(rows.map((row) => row.stage))];
  const marks = stages.map((stage) => ({ x: rows.findIndex((row) => row.stage === stage) + 1, text: stage.replace("kfashion_", "") }));
  const ends = rows.flatMap((row, k) => (k > 0 && row.stage !== rows[k - 1].stage ? [[k + 0.5, null]] : []));
  const line = (name, key) => ({
    name: say(name),
    points: [...rows.map((row, k) => [k + 1, row[key]]), ...ends].sort((a, b) => a[0] - b[0]),
  });
  const chart = (title, lines) => {
    const known = lines.some(({ points }) => points.some(([, y]) => y !== null));
    return known
      ? lineChart({ title: say(title), xLabel: say("epoch"), series: lines, marks: stages.length > 1 ? marks : [], tableLabel: say("table"), zero: title === "rate" })
      : element("figure", {}, element("figcaption", {}, say(title)), nothing("noCurve"));
  };
  at("curves").replaceChildren(
    chart("loss", [line("trainLoss", "train_loss"), line("valLoss", "val_loss")]),
    chart("rate", [line("rate", "lr")]),
    chart("lengths", [line("mean", "l2_norm_mean"), line("deviation", "l2_norm_std")]));
}

function picture(url, name) {
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

const words = (record) => [...new Set(FIELDS.flatMap((field) => record[field] ?? []))].join(", ");

function renderSearches() {
  const searches = state.data.top_k_images;
  if (!searches.length) return at("searches").replaceChildren(nothing("noSearches", COMMANDS.searches));
  const groups = Map.groupBy ? Map.groupBy(searches, (each) => each.category) : grouped(searches);
  at("searches").replaceChildren(...[...groups].map(([category, rows], k) =>
    element("details", { open: k === 0 }, element("summary", {}, `${category} (${rows.length})`), ...rows.map(searchRow))));
}

function grouped(searches) {
  const groups = new Map();
  for (const each of searches) groups.set(each.category, [...(groups.get(each.category) ?? []), each]);
  return groups;
}

function searchRow({ query, results }) {
  const own = element("li", { class: "query" }, picture(query.image_url, say("query")), element("strong", {}, say("query")),
    element("p", { class: "tokens" }, words(query.fields)));
  return element("ol", { class: "garments compact" }, own, ...results.map((each) =>
    element("li", { class: each.relevant ? "right" : null }, picture(each.image_url, say("rank", each.rank)),
      element("div", { class: "score" }, say("rank", each.rank), element("span", {}, each.similarity_score.toFixed(3))),
      each.relevant ? element("span", { class: "right-mark" }, `✓ ${say("sameRecord")}`) : null)));
}

function renderSettings() {
  const { current, tuning } = state.data.hyperparams;
  at("current").replaceChildren(table(say("current"), [say("name"), say("value")],
    Object.entries(current).map(([name, value]) => [name, typeof value === "number" ? number(value) : String(value)])));
  if (!tuning) return at("tuning").replaceChildren(nothing("noTuning", COMMANDS.tuning));
  const importance = tuning.importances;
  const columns = [...new Set(tuning.trials.flatMap(Object.keys))];
  at("tuning").replaceChildren(
    element("h3", {}, say("tuning", tuning.study)),
    element("p", {}, `${say("best", tuning.objectives[0], number(tuning.best_value))} (${say("trials")}: ${tuning.n_trials})`),
    table(say("bestSettings"), [say("name"), say("value"), say("importance")],
      Object.entries(tuning.best_params).map(([name, value]) => [name, value, importance[name] ?? null])),
    element("details", {}, element("summary", {}, say("trials")),
      table(say("trials"), columns, tuning.trials.map((row) => columns.map((name) => row[name] ?? null)))));
}

function renderSamples() {
  const samples = state.data.augmented_samples;
  if (!samples.length) return at("samples").replaceChildren(nothing("noSamples", COMMANDS.samples));
  const side = (kind, value, other, mark) =>
    (kind === "image" ? picture(value, say(mark === "ins" ? "augmented" : "original")) : compared(value, other, mark));
  at("samples").replaceChildren(table(say("samples"), [say("method"), say("original"), say("augmented")],
    samples.map(({ kind, method, original, augmented }) =>
      [say(method), side(kind, original, augmented, "del"), side(kind, augmented, original, "ins")])));
}

/** The words of a record; those that the other lacks are marked. */
function compared(record, other, mark) {
  const line = element("span");
  for (const field of FIELDS) {
    const theirs = [other[field] ?? []].flat();
    [record[field] ?? []].flat().forEach((token, k) => {
      const separator = k > 0 ? ", " : line.childNodes.length ? " / " : "";
      line.append(separator, theirs.includes(token) ? token : element(mark, {}, token));
    });
  }
  return line;
}

function renderCentrality() {
  const central = state.data.centrality;
  if (!central) at("central").replaceChildren(nothing("noCentrality", COMMANDS.centrality));
  else {
    const rows = central.by_category.map((row) => ({ ...row, name: row.category })).sort((a, b) => b.mean - a.mean);
    const sales = central.validation;
    at("central").replaceChildren(
      rangeChart({ title: say("byCategory"), rows, threshold: central.anchors.threshold, xLabel: say("cosine"), legend: say("centralityLegend") }),
      element("p", { class: "quiet" }, typeof sales === "string" ? say("notValidated") : say("validated", number(sales.spearman, 3), sales.n)));
  }
  renderKinds(state.data.query_aware);
}

function renderKinds(aware) {
  if (!aware) return at("kinds").replaceChildren(nothing("noKinds", COMMANDS.kinds));
  const names = ["hit_at_1", "recall_at_5", "recall_at_10"];
  const rows = Object.entries(aware.metrics.attr).map(([kind, row]) =>
    [say(kind), aware.sets[kind], ...names.map((name) => percent(row[name].value) ?? say("none"))]);
  at("kinds").replaceChildren(
    table(say("kinds"), [say("kind"), say("count"), "Top-1", "Recall@5", "Recall@10"], rows),
    element("p", { class: "quiet" }, say("anchorVerdict", say(aware.anchor_less_others.attr.recall_at_5.verdict))));
}

function renderService() {
  const live = state.data.api_metrics;
  if (!live?.latency_ms) return at("service").replaceChildren(nothing("noRequests"));
  const range = live.embedding_norm_range && [...new Set(live.embedding_norm_range.map((each) => each.toFixed(4)))].join(" – ");
  const stages = { embedding: "embedding", search: "searchStage", total: "total" };
  const shown = cards([
    [say("requests"), live.request_count],
    [say("errors"), `${number(live.client_errors)} / ${number(live.server_errors)}`],
    [say("hits"), percent(live.cache_hit_rate)],
    [say("similarity"), live.mean_top_1_similarity],
    [say("emptyShare"), percent(live.empty_result_share)],
    [say("normRange"), range ?? null],
  ]);
  if (!live.recommendation_count) return at("service").replaceChildren(shown, nothing("noRequests"));
  const curve = (key) => ({ name: key, points: state.live.map(([seconds, total]) => [seconds, total[key]]) });
  at("service").replaceChildren(shown,
    table(say("latency"), [say("stageName"), "p50", "p95", "p99"],
      Object.entries(live.latency_ms).map(([stage, row]) => [say(stages[stage]), row.p50, row.p95, row.p99])),
    state.live.length < 2 ? "" : lineChart({ title: say("latencyCurve"), xLabel: say("seconds"), series: ["p50", "p95", "p99"].map(curve), tableLabel: say("table"), zero: true }));
}

// ---- search

function renderFields() {
  if (!state.tokens) return;
  at("fields").replaceChildren(...FIELDS.map((field) => (SINGLE.includes(field) ? single(field) : several(field))));
}

function single(field) {
  const options = state.tokens[field].map((token) => element("option", { value: token, selected: state.chosen[field] === token }, token));
  const select = element("select", { id: `field-${field}` }, element("option", { value: "" }, say("any")), ...options);
  select.addEventListener("change", () => { state.chosen[field] = select.value || null; });
  return element("div", {}, element("label", { for: select.id }, say(field)), select);
}

/** A field of several tokens: typed or chosen from the list, each becomes a button that removes it. */
function several(field) {
  const tokens = state.tokens[field];
  const input = element("input", { id: `field-${field}`, list: `tokens-${field}`, autocomplete: "off", placeholder: say("addHint") });
  const chips = element("ul", { class: "chips" });
  const show = () => chips.replaceChildren(...(state.chosen[field] ?? []).map(chip));
  const chip = (token) => {
    const button = element("button", { type: "button", "aria-label": say("remove", token) }, `${token} ×`);
    button.addEventListener("click", () => {
      state.chosen[field] = state.chosen[field].filter((each) => each !== token);
      show();
      input.focus();
    });
    return element("li", {}, button);
  };
  const add = () => {
    const token = input.value.trim().normalize("NFC");
    if (!tokens.includes(token)) return false;
    state.chosen[field] = [...new Set([...(state.chosen[field] ?? []), token])];
    input.value = "";
    show();
    return true;
  };
  input.addEventListener("change", add);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && input.value.trim()) {
      event.preventDefault();
      if (!add()) fail({ text: ["unknownToken", input.value.trim()] });
    }
  });
  show();
  return element("div", {}, element("label", { for: input.id }, say(field)), input,
    element("datalist", { id: `tokens-${field}` }, ...tokens.map((token) => element("option", { value: token }))), chips);
}

function options() {
  const [topK, threshold] = [at("top-k"), at("threshold")];
  if (!topK.value || !threshold.value || !topK.checkValidity() || !(Math.abs(threshold.valueAsNumber) <= 1)) return null;
  return { top_k: topK.valueAsNumber, similarity_threshold: threshold.valueAsNumber };
}

async function searchByImage(event) {
  event.preventDefault();
  const file = at("file").files[0];
  if (!file) return fail({ text: ["chooseFile"] });
  const form = new FormData();
  form.append("file", file);
  await search(event.submitter, (wanted) =>
    ask(`/api/recommend/customer_input?${new URLSearchParams(wanted)}`, { method: "POST", body: form }));
}

async function searchByFields(event) {
  event.preventDefault();
  const left = FIELDS.map((field) => at(`field-${field}`)).find((input) => input?.tagName === "INPUT" && input.value.trim());
  if (left) return fail({ text: ["unknownToken", left.value.trim()] });
  const given = Object.fromEntries(Object.entries(state.chosen).filter(([, value]) => value?.length));
  if (!Object.keys(given).length) return fail({ text: ["chooseField"] });
  await search(event.submitter, (wanted) => ask("/api/recommend/style", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ style_description: given, options: wanted }),
  }));
}

async function search(button, request) {
  const wanted = options();
  if (!wanted) return fail({ text: ["badNumber"] });
  fail(null);
  at("status").textContent = say("searching");
  if (button) button.disabled = true;
  try {
    state.answer = await request(wanted);
    renderAnswer();
    at("status").scrollIntoView({ block: "nearest" });
  } catch (error) {
    fail(error);
  }
  if (button) button.disabled = false;
  watch();
}

function fail(failure) {
  state.failure = failure;
  state.answer = null;
  renderAnswer();
  if (failure) at("failure").scrollIntoView({ block: "nearest" });
}

function renderAnswer() {
  const { answer, failure } = state;
  at("failure").hidden = !failure;
  at("failure").textContent = failure ? (failure.text ? say(...failure.text) : told(failure)) : "";
  const found = answer?.recommendations ?? [];
  at("status").textContent = !answer ? "" : found.length
    ? `${say("results", found.length)} ${say("took", number(answer.performance_metrics.total_response_time_ms, 3))}`
    : say("nothing");
  at("results").replaceChildren(...found.map((each, k) => element("li", {},
    picture(each.image_url, words(each)),
    element("div", { class: "score" }, say("rank", k + 1), element("span", { title: say("score") }, each.similarity_score.toFixed(3))),
    element("div", {}, [each.metadata?.brand, each.metadata?.price !== null && each.metadata?.price?.toLocaleString(state.language)].filter(Boolean).join(" · ")),
    element("p", { class: "tokens" }, words(each)))));
}

function preview() {
  const file = at("file").files[0];
  URL.revokeObjectURL(at("preview").src);
  at("preview").hidden = !file;
  if (!file) return;
  at("preview").src = URL.createObjectURL(file);
  at("preview").alt = say("uploaded");
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => setLanguage(button.dataset.language));
}
at("refresh").addEventListener("click", load);
at("by-image").addEventListener("submit", searchByImage);
at("by-fields").addEventListener("submit", searchByFields);
at("file").addEventListener("change", preview);
at("preview").addEventListener("error", () => { at("preview").hidden = true; });
render();
load();
setInterval(watch, LIVE_EVERY_MS);

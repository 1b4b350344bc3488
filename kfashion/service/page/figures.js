// The sections of figures: each shows its part of the record, or says why there is none.

import { element, lineChart, number, rangeChart, table } from "./charts.js";
import { at, cards, FIELDS, nothing, percent, picture, say, state, unread, words } from "./core.js";

const COMMANDS = {
  searches: "python evaluate.py run=latest:kfashion_stage2",
  tuning: "python train.py -m experiment=kfashion_stage2 sweep=kfashion_1",
  samples: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/augmentation",
  centrality: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/centrality",
  kinds: "python evaluate.py run=latest:kfashion_stage2 analysis=kfashion/query_aware",
};
const LIVE_KEPT = 120;
const live = { points: [], opened: Date.now() };

export function renderFigures() {
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
  renderKinds();
  renderService();
}

/** Keeps what the service measured for the curve of latency. */
export function remember(measured) {
  if (!measured) return;
  const seconds = Math.round((Date.now() - live.opened) / 1000);
  if (live.points.at(-1)?.[0] === seconds) live.points.pop();
  live.points.push([seconds, measured.latency_ms.total]);
  if (live.points.length > LIVE_KEPT) live.points.shift();
}

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
    unread("kpi", COMMANDS.searches) ?? "",
    element("details", {}, element("summary", {}, say("categories")),
      table(say("categories"), [say("category"), say("items")], Object.entries(kpi.categories ?? {}))));
}

function renderCurves() {
  const rows = state.data.loss_curve;
  if (!rows.length) return at("curves").replaceChildren(nothing("noCurve", null, "loss_curve"));
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
    chart("lengths", [line("mean", "l2_norm_mean"), line("deviation", "l2_norm_std")]),
    unread("loss_curve") ?? "");
}

function renderSearches() {
  const searches = state.data.top_k_images;
  if (!searches.length) return at("searches").replaceChildren(nothing("noSearches", COMMANDS.searches, "top_k_images"));
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
  if (!tuning) return at("tuning").replaceChildren(nothing("noTuning", COMMANDS.tuning, "tuning"));
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
  if (!samples.length) return at("samples").replaceChildren(nothing("noSamples", COMMANDS.samples, "augmented_samples"));
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
  if (!central) return at("central").replaceChildren(nothing("noCentrality", COMMANDS.centrality, "centrality"));
  const rows = central.by_category.map((row) => ({ ...row, name: row.category })).sort((a, b) => b.mean - a.mean);
  const sales = central.validation;
  at("central").replaceChildren(
    rangeChart({ title: say("byCategory"), rows, threshold: central.anchors.threshold, xLabel: say("cosine"), legend: say("centralityLegend") }),
    element("p", { class: "quiet" }, typeof sales === "string" ? say("notValidated") : say("validated", number(sales.spearman, 3), sales.n)));
}

function renderKinds() {
  const aware = state.data.query_aware;
  if (!aware) return at("kinds").replaceChildren(nothing("noKinds", COMMANDS.kinds, "query_aware"));
  const names = ["hit_at_1", "recall_at_5", "recall_at_10"];
  const rows = Object.entries(aware.metrics.attr).map(([kind, row]) =>
    [say(kind), aware.sets[kind], ...names.map((name) => percent(row[name].value) ?? say("none"))]);
  at("kinds").replaceChildren(
    table(say("kinds"), [say("kind"), say("count"), "Top-1", "Recall@5", "Recall@10"], rows),
    element("p", { class: "quiet" }, say("anchorVerdict", say(aware.anchor_less_others.attr.recall_at_5.verdict))));
}

export function renderService() {
  const metrics = state.data.api_metrics;
  if (!metrics) return at("service").replaceChildren(nothing("noRequests"));
  const range = metrics.embedding_norm_range && [...new Set(metrics.embedding_norm_range.map((each) => each.toFixed(4)))].join(" – ");
  const stages = { embedding: "embedding", search: "searchStage", total: "total" };
  const shown = cards([
    [say("requests"), metrics.request_count],
    [say("errors"), `${number(metrics.client_errors)} / ${number(metrics.server_errors)}`],
    [say("hits"), percent(metrics.cache_hit_rate)],
    [say("similarity"), metrics.mean_top_1_similarity],
    [say("emptyShare"), percent(metrics.empty_result_share)],
    [say("normRange"), range ?? null],
  ]);
  if (!metrics.recommendation_count) return at("service").replaceChildren(shown, nothing("noRequests"));
  const curve = (key) => ({ name: key, points: live.points.map(([seconds, total]) => [seconds, total[key]]) });
  at("service").replaceChildren(shown,
    table(say("latency"), [say("stageName"), "p50", "p95", "p99"],
      Object.entries(metrics.latency_ms).map(([stage, row]) => [say(stages[stage]), row.p50, row.p95, row.p99])),
    live.points.length < 2 ? "" : lineChart({ title: say("latencyCurve"), xLabel: say("seconds"), series: ["p50", "p95", "p99"].map(curve), tableLabel: say("table"), zero: true }));
}

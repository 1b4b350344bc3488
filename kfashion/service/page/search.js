// Searching: by a picture, by attributes, by the pictures of best sellers, by a product; and a picture put into words.

import { element, number, table } from "./charts.js";
import { ask, at, button, FIELDS, percent, picture, preview, say, showFailure, state, waiting, words } from "./core.js";
import { FieldInputs } from "./fields.js";

const MOST_PICTURES = 10;
const fields = new FieldInputs("fields", "field", "any", fail);
const shown = { answer: null, failure: null };
let asked = () => {};

/** `after` is called when the service has answered. */
export function setUpSearch(after) {
  asked = after;
  at("by-image").addEventListener("submit", byImage);
  at("by-fields").addEventListener("submit", byFields);
  at("by-trend").addEventListener("submit", byBestSellers);
  preview(at("file"), at("preview"));
}

export function renderSearch() {
  fields.render();
  renderAnswer();
}

/** Products like one of the catalogue. */
export function findSimilar(itemId, from) {
  return search(from, (wanted) => post("customer_input", { ...wanted, item_id: itemId }));
}

function byImage(event) {
  event.preventDefault();
  const body = upload(at("file").files);
  if (!body) return fail({ text: ["chooseFile"] });
  const describe = event.submitter?.value === "describe";
  if (describe) body.append("top_k", at("top-k").value);
  search(event.submitter, (wanted) => (describe ? post("attributes", {}, { body }) : post("customer_input", wanted, { body })));
}

function byBestSellers(event) {
  event.preventDefault();
  const files = at("sellers").files;
  if (!files.length || files.length > MOST_PICTURES) return fail({ text: ["chooseFiles"] });
  search(event.submitter, (wanted) => post("top10_to_new", wanted, { body: upload(files) }));
}

function byFields(event) {
  event.preventDefault();
  const given = fields.given();
  if (!given) return;
  if (!Object.keys(given).length) return fail({ text: ["chooseField"] });
  search(event.submitter, (wanted) => post("style", {}, {
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ style_description: given, options: wanted }),
  }));
}

function post(name, query, options = {}) {
  const suffix = String(new URLSearchParams(query));
  return ask(`/api/recommend/${name}${suffix && `?${suffix}`}`, { method: "POST", ...options });
}

function upload(files) {
  if (!files.length) return null;
  const form = new FormData();
  for (const file of files) form.append("file", file);
  return form;
}

function options() {
  const [topK, threshold] = [at("top-k"), at("threshold")];
  if (!topK.value || !threshold.value || !topK.checkValidity() || !(Math.abs(threshold.valueAsNumber) <= 1)) return null;
  return { top_k: topK.valueAsNumber, similarity_threshold: threshold.valueAsNumber };
}

function search(from, request) {
  const wanted = options();
  if (!wanted) return fail({ text: ["badNumber"] });
  fail(null);
  at("status").textContent = say("searching");
  return waiting(from, async () => {
    try {
      shown.answer = await request(wanted);
      renderAnswer();
      at("status").scrollIntoView({ block: "nearest" });
    } catch (error) {
      fail(error);
    }
    asked();
  });
}

function fail(failure) {
  Object.assign(shown, { failure, answer: null });
  renderAnswer();
  if (failure) at("failure").scrollIntoView({ block: "nearest" });
}

function renderAnswer() {
  const { answer, failure } = shown;
  showFailure(at("failure"), failure);
  const found = answer?.recommendations ?? [];
  at("status").textContent = !answer ? "" : answer.records ? describing(answer) : found.length
    ? `${say("results", found.length)} ${took(answer)}` : say("nothing");
  at("results").replaceChildren(...found.map(garment));
  at("more").replaceChildren(...(answer?.records?.length ? [records(answer.records)] : []), ...(answer?.trend ? trend(answer) : []));
}

const took = (answer) => say("took", number(answer.performance_metrics.total_response_time_ms, 3));
const describing = (answer) => (answer.records.length ? `${say("described", answer.records.length)} ${took(answer)}` : say("noRecords"));

function garment(each, k) {
  const { brand, price } = each.metadata;
  return element("li", {},
    picture(each.image_url, words(each)),
    element("div", { class: "score" }, say("rank", k + 1), element("span", { title: say("score") }, each.similarity_score.toFixed(3))),
    element("div", {}, [brand, price?.toLocaleString(state.language)].filter(Boolean).join(" · ")),
    element("p", { class: "tokens" }, words(each)),
    button(say("similar"), (made) => findSimilar(each.item_id, made), { "aria-label": say("similarTo", each.item_id) }));
}

function records(rows) {
  const cell = (value) => [value ?? []].flat().join(", ") || say("none");
  return table(say("records"), [say("score"), ...FIELDS.map((field) => say(field))],
    rows.map((row) => [row.similarity_score.toFixed(3), ...FIELDS.map((field) => cell(row[field]))]));
}

const word = ({ token, field }) => element("span", {}, token, " ", element("small", { class: "quiet" }, say(field)));

/** What the products found have in common, and what each picture found alone. */
function trend({ trend: { category_counts: counts, attribute_lift: lifts, mean_similarity: mean }, images }) {
  if (!lifts.length) return [];
  return [
    element("h3", {}, say("trend")),
    element("p", {}, say("meanSimilarity", number(mean, 3))),
    element("div", { class: "forms" },
      table(say("byCategory"), [say("category"), say("items")], Object.entries(counts)),
      table(say("lifts"), [say("word"), say("lift"), say("inResults"), say("inCatalog")],
        lifts.map((row) => [word(row), row.lift.toFixed(2), percent(row.share_in_results), percent(row.share_in_catalog)]))),
    ...(images.length < 2 ? [] : images.map(({ input_info: info, recommendations }) => element("details", {},
      element("summary", {}, `${info.file_name ?? say("picture")} (${recommendations.length})`),
      element("ol", { class: "garments" }, ...recommendations.map(garment))))),
  ];
}

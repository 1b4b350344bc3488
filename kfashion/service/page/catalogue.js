// The new products: a list in pages, and adding and removing with the key of the service, which stays in its input.

import { element } from "./charts.js";
import { ask, at, button, picture, preview, say, showFailure, state, waiting, words } from "./core.js";
import { FieldInputs } from "./fields.js";
import { findSimilar } from "./search.js";

const PATH = "/api/catalog/new_products";
const PAGE_SIZE = 12;
const DETAILS = { item_id: "new-id", brand: "new-brand", price: "new-price", color: "new-color", launch_date: "new-launch" };
const fields = new FieldInputs("new-fields", "new", "notGiven", (failure) => tell(null, failure));
const shown = { page: null, offset: 0, message: null, failure: null };

/** `changed` is called after a product was added or removed. */
export function setUpCatalogue(changed) {
  at("add").addEventListener("submit", (event) => { event.preventDefault(); add(event.submitter).then(changed); });
  at("products").addEventListener("removed", changed);
  at("previous").addEventListener("click", () => turn(shown.offset - PAGE_SIZE));
  at("next").addEventListener("click", () => turn(shown.offset + PAGE_SIZE));
  preview(at("new-file"), at("new-preview"));
}

export function renderCatalogue() {
  fields.render();
  renderProducts();
  renderMessage();
}

/** Asks for the page that is shown; throws as `ask`. */
export async function loadCatalogue() {
  const asked = shown.offset;
  const page = await ask(`${PATH}?offset=${asked}&limit=${PAGE_SIZE}`);
  if (asked !== shown.offset) return;
  shown.page = page;
  if (asked > 0 && asked >= page.total) return turn(lastPage());
  renderProducts();
}

const lastPage = () => Math.max(0, Math.floor((shown.page.total - 1) / PAGE_SIZE) * PAGE_SIZE);

async function turn(offset) {
  shown.offset = offset;
  await loadCatalogue().catch((failure) => tell(null, failure));
}

async function add(from) {
  const file = at("new-file").files[0];
  if (!file) return tell(null, { text: ["chooseFile"] }, at("new-file"));
  if (!at("new-id").checkValidity()) return tell(null, { text: ["badId"] }, at("new-id"));
  const given = fields.given();
  if (!given || !hasKey()) return;
  const body = new FormData();
  body.append("file", file);
  for (const [name, id] of Object.entries(DETAILS)) if (at(id).value.trim()) body.append(name, at(id).value.trim());
  for (const [name, value] of Object.entries(given)) for (const token of [value].flat()) body.append(name, token);
  await change(from, { method: "POST", body }, PATH, async (added) => {
    at("add").reset();
    at("new-preview").hidden = true;
    fields.clear();
    shown.page.total += 1;
    await turn(lastPage());
    tell(["added", added.item_id]);
  });
}

async function remove(itemId, from) {
  if (!hasKey() || !confirm(say("confirmRemove", itemId))) return;
  await change(from, { method: "DELETE" }, `${PATH}/${encodeURIComponent(itemId)}`, async () => {
    await turn(shown.offset);
    tell(["removed", itemId], null, at("catalogue-status"));
    at("products").dispatchEvent(new Event("removed"));
  });
}

function hasKey() {
  const key = at("key").value;
  if (/^[ -~]+$/.test(key)) return true;
  tell(null, key ? { code: "UNAUTHORIZED" } : { text: ["enterKey"] }, at("key")); // others cannot be sent
  return false;
}

function change(from, options, path, done) {
  tell(null);
  return waiting(from, async () => {
    try {
      await done(await ask(path, { ...options, headers: { "X-API-Key": at("key").value } }));
    } catch (failure) {
      tell(null, failure);
    }
  });
}

/** Says what was done or failed; the focus goes to `focused`, for example as the button that had it is gone. */
function tell(message, failure = null, focused = null) {
  Object.assign(shown, { message, failure });
  renderMessage();
  if (focused) focused.focus();
  else if (failure || message) at(failure ? "catalogue-failure" : "catalogue-status").scrollIntoView({ block: "nearest" });
}

function renderMessage() {
  at("catalogue-status").textContent = shown.message ? say(...shown.message) : "";
  showFailure(at("catalogue-failure"), shown.failure);
}

function renderProducts() {
  const { page } = shown;
  if (!page) return;
  const last = page.offset + page.items.length;
  at("products").replaceChildren(...page.items.map(product));
  at("range").textContent = page.total ? say("range", page.offset + 1, last, page.total) : say("noProducts");
  at("previous").disabled = page.offset === 0;
  at("next").disabled = last >= page.total;
}

function product(each) {
  const { brand, price, color, launch_date: launched } = each.metadata;
  const about = [brand, price?.toLocaleString(state.language), color, launched].filter(Boolean).join(" · ");
  return element("li", {},
    picture(each.image_url, words(each)),
    element("strong", {}, each.item_id),
    about ? element("div", {}, about) : null,
    element("p", { class: "tokens" }, words(each)),
    element("div", { class: "acts" },
      button(say("similar"), (made) => findSimilar(each.item_id, made), { "aria-label": say("similarTo", each.item_id) }),
      button(say("delete"), (made) => remove(each.item_id, made), { "aria-label": say("deleteOf", each.item_id) })));
}

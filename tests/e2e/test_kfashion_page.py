"""The dashboard as a person meets it, in headless Chromium: searches by picture and by attributes, and mistakes."""

import shutil
import socket
import threading

import pytest
import uvicorn

from tests.kfashion.run_parts import HEADER, add_evaluation, add_report, add_retrieval, make_run
from tests.kfashion.service_parts import KEY, NUM_PRODUCTS, application, png

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install the package chromium"),
]
PHONE = {"width": 360, "height": 740}
PICTURE = {"name": "photo.png", "mimeType": "image/png", "buffer": png(3)}  # the one of item03
ROWS = "0,2,3.0,2.0,0.1,0.3,0.05,0.2,1.0\n1,4,2.0,1.0,0.2,0.4,0.05,0.3,1.0\n"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    app = application(folder / "catalogue.db")
    app.state.run = make_run(folder / "kfashion_stage2" / "run", metrics=HEADER + ROWS)
    add_retrieval(app.state.run)
    add_report(folder, "study", "kfashion_stage2", 0)
    return app


@pytest.fixture(scope="module")
def address(app):
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """Opens the page; afterwards nothing was asked of another host and the console is silent."""
    contexts, complaints = [], []

    def opened(locale="en-US", viewport=None, until="#fields select"):
        context = browser.new_context(locale=locale, viewport=viewport)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda each: each.url.startswith((address, "blob:")) or complaints.append(each.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda each: each.type in ("error", "warning") and complaints.append(each.text))
        page.complaints = complaints
        page.goto(address)
        page.wait_for_selector(until)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def test_an_upload_brings_products_with_pictures_and_scores(visit):
    page = visit()
    page.get_by_label("Lowest score").fill("-1")
    page.set_input_files("#file", PICTURE)
    page.get_by_role("button", name="Find similar products").click()
    page.wait_for_selector("#results li")
    assert page.locator("#status").inner_text().startswith("5 products found.")
    first = page.locator("#results li").first
    assert "1.000" in first.inner_text()  # the picture is one of the catalogue's
    for picture in page.locator("#results img").all():
        picture.evaluate("each => each.decode()")  # refuses what is no picture


def test_attributes_are_given_and_taken_back_with_the_keyboard(visit):
    page = visit()
    page.get_by_label("Lowest score").fill("-1")
    style = page.locator("#by-fields").get_by_label("Style")
    for token in ("모던", "레트로"):
        style.fill(token)
        style.press("Enter")
    page.get_by_role("button", name="Remove 모던").press("Enter")
    assert page.evaluate("document.activeElement.id") == "field-style"
    with page.expect_request("**/api/recommend/style") as asked:
        page.get_by_role("button", name="Find matching products").press("Enter")
    assert asked.value.post_data_json["style_description"] == {"style": ["레트로"]}
    assert asked.value.post_data_json["options"] == {"top_k": 5, "similarity_threshold": -1}
    page.wait_for_selector("#results li")
    assert page.locator("#results li").count() == 5


def test_pictures_of_best_sellers_bring_new_products_and_what_they_have_in_common(visit):
    page = visit()
    page.get_by_label("Lowest score").fill("-1")
    page.set_input_files("#sellers", [PICTURE, {**PICTURE, "name": "other.png", "buffer": png(4)}])
    with page.expect_response("**/api/recommend/top10_to_new*") as asked:
        page.get_by_role("button", name="Find new products like these").click()
    trend = asked.value.json()["trend"]
    more = page.locator("#more")
    expect(more.get_by_role("heading", name="Trend")).to_be_visible()
    shown = [row.split("\t") for row in more.get_by_role("region").first.locator("tbody tr").all_inner_texts()]
    assert {name: int(count) for name, count in shown} == trend["category_counts"]
    assert more.locator("summary").all_inner_texts() == ["photo.png (5)", "other.png (5)"]
    expect(page.locator("#results li")).to_have_count(5)


def test_a_picture_is_put_into_words(visit):
    page = visit()
    page.set_input_files("#file", PICTURE)
    page.get_by_role("button", name="Describe the picture").click()
    rows = page.get_by_role("region", name="Descriptions nearest to the picture").locator("tbody tr")
    expect(rows).to_have_count(2)  # there are two different records in the catalogue
    assert {row.split("\t")[1] for row in rows.all_inner_texts()} == {"레트로", "리조트"}
    assert page.locator("#results li").count() == 0


def test_a_product_leads_to_those_that_are_similar(visit):
    page = visit()
    page.get_by_label("Lowest score").fill("-1")
    with page.expect_response("**/api/recommend/customer_input*") as asked:
        page.get_by_role("button", name="Similar to item05").press("Enter")
    assert asked.value.json()["input_info"]["item_id"] == "item05"
    expect(page.locator("#results li")).to_have_count(5)


def test_a_product_is_added_and_removed_with_a_key_that_is_kept_nowhere(visit):
    page = visit()
    page.get_by_label("API key").fill(KEY)
    page.get_by_text("Add a product", exact=True).press("Enter")
    form = page.locator("#add")
    form.get_by_label("Picture").set_input_files({**PICTURE, "buffer": png(99)})
    form.get_by_label("Item id").fill("mine")
    form.get_by_label("Category").select_option("레트로")
    form.get_by_label("Style").fill("모던")
    form.get_by_label("Style").press("Enter")
    form.get_by_label("Brand").fill("<b>brand")
    form.get_by_label("Price").fill("12000")
    form.get_by_role("button", name="Add").click()
    status = page.locator("#catalogue-status")
    expect(status).to_have_text("mine was added.")
    expect(page.locator("#range")).to_have_text(f"{NUM_PRODUCTS + 1}–{NUM_PRODUCTS + 1} of {NUM_PRODUCTS + 1}")
    (added,) = page.locator("#products li").all()
    assert "<b>brand · 12,000" in added.inner_text()
    assert "레트로, 모던" in added.inner_text()
    assert form.get_by_label("Item id").input_value() == ""
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove mine").press("Enter")
    expect(status).to_have_text("mine was removed.")
    expect(page.locator("#range")).to_have_text(f"1–{NUM_PRODUCTS} of {NUM_PRODUCTS}")  # the last page is gone
    page.reload()
    expect(page.get_by_label("API key")).to_have_value("")


def test_the_catalogue_is_left_alone_without_the_right_key_or_a_yes(visit):
    page = visit()
    failure, remove = page.locator("#catalogue-failure"), page.get_by_role("button", name="Remove item00")
    remove.click()
    expect(failure).to_have_text("Enter the API key first.")
    expect(page.get_by_label("API key")).to_be_focused()
    page.get_by_label("API key").fill("열쇠")  # no header can hold it, so it is not sent
    remove.click()
    expect(failure).to_have_text("The API key is not the one of this service.")
    page.get_by_label("API key").fill("wrong")
    page.once("dialog", lambda dialog: dialog.dismiss())
    remove.click()
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_console_message(lambda message: "401" in message.text):  # Chromium's own word
        remove.click()
    expect(failure).to_contain_text("The API key is not the one of this service.")
    page.get_by_role("button", name="한국어").click()
    expect(failure).to_contain_text("이 서비스의 API 키가 아닙니다.")
    expect(page.locator("#range")).to_have_text(f"{NUM_PRODUCTS}개 중 1–{NUM_PRODUCTS}")
    page.complaints.clear()


def test_a_catalogue_without_products_says_so(visit):
    page = visit()
    nobody = {"status": "success", "total": 0, "offset": 0, "limit": 12, "items": []}
    page.route("**/api/catalog/new_products*", lambda route: route.fulfill(json=nobody))
    page.get_by_role("button", name="Refresh").click()
    expect(page.locator("#range")).to_have_text("The catalogue is empty. Add a product below.")
    expect(page.locator("#products li")).to_have_count(0)


def test_a_file_of_the_run_that_cannot_be_read_is_named(app, visit):
    file = add_evaluation(app.state.run, "centrality") / "summary.json"
    try:
        page = visit()
        assert "kfashion_centrality/summary.json: timestamp: Field required" in page.locator("#central").inner_text()
    finally:
        file.unlink()


def test_a_file_that_is_no_picture_is_explained_in_the_language_of_the_page(visit):
    page = visit("ko-KR")
    page.set_input_files("#file", {"name": "photo.png", "mimeType": "image/png", "buffer": b"no picture"})
    with page.expect_console_message(lambda message: "415" in message.text):  # Chromium's own word
        page.get_by_role("button", name="비슷한 상품 찾기").click()
    page.wait_for_selector("#failure:not([hidden])")
    alert = page.locator("#failure").inner_text()
    assert "사진으로 읽을 수 없습니다" in alert
    assert "req_" in alert
    page.get_by_role("button", name="English").click()
    assert "cannot be read as a picture" in page.locator("#failure").inner_text()
    page.complaints.clear()


def test_what_is_left_out_is_asked_for_before_anything_is_sent(visit):
    page = visit()
    page.get_by_role("button", name="Find similar products").click()
    assert page.locator("#failure").inner_text() == "Choose a picture first."
    page.get_by_role("button", name="Find matching products").click()
    assert page.locator("#failure").inner_text() == "Give at least one attribute."
    page.locator("#by-fields").get_by_label("Detail").fill("날개")
    page.get_by_role("button", name="Find matching products").click()
    assert "“날개” is not in the vocabulary" in page.locator("#failure").inner_text()


def test_a_score_that_nothing_reaches_is_told_as_an_empty_result(visit):
    page = visit()
    page.get_by_label("Lowest score").fill("1")
    page.locator("#by-fields").get_by_label("Category").select_option("레트로")
    page.get_by_role("button", name="Find matching products").click()
    page.get_by_text("No product reaches this score.").wait_for()
    assert page.locator("#results li").count() == 0


def test_figures_curves_and_tuning_are_shown_and_what_is_missing_is_named(visit):
    page = visit()
    assert "50.0 %" in page.locator("#kpi").inner_text()
    assert "95 %: 25.0 % to 75.0 %" in page.locator("#kpi").inner_text()
    assert page.locator("#curves svg[role=img]").count() == 3
    assert "training: 3 → 2" in page.locator("#curves svg[role=img]").first.get_attribute("aria-label")
    assert "Best val/hit_at_5: 0.75" in page.locator("#tuning").inner_text()
    assert "analysis=kfashion/centrality" in page.locator("#central .empty").inner_text()


def test_both_languages_have_the_same_labels_and_all_that_the_page_asks_for(visit):
    page = visit()
    english, korean = page.evaluate("import('/page/labels.js').then(m => [m.LABELS.en, m.LABELS.ko].map(Object.keys))")
    assert english == korean
    asked = page.evaluate("[...document.querySelectorAll('[data-label]')].map(each => each.dataset.label)")
    assert set(asked) <= set(english)


def test_the_language_is_remembered(visit):
    page = visit("en-US")
    page.get_by_role("button", name="한국어").click()
    page.reload()
    page.wait_for_selector("#fields select")
    assert page.title() == "K-패션 대시보드"
    assert page.locator("html").get_attribute("lang") == "ko"
    assert page.get_by_role("button", name="한국어").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("locale", ["en-US", "ko-KR"])
def test_a_phone_needs_no_scrolling_sideways(visit, locale):
    page = visit(locale, PHONE)
    page.locator("#threshold").fill("-1")
    page.set_input_files("#sellers", [PICTURE, PICTURE])
    page.locator("#by-trend button").click()
    page.locator("#more table").first.wait_for()
    page.locator("#adding summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_first_key_leads_past_the_navigation(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_while_the_models_load_the_figures_are_shown_and_the_search_follows(app, visit):
    loaded, app.state.recommender = app.state.recommender, None
    try:
        page = visit(until="#kpi dl")
        assert "still starting" in page.locator("#problem").inner_text()
        assert "50.0 %" in page.locator("#kpi").inner_text()
    finally:
        app.state.recommender = loaded
    page.wait_for_selector("#fields select")
    assert page.locator("#problem").is_hidden()
    page.complaints[:] = [each for each in page.complaints if "503" not in each]


def test_a_service_that_stops_answering_is_reported_and_the_page_recovers(visit):
    page = visit()
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    page.get_by_text("The service does not answer.").wait_for()
    assert "50.0 %" in page.locator("#kpi").inner_text()  # what was known stays
    page.context.set_offline(False)
    page.get_by_role("button", name="Refresh").click()
    page.locator("#problem").wait_for(state="hidden")
    page.complaints[:] = [each for each in page.complaints if "ERR_INTERNET_DISCONNECTED" not in each]

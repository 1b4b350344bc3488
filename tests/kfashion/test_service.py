"""The recommendation service over HTTP: what it finds, keeps, refuses, and measures."""

import asyncio
import io
import struct
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from kfashion.service.app import Settings, create_app
from kfashion.service.embedding import Batcher
from tests.kfashion.service_parts import KEY, NUM_PRODUCTS, application, picture, png, stored

pytestmark = pytest.mark.slow

STYLE, NEW, CUSTOMER = "/api/recommend/style", "/api/recommend/top10_to_new", "/api/recommend/customer_input"
PRODUCTS = "/api/catalog/new_products"
ALL = {"similarity_threshold": -1, "top_k": 20}
HEADERS = {"X-API-Key": KEY}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return application(tmp_path_factory.mktemp("service") / "catalogue.db")


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app) as client:
        yield client


@pytest.fixture
def changing(tmp_path):
    """A client whose catalogue a test may change."""
    with TestClient(application(tmp_path / "catalogue.db")) as client:
        yield client


def described(**fields):
    return {"style_description": fields, "options": ALL}


def upload(raw, name="photo.png"):
    return ("file", (name, raw, "application/octet-stream"))


def ids(response):
    assert response.status_code == 200, response.text
    return [each["item_id"] for each in response.json()["recommendations"]]


def refused(response, status, code):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"status", "error_code", "error_message", "details", "request_id", "timestamp"}
    assert (body["status"], body["error_code"]) == ("error", code)
    assert response.headers["x-request-id"] == body["request_id"]
    return body["error_message"]


def test_scores_of_a_description_are_the_cosines_with_the_vectors_of_the_catalogue(client, app):
    service = app.state.recommender
    record = {"category": "레트로", "style": ["모던"], "silhouette": None, "material": [], "detail": []}
    body = client.post(STYLE, json=described(category="레트로", style=["모던"])).json()
    vector = service._encode([record])[0]
    expected = {f"item{number:02d}": float(vector @ stored(number).vector) for number in range(NUM_PRODUCTS)}
    found = {each["item_id"]: each["similarity_score"] for each in body["recommendations"]}
    assert found == pytest.approx(expected, abs=2e-6)
    scores = [each["similarity_score"] for each in body["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    assert body["input_info"]["input_type"] == "json"
    assert body["recommendations"][0]["metadata"]["brand"] == "무명"


def test_an_uploaded_picture_finds_itself_and_its_second_answer_is_the_same_from_the_cache(client):
    first, second = (client.post(CUSTOMER, files=[upload(png(3))], data=ALL).json() for _ in range(2))
    assert first["recommendations"][0]["item_id"] == "item03"
    assert first["recommendations"][0]["similarity_score"] == pytest.approx(1, abs=1e-4)
    assert first["recommendations"] == second["recommendations"]
    assert [each["performance_metrics"]["cache_hit"] for each in (first, second)] == [False, True]
    assert first["input_info"]["image_size"] == [96, 120]


def test_a_clicked_item_does_not_find_itself_nor_its_owners(client):
    found = ids(client.post(CUSTOMER, data={"item_id": "item04", **ALL}))
    assert sorted(found) == [f"item{number:02d}" for number in range(NUM_PRODUCTS) if number not in (4, 5)]


def test_a_top_seller_may_be_asked_with_but_is_never_found(client):
    found = ids(client.post(NEW, data={"item_id": "item12", **ALL}))
    assert len(found) == NUM_PRODUCTS
    assert "item12" not in found


def test_excluded_products_are_left_out(client):
    found = ids(client.post(CUSTOMER, files=[upload(png(3))], data={"exclude_ids": ["item03", "item00"], **ALL}))
    assert len(found) == NUM_PRODUCTS - 2
    assert not {"item03", "item00"} & set(found)


def test_options_hold_in_the_address_as_in_the_form(client):
    files = [upload(png(3))]
    for response in (
        client.post(
            CUSTOMER, files=files, params={"top_k": 2, "similarity_threshold": -1, "category_filter": "레트로"}
        ),
        client.post(CUSTOMER, files=files, data={"top_k": 2, "similarity_threshold": -1, "category_filter": "레트로"}),
    ):
        assert {each["category"] for each in response.json()["recommendations"]} == {"레트로"}
        assert len(ids(response)) == 2
    assert ids(client.post(CUSTOMER, files=files, data={"similarity_threshold": 0.999})) == ["item03"]


def test_several_pictures_have_a_list_each_and_a_trend_over_all(client):
    numbers = (0, 2, 3)
    body = client.post(
        NEW, files=[upload(png(number)) for number in numbers], data={"similarity_threshold": 0.99}
    ).json()
    assert [[each["item_id"] for each in image["recommendations"]] for image in body["images"]] == [
        ["item00"], ["item02"], ["item03"]
    ]  # fmt: skip
    assert {each["item_id"] for each in body["recommendations"]} == {"item00", "item02", "item03"}
    trend = body["trend"]
    assert trend["category_counts"] == {"레트로": 2, "리조트": 1}
    assert trend["anchor_source"] == "sales"
    lift = next(row for row in trend["attribute_lift"] if (row["field"], row["token"]) == ("category", "레트로"))
    assert (lift["share_in_results"], lift["share_in_catalog"]) == pytest.approx((2 / 3, 1 / 2))
    assert lift["lift"] == pytest.approx(4 / 3)
    assert trend["mean_similarity"] == pytest.approx(1, abs=1e-4)


def test_a_picture_is_described_by_the_records_nearest_to_it(client, app):
    body = client.post("/api/recommend/attributes", files=[upload(png(1))]).json()
    service = app.state.recommender
    assert {each["category"] for each in body["records"]} == {"레트로", "리조트"}
    for each in body["records"]:
        record = {name: each[name] for name in ("category", "style", "silhouette", "material", "detail")}
        expected = float(service._encode([record])[0] @ stored(1).vector)
        assert each["similarity_score"] == pytest.approx(expected, abs=1e-5)


def test_an_added_product_is_found_listed_and_shown_and_a_removed_one_is_not(changing):
    data = {"item_id": "코트-1", "category": "레트로", "style": ["모던"], "price": "39000", "launch_date": "2026-09-01"}
    added = changing.post(PRODUCTS, files=[upload(png(50))], headers=HEADERS, data=data)
    assert added.status_code == 201, added.text
    assert added.json()["metadata"] == {"brand": None, "price": 39000, "color": None, "launch_date": "2026-09-01"}
    assert ids(changing.post(CUSTOMER, files=[upload(png(50))]))[0] == "코트-1"
    page = changing.get(PRODUCTS, params={"offset": NUM_PRODUCTS}).json()
    assert (page["total"], [each["item_id"] for each in page["items"]]) == (NUM_PRODUCTS + 1, ["코트-1"])
    shown = changing.get(added.json()["image_url"])
    assert Image.open(io.BytesIO(shown.content)).format == "JPEG"
    assert changing.delete(f"{PRODUCTS}/코트-1", headers=HEADERS).status_code == 200
    assert "코트-1" not in ids(changing.post(CUSTOMER, files=[upload(png(50))], data=ALL))
    refused(changing.get(added.json()["image_url"]), 404, "ITEM_NOT_FOUND")
    refused(changing.delete(f"{PRODUCTS}/코트-1", headers=HEADERS), 404, "ITEM_NOT_FOUND")


def test_a_name_is_given_once_and_changes_need_the_key(changing):
    again = {"files": [upload(png(1))], "data": {"item_id": "item01", "category": "레트로"}}
    assert "item01" in refused(changing.post(PRODUCTS, **again, headers=HEADERS), 409, "ITEM_EXISTS")
    refused(changing.post(PRODUCTS, **again), 401, "UNAUTHORIZED")
    refused(changing.delete(f"{PRODUCTS}/item01", headers={"X-API-Key": "another"}), 401, "UNAUTHORIZED")
    assert changing.get(PRODUCTS).json()["total"] == NUM_PRODUCTS


@pytest.mark.parametrize("item_id", ["../catalogue.db", "a/b", "..\\x", "a b", "x" * 129])
def test_names_that_could_be_paths_are_refused(changing, item_id):
    data = {"item_id": item_id, "category": "레트로"}
    response = changing.post(PRODUCTS, files=[upload(png(60))], data=data, headers=HEADERS)
    told = refused(response, 422, "VALIDATION_ERROR")
    assert "without spaces" in told or "128 characters" in told


def test_neither_and_both_of_picture_and_item_are_bad_requests(client):
    for path in (NEW, CUSTOMER, "/api/recommend/attributes"):
        refused(client.post(path), 400, "BAD_REQUEST")
        refused(client.post(path, files=[upload(png(1))], data={"item_id": "item01"}), 400, "BAD_REQUEST")
        refused(client.post(path, data={"item_id": "nobody"}), 404, "ITEM_NOT_FOUND")
    refused(client.post(STYLE), 400, "BAD_REQUEST")
    refused(client.post(STYLE, content=b"{", headers={"content-type": "application/json"}), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "body",
    [
        described(), described(style=["모던"] * 11), described(style=["x" * 51]), described(colour="red"),
        {"style_description": {"style": ["모던"]}, "options": {"top_k": 21}},
        {"style_description": {"style": ["모던"]}, "options": {"similarity_threshold": 1.1}},
    ],
)  # fmt: skip
def test_descriptions_that_break_a_limit_are_refused(client, body):
    refused(client.post(STYLE, json=body), 422, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("body", "status"),
    [(rb'{"style_description":{"style":["\ud800"]}}', 422), (rb'{"style_description":{"\ud800":1}}', 422),
     (b'{"style_description":{"style":["a"]},"options":{"similarity_threshold":NaN}}', 422), (b"[" * 50_000, 400),
     (b'{"style_description":{"category":' + b"9" * 5000 + b"}}", 400), (b"\xff\xfe{}", 400)],
    ids=["surrogate", "surrogate key", "nan", "deep", "huge number", "not utf-8"],
)  # fmt: skip
def test_hostile_json_is_refused(client, body, status):
    response = client.post(STYLE, content=body, headers={"content-type": "application/json"})
    refused(response, status, "BAD_REQUEST" if status == 400 else "VALIDATION_ERROR")


def test_what_is_sent_as_the_wrong_kind_is_told_plainly(client):
    told = refused(client.post(STYLE, content=b"{}", headers={"content-type": "text/plain"}), 422, "VALIDATION_ERROR")
    assert "Content-Type: application/json" in told
    told = refused(client.post(CUSTOMER, data={"file": "text"}), 422, "VALIDATION_ERROR")
    assert told == "body.file.0: Need a file"
    refused(client.get("/health/"), 404, "NOT_FOUND")


def test_an_unknown_token_is_answered_with_the_nearest(client):
    assert "Did you mean 레트로" in refused(client.post(STYLE, json=described(style=["레트"])), 422, "VALIDATION_ERROR")


def header_of_png(width, height):
    """A PNG whose header tells a size that its data do not have."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "raw",
    [b"no picture", b"%PDF-1.4", png(1)[:-40], header_of_png(100, 100), b"\xff\xd8\xff\xe0" + b"\0" * 64,
     b"GIF89a" + b"\xff" * 50, b"RIFF\xff\xff\xff\x7fWEBPVP8 "],
    ids=["text", "pdf", "truncated", "hollow", "jpeg", "gif", "webp"],
)  # fmt: skip
def test_bytes_that_are_no_whole_picture_are_unsupported(client, raw):
    refused(client.post(CUSTOMER, files=[upload(raw)]), 415, "UNSUPPORTED_MEDIA")


@pytest.mark.parametrize("side", [6400, 20_000, 60_000])
def test_pictures_of_too_many_pixels_are_not_decoded(client, side):
    refused(client.post(CUSTOMER, files=[upload(header_of_png(side, side))]), 413, "PAYLOAD_TOO_LARGE")


def test_files_and_requests_have_a_size_limit_told_or_not(tmp_path):
    with TestClient(application(tmp_path / "a.db", max_file_bytes=20_000, max_body_bytes=60_000)) as client:
        refused(client.post(CUSTOMER, files=[upload(b"0" * 20_001)]), 413, "PAYLOAD_TOO_LARGE")
        refused(client.post(CUSTOMER, files=[upload(b"0" * 70_000)]), 413, "PAYLOAD_TOO_LARGE")
        untold = (b"0" * 10_000 for _ in range(7))
        headers = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post(CUSTOMER, content=untold, headers=headers), 413, "PAYLOAD_TOO_LARGE")
        refused(client.post(CUSTOMER, files=[upload(b"")]), 400, "BAD_REQUEST")


def test_a_client_that_asks_too_often_is_told_to_wait(tmp_path):
    with TestClient(application(tmp_path / "a.db", rate=3)) as client:
        codes = [client.get("/ready").status_code for _ in range(8)]
        assert codes[:3] == [200] * 3
        assert 429 in codes
        refused(client.get("/ready"), 429, "RATE_LIMITED")


def test_before_anything_is_loaded_it_is_not_ready():
    with TestClient(create_app(Settings(KEY))) as client:
        assert client.get("/health").json()["status"] == "degraded"
        assert client.get("/health").status_code == 503
        for path in ("/ready", PRODUCTS, "/metrics", "/images/item01"):
            refused(client.get(path), 503, "NOT_READY")


def test_a_bug_is_told_without_its_trace(tmp_path, monkeypatch):
    app = application(tmp_path / "a.db")

    async def broken(record):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(app.state.recommender, "from_record", broken)
    with TestClient(app) as client:
        message = refused(client.post(STYLE, json=described(style=["모던"])), 500, "INTERNAL")
    assert "secret" not in message


def test_unknown_addresses_and_methods_are_errors_of_the_same_form(client):
    refused(client.get("/api/nothing"), 404, "NOT_FOUND")
    refused(client.put(STYLE), 405, "METHOD_NOT_ALLOWED")
    assert client.get("/docs").status_code == 404


def test_other_origins_are_allowed_nothing(client):
    response = client.get("/health", headers={"origin": "http://elsewhere.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_figures_are_measured_and_unknown_ones_are_null(tmp_path):
    app = application(tmp_path / "a.db")
    with TestClient(app) as client:
        before = app.state.recommender.metrics.snapshot()
        assert before["cache_hit_rate"] is None
        assert before["latency_ms"]["search"] == {"p50": None, "p95": None, "p99": None}
        for _ in range(2):
            client.post(CUSTOMER, files=[upload(png(3))])
        client.post(CUSTOMER, files=[upload(png(99))], data={"similarity_threshold": 1})
        client.get("/api/nothing")
        after, text = app.state.recommender.metrics.snapshot(), client.get("/metrics").text
    assert (after["request_count"], after["client_errors"], after["server_errors"]) == (4, 1, 0)
    assert after["cache_hit_rate"] == pytest.approx(1 / 3)
    assert after["empty_result_share"] == pytest.approx(1 / 3)
    assert after["mean_top_1_similarity"] == pytest.approx(1, abs=1e-4)
    assert after["embedding_norm_range"] == pytest.approx([1, 1], abs=1e-5)
    assert after["latency_ms"]["total"]["p99"] >= after["latency_ms"]["total"]["p50"] > 0
    assert "kfashion_recommendations_total 3.0" in text
    assert f"kfashion_products {NUM_PRODUCTS:.1f}" in text


def test_waiting_queries_are_worked_on_together_and_each_gets_its_own_answer():
    sizes = []

    def square(numbers):
        sizes.append(len(numbers))
        return [number**2 for number in numbers]

    async def ask():
        batcher = Batcher(square, 8)
        return await asyncio.gather(*(batcher(number) for number in range(20)))

    assert asyncio.run(ask()) == [number**2 for number in range(20)]
    assert max(sizes) == 8
    assert len(sizes) == 4  # the first alone, then 8, 8 and 3


def test_what_breaks_a_batch_is_raised_for_all_of_it_and_the_next_goes_on():
    def fragile(numbers):
        return [1 // number for number in numbers]

    async def ask():
        batcher = Batcher(fragile, 1)
        return await asyncio.gather(*(batcher(number) for number in (0, 1)), return_exceptions=True)

    broken, fine = asyncio.run(ask())
    assert isinstance(broken, ZeroDivisionError)
    assert fine == 1


def test_every_upload_is_stored_without_what_its_file_told_beyond_the_pixels(changing):
    buffer = io.BytesIO()
    image, exif = picture(70), Image.Exif()
    exif[0x010E] = "private words"
    image.save(buffer, "JPEG", exif=exif, comment=b"private words")
    data = {"item_id": "new", "category": "레트로"}
    assert changing.post(PRODUCTS, files=[upload(buffer.getvalue())], data=data, headers=HEADERS).status_code == 201
    assert b"private" not in changing.get("/images/new").content


def test_vectors_of_uploads_have_length_one(client, app):
    vector = app.state.recommender.embedder
    found = asyncio.run(vector.embed(png(5)))[0]
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)

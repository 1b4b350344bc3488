"""The HTTP application: what each address takes, answers and refuses. Source: kfashion specification, section 7."""

import asyncio
import hmac
import secrets
import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Path, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from kfashion.fields import FIELDS, MULTI
from kfashion.garments import words
from kfashion.service import schemas
from kfashion.service.catalogue import ItemExists, Product, Record, Stored
from kfashion.service.dashboard import router as dashboard
from kfashion.service.embedding import NotAnImage, TooManyPixels
from kfashion.service.guard import Guard, error_response, request_id
from kfashion.service.recommend import Asked, ItemMissing, Listed, Recommender, UnknownToken, Wanted

VERSION = "1.0.0"
MOST_FILES = 10
MOST_TOLD = 20  # mistakes of one request
CLEARER = {  # than pydantic's messages, by the kind of mistake
    "string_pattern_mismatch": "Need a name without spaces, control characters or any of / \\ ? # % &; no dot first",
    "model_attributes_type": "Need a JSON object, sent with the header Content-Type: application/json",
    "value_error": "Need a file",
}
TREND, PERSONAL = "internal_trend_analysis", "personalized_customer_recommendation"
STATUS_CODES = {
    400: "BAD_REQUEST", 401: "UNAUTHORIZED", 404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA", 422: "VALIDATION_ERROR", 429: "RATE_LIMITED", 503: "NOT_READY",
}  # fmt: skip
ERRORS = {status: {"model": schemas.ErrorResponse} for status in (400, 404, 413, 415, 422, 429, 500, 503)}
KEYED = {401: {"model": schemas.ErrorResponse}, 409: {"model": schemas.ErrorResponse}}


class Problem(HTTPException):
    """What a client did wrong, or we cannot do now; becomes an error response."""

    def __init__(self, status: int, message: str, code: str | None = None, details: dict[str, Any] | None = None):
        super().__init__(status, message)
        self.code, self.details = code or STATUS_CODES[status], details


@dataclass(frozen=True)
class Settings:
    """Limits of the service.

    Attributes:
        api_key: that changes of the catalogue must bring.
        max_file_bytes: of one picture.
        max_body_bytes: of one request.
        max_plain_bytes: of one without files, which is read as a whole before it is checked.
        rate: requests per second and client, on the average of a second; 0 for any number.
        hosts: names that requests may be addressed to; none for any. Without them a web page whose name is made to
            point here could read all answers.
    """

    api_key: str
    max_file_bytes: int = 10 * 2**20
    max_body_bytes: int = 20 * 2**20
    max_plain_bytes: int = 2**16
    rate: float = 500
    hosts: frozenset[str] = frozenset()


def create_app(settings: Settings, recommender: Recommender | None = None) -> FastAPI:
    """The application; without a recommender it answers 503 until `app.state.recommender` is set."""
    app = FastAPI(
        title="K-Fashion recommendations", version=VERSION, docs_url=None, redoc_url=None, responses=ERRORS,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,  # a redirection goes to wherever the client's Host header says
    )  # fmt: skip
    app.state.settings, app.state.recommender = settings, recommender
    app.include_router(router)
    app.include_router(dashboard)
    app.add_middleware(Guard, state=app.state)
    for kind, handler in ((HTTPException, _told), (RequestValidationError, _invalid)):
        app.add_exception_handler(kind, handler)
    for kind, status, code in (
        (NotAnImage, 415, "UNSUPPORTED_MEDIA"), (TooManyPixels, 413, "PAYLOAD_TOO_LARGE"),
        (ItemMissing, 404, "ITEM_NOT_FOUND"), (ItemExists, 409, "ITEM_EXISTS"), (UnknownToken, 422, "VALIDATION_ERROR"),
    ):  # fmt: skip
        app.add_exception_handler(kind, partial(_known, status, code))
    return app


async def ready(request: Request) -> Recommender:
    """Raises Problem 503 while nothing is loaded."""
    if request.app.state.recommender is None:
        raise Problem(503, "The models and the index are being loaded; ask again in a moment.")
    return request.app.state.recommender


async def key_holder(request: Request, x_api_key: Annotated[str, Header()] = "") -> None:
    """Raises Problem 401 without the key that was told or made at the start."""
    if not hmac.compare_digest(x_api_key.encode(), request.app.state.settings.api_key.encode()):
        raise Problem(401, "Changes of the catalogue need the header X-API-Key with the key of this service.")


async def wanted(
    top_k: Annotated[schemas.TopK | None, Query()] = None,
    similarity_threshold: Annotated[schemas.Threshold | None, Query()] = None,
    category_filter: Annotated[list[schemas.Token], Query(max_length=50)] = [],  # noqa: B006 (FastAPI copies it)
    form_top_k: Annotated[schemas.TopK | None, Form(alias="top_k")] = None,
    form_threshold: Annotated[schemas.Threshold | None, Form(alias="similarity_threshold")] = None,
    form_filter: Annotated[list[schemas.Token], Form(alias="category_filter", max_length=50)] = [],  # noqa: B006
) -> Wanted:
    """The options of a form, of the address, or the defaults, in this order."""
    return Wanted(
        _first(form_top_k, top_k, schemas.DEFAULT_TOP_K),
        _first(form_threshold, similarity_threshold, schemas.DEFAULT_THRESHOLD),
        frozenset(words(form_filter or category_filter)),
    )


Ready = Annotated[Recommender, Depends(ready)]
Choice = Annotated[Wanted, Depends(wanted)]
Name = Annotated[str, Path(min_length=1, max_length=128, pattern=schemas.ITEM_ID)]
FormId = Annotated[schemas.ItemId | None, Form(alias="item_id")]
QueryId = Annotated[schemas.ItemId | None, Query()]
router = APIRouter()


@router.post("/api/recommend/top10_to_new", response_model=schemas.TrendResponse, tags=["recommend"])
async def top10_to_new(
    service: Ready,
    request: Request,
    choice: Choice,
    file: Annotated[list[UploadFile], File(max_length=MOST_FILES)] = [],  # noqa: B006
    form_item_id: FormId = None,
    item_id: QueryId = None,
) -> schemas.TrendResponse:
    """New products like those that sell best, by their pictures or by one item of the catalogue."""
    begin = time.perf_counter()
    name = _one_of(file, form_item_id or item_id)
    service.check_categories(sorted(choice.categories))
    if name is not None:
        asked, infos = [await service.from_item(name)], [_info("clicked_item", TREND, item_id=name)]
    else:
        asked = await asyncio.gather(*(_from_upload(service, each, request) for each in file))
        infos = [
            _info("top10_product_image", TREND, file_name=each.filename, size=found.size)
            for each, found in zip(file, asked)
        ]
    lists = await asyncio.gather(*(service.recommend(one, choice) for one in asked))
    merged = _merged(lists, choice.top_k)
    trend = service.trend([product for product, _ in merged.products], [score for _, score in merged.products])
    return schemas.TrendResponse(
        request_id=request_id(request),
        input_info=infos[0],
        recommendations=_recommendations(merged, TREND),
        performance_metrics=_performance(begin, merged, all(one.hit for one in asked)),
        images=[
            schemas.ImageRecommendations(input_info=info, recommendations=_recommendations(listed, TREND))
            for listed, info in zip(lists, infos)
        ],
        trend=schemas.Trend(**trend, anchor_source="sales" if file else "centrality"),
    )


@router.post("/api/recommend/customer_input", response_model=schemas.RecommendResponse, tags=["recommend"])
async def customer_input(
    service: Ready,
    request: Request,
    choice: Choice,
    file: Annotated[list[UploadFile], File(max_length=1)] = [],  # noqa: B006
    form_item_id: FormId = None,
    item_id: QueryId = None,
    exclude_ids: Annotated[list[schemas.ItemId], Form(max_length=100)] = [],  # noqa: B006
) -> schemas.RecommendResponse:
    """New products like a customer's picture, or like the product that was clicked."""
    begin = time.perf_counter()
    name = _one_of(file, form_item_id or item_id)
    service.check_categories(sorted(choice.categories))
    if name is not None:
        asked, info = await service.from_item(name), _info("clicked_item", PERSONAL, item_id=name)
    else:
        asked = await _from_upload(service, file[0], request)
        info = _info("customer_input_image", PERSONAL, file_name=file[0].filename, size=asked.size)
    asked = replace(asked, excluded=asked.excluded | frozenset(exclude_ids))
    return await _answer(service, request, begin, asked, choice, info)


@router.post("/api/recommend/style", response_model=schemas.RecommendResponse, tags=["recommend"])
async def style(service: Ready, request: Request, body: schemas.StyleRequest) -> schemas.RecommendResponse:
    """New products that look as a description says: attributes → images."""
    begin = time.perf_counter()
    record = body.style_description.model_dump()
    if not any(record.values()):
        raise Problem(422, "style_description: names no attribute; give at least one.")
    options = body.options
    choice = Wanted(options.top_k, options.similarity_threshold, frozenset(words(options.category_filter)))
    service.check_categories(sorted(choice.categories))
    asked = await service.from_record(record)
    return await _answer(service, request, begin, asked, choice, _info("json", PERSONAL))


@router.post("/api/recommend/attributes", response_model=schemas.AttributesResponse, tags=["recommend"])
async def attributes(
    service: Ready,
    request: Request,
    file: Annotated[list[UploadFile], File(max_length=1)] = [],  # noqa: B006
    item_id: FormId = None,
    top_k: Annotated[schemas.TopK, Form()] = schemas.DEFAULT_TOP_K,
) -> schemas.AttributesResponse:
    """The descriptions that fit a picture best: image → attributes."""
    begin = time.perf_counter()
    name = _one_of(file, item_id)
    if name is not None:
        asked, info = await service.from_item(name), _info("clicked_item", PERSONAL, item_id=name)
    else:
        asked = await _from_upload(service, file[0], request)
        info = _info("customer_input_image", PERSONAL, file_name=file[0].filename, size=asked.size)
    before = time.perf_counter()
    found = await service.describe(asked, top_k)
    listed = Listed([], {"embedding": asked.seconds, "search": time.perf_counter() - before})
    return schemas.AttributesResponse(
        request_id=request_id(request),
        input_info=info,
        records=[schemas.RecordMatch(**_fields(record), similarity_score=score) for record, score in found],
        performance_metrics=_performance(begin, listed, asked.hit),
    )


@router.get("/api/catalog/new_products", response_model=schemas.ProductPage, tags=["catalog"])
def list_products(
    service: Ready,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.ProductPage:
    """New products in the order in which they were added."""
    items = [_product(each) for each in service.store.page(offset, limit)]
    return schemas.ProductPage(total=service.store.count(), offset=offset, limit=limit, items=items)


@router.get("/api/catalog/new_products/{item_id}", response_model=schemas.ProductResponse, tags=["catalog"])
def one_product(service: Ready, item_id: Name) -> schemas.ProductResponse:
    return _product(_found(service, item_id))


@router.post(
    "/api/catalog/new_products", response_model=schemas.ProductResponse, status_code=201, tags=["catalog"],
    dependencies=[Depends(key_holder)], responses=KEYED,
)  # fmt: skip
async def add_product(
    service: Ready,
    request: Request,
    file: UploadFile,
    item_id: Annotated[schemas.ItemId | None, Form()] = None,
    category: Annotated[schemas.Token | None, Form()] = None,
    style: Annotated[list[schemas.Token], Form(max_length=10)] = [],  # noqa: B006
    silhouette: Annotated[schemas.Token | None, Form()] = None,
    material: Annotated[list[schemas.Token], Form(max_length=10)] = [],  # noqa: B006
    detail: Annotated[list[schemas.Token], Form(max_length=15)] = [],  # noqa: B006
    brand: Annotated[schemas.Text | None, Form()] = None,
    price: Annotated[str | None, Form(max_length=20)] = None,
    color: Annotated[schemas.Text | None, Form()] = None,
    launch_date: Annotated[str | None, Form(max_length=10)] = None,
) -> schemas.ProductResponse:
    """Add a product: its picture and its attributes. It is on disk and found as soon as this is answered."""
    described = _validated(schemas.StyleDescription, category=category, style=style, silhouette=silhouette,
                           material=material, detail=detail).model_dump()  # fmt: skip
    metadata = _validated(schemas.Metadata, brand=brand, price=price, color=color, launch_date=launch_date)
    service.check_tokens(described)
    async with service.pictures:
        raw = await _content(file, request)
        asked, picture = await service.from_image(raw), await service.embedder.small_jpeg(raw)
    name = item_id or f"new_{secrets.token_hex(8)}"
    product = Product(name, described, owner=name, metadata=metadata.model_dump(mode="json"))
    await run_in_threadpool(service.add, Stored(product, asked.vector, picture))
    return _product(product)


@router.delete(
    "/api/catalog/new_products/{item_id}", response_model=schemas.Removed, tags=["catalog"],
    dependencies=[Depends(key_holder)], responses=KEYED,
)  # fmt: skip
def remove_product(service: Ready, item_id: Name) -> schemas.Removed:
    service.remove(item_id)
    return schemas.Removed(item_id=item_id)


@router.get(
    "/images/{item_id}", tags=["catalog"], response_class=Response,
    responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
def image(service: Ready, item_id: Name) -> Response:
    """The picture of a product, a JPEG."""
    picture = service.store.picture(item_id)
    if picture is None:
        raise ItemMissing(item_id)
    return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})


@router.get("/health", response_model=schemas.Health, responses={503: {"model": schemas.Health}}, tags=["service"])
def health(request: Request, response: Response) -> schemas.Health:
    """What is loaded; 503 while something is missing."""
    service: Recommender | None = request.app.state.recommender
    loaded = service is not None
    response.status_code = 200 if loaded else 503
    return schemas.Health(
        status="healthy" if loaded else "degraded",
        timestamp=_now(),
        models_loaded=schemas.ModelsLoaded(json_encoder=loaded, image_encoder=loaded, index=loaded),
        index=schemas.IndexInfo(count=len(service.index), backend=service.index.backend) if loaded else None,
        version=VERSION,
    )


@router.get("/ready", response_model=schemas.Ready, tags=["service"])
def is_ready(service: Ready) -> schemas.Ready:
    return schemas.Ready()


@router.get("/metrics", response_class=Response, tags=["service"],
            responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})  # fmt: skip
def metrics(service: Ready) -> Response:
    """For Prometheus."""
    return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")


async def _answer(
    service: Recommender, request: Request, begin: float, asked: Asked, choice: Wanted, info: schemas.InputInfo
) -> schemas.RecommendResponse:
    listed = await service.recommend(asked, choice)
    return schemas.RecommendResponse(
        request_id=request_id(request),
        input_info=info,
        recommendations=_recommendations(listed, PERSONAL),
        performance_metrics=_performance(begin, listed, asked.hit),
    )


def _one_of(files: list[UploadFile], item_id: str | None) -> str | None:
    """The item's name; None if there are files instead."""
    if bool(files) == (item_id is not None):
        raise Problem(400, f"Send either file or item_id; {'both were' if files else 'none was'} sent.")
    return item_id


async def _from_upload(service: Recommender, file: UploadFile, request: Request) -> Asked:
    async with service.pictures:
        return await service.from_image(await _content(file, request))


async def _content(file: UploadFile, request: Request) -> bytes:
    limit = request.app.state.settings.max_file_bytes
    raw = await file.read(limit + 1)
    if len(raw) > limit:
        raise Problem(413, f"The file has more than {limit:,} bytes.")
    if not raw:
        raise Problem(400, "The file is empty.")
    return raw


def _merged(lists: list[Listed], top_k: int) -> Listed:
    """Every product once, with its best score; stages add up."""
    best: dict[str, tuple[Product, float]] = {}
    for product, score in (pair for listed in lists for pair in listed.products):
        if product.item_id not in best or score > best[product.item_id][1]:
            best[product.item_id] = (product, score)
    ordered = sorted(best.values(), key=lambda pair: (-pair[1], pair[0].item_id))[:top_k]
    seconds = {stage: sum(listed.seconds[stage] for listed in lists) for stage in ("embedding", "search")}
    return Listed(ordered, seconds)


def _info(
    kind: schemas.InputType, purpose: schemas.Purpose, *, file_name: str | None = None, item_id: str | None = None,
    size: tuple[int, int] | None = None,
) -> schemas.InputInfo:  # fmt: skip
    return schemas.InputInfo(
        input_type=kind, file_name=file_name and file_name[:255], item_id=item_id, image_size=size,
        processed_at=_now(), business_purpose=purpose,
    )  # fmt: skip


def _recommendations(listed: Listed, purpose: schemas.Purpose) -> list[schemas.Recommendation]:
    return [
        schemas.Recommendation(
            item_id=product.item_id, **_fields(product.record), similarity_score=score, image_url=_url(product),
            metadata=schemas.ResultMetadata(
                **schemas.Metadata(**product.metadata).model_dump(),
                is_new_product=product.is_new, business_context=purpose,
            ),
        )
        for product, score in listed.products
    ]  # fmt: skip


def _performance(begin: float, listed: Listed, hit: bool) -> schemas.Performance:
    return schemas.Performance(
        embedding_time_ms=1e3 * listed.seconds["embedding"],
        similarity_search_time_ms=1e3 * listed.seconds["search"],
        total_response_time_ms=1e3 * (time.perf_counter() - begin),
        cache_hit=hit,
    )


def _product(product: Product) -> schemas.ProductResponse:
    return schemas.ProductResponse(
        item_id=product.item_id, **_fields(product.record), image_url=_url(product), is_new_product=product.is_new,
        metadata=schemas.Metadata(**product.metadata), created_at=product.created_at,
    )  # fmt: skip


def _found(service: Recommender, item_id: str) -> Product:
    product = service.store.find([item_id]).get(item_id)
    if product is None or not product.is_new:
        raise ItemMissing(item_id)
    return product


def _fields(record: Record) -> dict[str, Any]:
    return {name: (record[name] or []) if name in MULTI else record[name] for name in FIELDS}


def _validated(model: type, **values: Any) -> Any:
    try:
        return model(**values)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


def _url(product: Product) -> str:
    return f"/images/{quote(product.item_id)}"


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def _told(request: Request, error: HTTPException) -> JSONResponse:
    code = getattr(error, "code", STATUS_CODES.get(error.status_code, "BAD_REQUEST"))
    response = error_response(
        request.scope, error.status_code, code, str(error.detail), getattr(error, "details", None)
    )
    response.headers.update(error.headers or {})
    return response


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    found = [
        {"where": ".".join(map(str, each["loc"])), "what": CLEARER.get(each["type"], each["msg"])}
        for each in error.errors()
    ]
    unread = any(each["type"] == "json_invalid" or (each["type"], each["loc"]) == ("missing", ("body",))
                 for each in error.errors())  # fmt: skip
    message = "; ".join(f"{each['where']}: {each['what']}" for each in found)[:1000]
    status = 400 if unread else 422
    return error_response(request.scope, status, STATUS_CODES[status], message, {"errors": found[:MOST_TOLD]})


def _known(status: int, code: str, request: Request, error: Exception) -> JSONResponse:
    messages = {
        NotAnImage: "The file is no picture that can be decoded to its end (JPEG, PNG, WebP, BMP, GIF), or it is more "
        "than 100 times as long as wide, or a JPEG of more than 50 scans.",
        TooManyPixels: "The picture has more than 40 million pixels.",
        ItemMissing: f"{error}: no such product.",
        ItemExists: f"{error}: a product of this name is in the catalogue; remove it first, or take another name.",
        UnknownToken: str(error),
    }
    return error_response(request.scope, status, code, messages[type(error)])

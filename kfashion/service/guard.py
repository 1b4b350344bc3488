"""What stands before every request: a number for it, limits of rate and size, a measurement, safe headers."""

import logging
import random
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kfashion.service.schemas import ErrorCode, ErrorResponse

log = logging.getLogger(__name__)

MOST_CLIENTS = 10_000
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


def error_response(
    scope: Scope, status: int, code: ErrorCode, message: str, details: dict[str, Any] | None = None
) -> JSONResponse:
    content = ErrorResponse(
        error_code=code,
        error_message=message,
        details=details,
        request_id=scope["request_id"],
        timestamp=datetime.now().astimezone().isoformat(timespec="milliseconds"),
    )
    return JSONResponse(content.model_dump(), status)


def request_id(request: Request) -> str:
    return request.scope["request_id"]


class Guard:
    """Middleware.

    Args:
        state: of the application, with `settings` and `recommender`.
    """

    def __init__(self, app: ASGIApp, state: State):
        self.app, self.state = app, state
        self.clients: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0
        scope["request_id"] = f"req_{int(time.time())}_{random.getrandbits(32):08x}"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_headers(scope["request_id"])]
            await send(message)

        try:
            refusal = self._refusal(scope)
            await (refusal or self.app)(scope, self._bounded(receive, self._limit(scope)), sending)
        except Exception:
            log.exception(f"{scope['request_id']} {scope['method']} {scope['path']!r}")
            message = "Something went wrong here; the log tells more under the request id."
            if not status:
                await error_response(scope, 500, "INTERNAL", message)(scope, receive, sending)
        finally:
            if self.state.recommender is not None:
                route = getattr(scope.get("route"), "path", "(none)")
                method = scope["method"] if scope["method"] in METHODS else "(other)"  # clients may make up any
                self.state.recommender.metrics.request(method, route, status, time.perf_counter() - begin)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        settings, headers = self.state.settings, dict(scope["headers"])
        if settings.hosts and _host(headers.get(b"host", b"")) not in settings.hosts:
            message = "The service is not called so; start it with hosts= to give it other names."
            return error_response(scope, 400, "BAD_REQUEST", message)
        length, limit = headers.get(b"content-length", b"0"), self._limit(scope)
        if length.isdigit() and int(length) > limit:
            return error_response(scope, 413, "PAYLOAD_TOO_LARGE", f"The request has more than {limit:,} bytes.")
        client = scope["client"][0] if scope["client"] else ""
        if settings.rate and not self._admitted(client, settings.rate):
            message = f"More than {settings.rate:g} requests per second; wait a second."
            return error_response(scope, 429, "RATE_LIMITED", message)
        return None

    def _admitted(self, client: str, rate: float) -> bool:
        """A bucket that holds the requests of one second and fills at the rate."""
        now = time.monotonic()
        left, then = self.clients.get(client, (rate, now))
        left = min(rate, left + rate * (now - then))
        if len(self.clients) >= MOST_CLIENTS and client not in self.clients:
            self.clients.clear()
        self.clients[client] = (max(left - 1, 0) if left >= 1 else left, now)
        return left >= 1

    def _limit(self, scope: Scope) -> int:
        kind = dict(scope["headers"]).get(b"content-type", b"")
        settings = self.state.settings
        return settings.max_body_bytes if kind.startswith(b"multipart/") else settings.max_plain_bytes

    def _bounded(self, receive: Receive, limit: int) -> Receive:
        read = 0

        async def receiving() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(413, f"The request has more than {limit:,} bytes.")
            return message

        return receiving


def _host(header: bytes) -> str | None:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(b"//" + header).hostname.decode("ascii")
    except (ValueError, AttributeError):
        return None


def _headers(name: str) -> list[tuple[bytes, bytes]]:
    return [(key.encode(), value.encode()) for key, value in {**HEADERS, "x-request-id": name}.items()]

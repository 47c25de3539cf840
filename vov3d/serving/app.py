"""HTTP for a `Service`: the addresses, the answers, and the errors in JSON."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from vov3d.extras import install

try:
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from prometheus_client import CONTENT_TYPE_LATEST
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise ImportError(f"vov3d.serving needs FastAPI: {install('serve')}") from error

from vov3d.serving import _schema
from vov3d.serving._errors import RefusedError
from vov3d.serving._uploads import HOW, receive
from vov3d.serving.service import Service

__all__ = ["create_app"]

_LOG = logging.getLogger("vov3d.serving")
_LINGER = 2.0  # seconds for which the rest of a refused upload is thrown away, so that the client reads the answer
_MOST_TOPK = 1000
_READ = "vov3d.read"  # in the scope of a request whose body has been read to its end

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def create_app(service: Service, hosts: Sequence[str] | None = None) -> FastAPI:
    """Returns an ASGI application that answers with a service.

    Args:
        service: The service; whoever made it closes it.
        hosts: Names under which the application may be called (`Host`), without ports; any if None. On the loopback
            interface they keep web pages of other sites from calling it through a name of their own.

    Returns:
        The application. Its description is at `/openapi.json`; there is no page that would load scripts.
    """
    app = FastAPI(
        title="vov3d",
        version=version("vov3d"),
        description=f"Labels videos. {HOW}.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # behind a proxy they would lead videos to an address without encryption
    )
    _add_errors(app)
    _add_labels(app, service)
    _add_facts(app, service)
    app.add_middleware(_Frame, service=service, hosts=hosts)
    return app


class _Answer(JSONResponse):
    """An answer in JSON; where the connection is to be closed, the rest of the request is read first.

    Closed with unread bytes, a connection is reset, and many clients then never see the answer.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.headers.get("connection") != "close" or scope.get(_READ):
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while True:
                    message = await receive()
                    if message["type"] != "http.request" or not message.get("more_body"):
                        break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _refusal(error: RefusedError) -> _Answer:
    return _Answer(error.body(), error.status, error.headers())


class _Frame:
    """Checks the host of each request, and notes when its body has been read."""

    def __init__(self, app: Any, service: Service, hosts: Sequence[str] | None) -> None:
        self._app, self._service = app, service
        self._hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] == "http" and "://" in scope["path"]:
            scope = _without_address(scope)
        if scope.get("method") == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}

        async def read() -> Message:
            message = await receive()
            if not message.get("more_body"):
                scope[_READ] = True
            return message

        if scope["type"] == "http" and self._hosts is not None and _host(scope) not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            refused = RefusedError(
                421, "host", f"this service is called by one of the names {names}, see --allow-host", close=True
            )
            await _refusal(refused)(scope, read, send)
            return
        await self._app(scope, read, send)


def _without_address(scope: Any) -> Any:
    """Returns the scope of a request for a whole address, as clients send it to a proxy; its host counts (RFC 9112)."""
    found = re.fullmatch("https?://([^/]+)(/.*)?", scope["path"], re.IGNORECASE)
    if found is None:
        return scope
    others = [(name, value) for name, value in scope["headers"] if name != b"host"]
    path = found[2] or "/"
    host = (b"host", found[1].encode("latin-1", "replace"))
    return {**scope, "path": path, "raw_path": path.encode(), "headers": [host, *others]}


def _host(scope: Any) -> str:
    """Returns the `Host` of a request without its port."""
    given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1").lower()
    if given.startswith("["):
        return "".join(given.partition("]")[:2])
    return given.partition(":")[0]


# --- labels ----------------------------------------------------------------------------------------------------------


def _add_labels(app: FastAPI, service: Service) -> None:
    @app.post(
        "/predict",
        summary="Labels a video",
        responses=_schema.RESPONSES,
        openapi_extra={"requestBody": _schema.REQUEST, "parameters": [_schema.TOPK]},
    )
    async def predict(request: Request) -> Response:
        begun = time.monotonic()
        status, code = 500, "internal"
        try:
            content = await _labelled(request, service, begun)
            status, code = 200, "ok"
            return JSONResponse(content)
        except RefusedError as refused:
            status, code = refused.status, refused.code
            return _refusal(refused)
        except ClientDisconnect:
            status, code = 499, "gone"
            return Response(status_code=499)
        except asyncio.CancelledError:  # the server stops, or the client is gone
            status, code = 499, "gone"
            raise
        finally:
            service.metrics.requests.labels(str(status), code).inc()


async def _labelled(request: Request, service: Service, begun: float) -> dict[str, Any]:
    """Returns the answer to a request for labels."""
    with service.admitted():
        topk = _topk(request)
        with service.uploads.open() as upload:
            try:
                url = await receive(request, upload, service.limits)
                if url is not None:
                    await _until_gone(request, service.fetcher.fetch(url, upload))
            finally:
                service.metrics.bytes.inc(upload.size)
            arrived = time.monotonic() - begun
            content = await _until_gone(request, service.answer(upload.file, topk))
        seconds = {"upload": round(arrived, 4), **content["seconds"], "total": round(time.monotonic() - begun, 4)}
        for stage, value in seconds.items():
            service.metrics.seconds.labels(stage).observe(value)
        return content | {"seconds": seconds}


def _topk(request: Request) -> int | None:
    """Returns the number of labels that is asked for."""
    unknown = sorted(set(request.query_params) - {"topk"})
    if unknown:
        raise RefusedError(400, "bad_option", f"{unknown[0][:60]!a} is no option: topk is the only one", close=True)
    given = request.query_params.getlist("topk")
    if not given:
        return None
    if len(given) > 1:
        raise RefusedError(400, "bad_option", f"topk is given {len(given)} times: give it once", close=True)
    text = given[0]
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= _MOST_TOPK):
        raise RefusedError(
            400, "bad_option", f"topk is {text[:60]!a}: give a number from 1 to {_MOST_TOPK}", close=True
        )
    return int(text)


async def _until_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """Awaits some work, and cancels it when the client closes the connection."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return await working
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Returns when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- facts -----------------------------------------------------------------------------------------------------------


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.get("/", summary="Lists the addresses")
    async def index() -> dict[str, Any]:
        return {
            "vov3d": version("vov3d"),
            "model": service.name,
            "use": HOW,
            "addresses": [
                "/predict",
                "/model",
                "/labels",
                "/health/live",
                "/health/ready",
                "/metrics",
                "/openapi.json",
            ],
        }

    @app.get("/model", summary="Describes the model and the limits of requests")
    async def model() -> dict[str, Any]:
        return described(service)

    @app.get("/labels", summary="Lists the names of the model's outputs, in their order")
    async def labels() -> dict[str, Any]:
        task = service.classifier.task
        return {"task": task.name, "heads": dict(task.heads), "labels": service.classifier.class_names}

    @app.get("/health/live", summary="Tells whether the process answers")
    async def live() -> dict[str, Any]:
        return {"live": True}

    @app.get("/health", include_in_schema=False)
    @app.get("/health/ready", summary="Tells whether new requests are taken (200) or not (503)")
    async def ready() -> Response:
        problem = service.problem()
        content = {"ready": problem is None, "in_work": service.in_work}
        return JSONResponse(content if problem is None else content | {"problem": problem}, 503 if problem else 200)

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics_text(), media_type=CONTENT_TYPE_LATEST)


def described(service: Service) -> dict[str, Any]:
    """Returns the model and the limits of requests, for JSON."""
    classifier, limits = service.classifier, service.limits
    return {
        "model": service.name,
        "task": classifier.task.name,
        "outputs": classifier.task.describe(len(classifier.class_names)),
        "views": "x".join(map(str, classifier.views)),
        "limits": {
            "bytes": limits.max_bytes,
            "seconds_of_video": limits.max_seconds,
            "pixels": limits.max_pixels,
            "requests_in_work": limits.queue,
            "seconds_to_answer": limits.timeout,
            "seconds_to_upload": limits.upload_timeout,
        },
    }


# --- errors ----------------------------------------------------------------------------------------------------------


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def known(request: Request, error: HTTPException) -> Response:
        text = {404: "there is nothing at this address", 405: "this address takes another method"}.get(
            error.status_code, "the request cannot be answered"
        )
        refused = RefusedError(
            error.status_code, "address", f"{text}: see / for a list", close=request.method == "POST"
        )
        answer = _refusal(refused)
        answer.headers.update(dict(error.headers or {}))
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _refusal(RefusedError(400, "bad_request", HOW, close=True))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _refusal(
            RefusedError(
                500, "internal", "the service failed on this request; its log says why: try another", close=True
            )
        )

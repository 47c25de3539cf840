"""The parts of the OpenAPI description that FastAPI cannot see, because bodies are read as they arrive."""

from typing import Any

_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}

_PREDICTION: dict[str, Any] = {
    "type": "object",
    "required": ["label", "index"],
    "properties": {
        "label": _TEXT,
        "index": {"type": "integer"},
        "score": {**_NUMBER, "description": "from 0 to 1; not for regression"},
        "value": {**_NUMBER, "description": "for regression only"},
        "heads": {"type": "object", "description": "the label of each head, for several heads only"},
    },
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "model": _TEXT,
        "task": {"type": "string", "enum": ["single", "multilabel", "regression", "multihead"]},
        "predictions": {"type": "array", "items": _PREDICTION},
        "video": {
            "type": "object",
            "properties": {
                "seconds": _NUMBER,
                "frames": {"type": "integer"},
                "width": {"type": "integer"},
                "height": {"type": "integer"},
            },
        },
        "warnings": {"type": "array", "items": _TEXT},
        "seconds": {
            "type": "object",
            "properties": dict.fromkeys(("upload", "queue", "decode", "model", "total"), _NUMBER),
        },
    },
}
_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "object", "properties": {"code": _TEXT, "message": _TEXT}}},
}
_BINARY = {"type": "string", "format": "binary"}

REQUEST: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}},
        },
        "application/octet-stream": {"schema": _BINARY},
        "video/mp4": {"schema": _BINARY},
        "application/json": {"schema": {"type": "object", "required": ["url"], "properties": {"url": _TEXT}}},
    },
}
"""Body of a request for labels."""

TOPK: dict[str, Any] = {
    "name": "topk",
    "in": "query",
    "required": False,
    "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
    "description": "number of labels; 5 by default, or all above the threshold of a multilabel model",
}
"""Option of a request for labels."""

_ERRORS = {
    400: "malformed request",
    403: "the address is not permitted",
    408: "the upload was too slow",
    413: "too many bytes, seconds or pixels",
    415: "another kind of content",
    422: "the video cannot be decoded",
    429: "too many requests; see Retry-After",
    502: "the host of the address failed",
    503: "the service is stopping, or its disk is full",
    504: "no answer in time",
}

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the labels", "content": {"application/json": {"schema": _ANSWER}}},
    **{
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _ERRORS.items()
    },
}
"""Answers to a request for labels."""

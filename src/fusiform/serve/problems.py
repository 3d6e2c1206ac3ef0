"""Refusals over HTTP: RFC 9457 problem details with the house's what, expected and do."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fusiform.errors import ConfigError, DataError, FusiformError
from fusiform.faces.decode import ImageRefused

MEDIA_TYPE = "application/problem+json"
REFUSED_STATUS = {"too-many-pixels": 413, "unsupported-format": 415, "not-an-image": 415}
"""Of a photo, by the reason of its refusal; 422 for all others."""


class Refused(FusiformError):
    """A request that is refused, with the status that says so.

    Args:
        reason: one word from docs/serve.md.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        what: str,
        *,
        expected: str | None = None,
        do: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what, expected=expected, do=do)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def problem(
    status: int, reason: str, what: str, *, expected: str | None = None, do: str | None = None
) -> dict[str, Any]:
    """The body of a refusal."""
    return {
        "type": f"urn:fusiform:problem:{reason}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": what,
        "reason": reason,
        "expected": expected,
        "do": do,
    }


def of_error(error: FusiformError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers for an error. Errors about the service's own files tell the client nothing of them."""
    if isinstance(error, Refused):
        words = problem(error.status, error.reason, error.what, expected=error.expected, do=error.do)
        return error.status, words, error.headers
    if isinstance(error, ImageRefused):
        status = REFUSED_STATUS.get(error.reason, 422)
        return status, problem(status, error.reason, error.what, expected=error.expected, do=error.do), {}
    if isinstance(error, DataError | ConfigError):
        return 422, problem(422, "cannot-answer", error.what, expected=error.expected, do=error.do), {}
    return 500, problem(500, "internal", "The service failed; its log says why"), {}

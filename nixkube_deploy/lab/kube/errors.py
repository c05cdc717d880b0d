"""What the API server says when it refuses: ``Status`` objects, as every client expects them.

It deliberately knows nothing of HTTP beyond the code and Retry-After.
"""

from dataclasses import dataclass
from typing import Any

Cause = dict[str, str]


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal. ``reason`` is the machine-readable word clients branch on."""

    code: int
    reason: str
    message: str
    causes: tuple[Cause, ...] = ()
    details: dict[str, Any] | None = None
    retry_after: int | None = None

    def status(self) -> dict[str, Any]:
        """The ``Status`` object."""
        details = dict(self.details or {})
        if self.causes:
            details["causes"] = list(self.causes)
        if self.retry_after is not None:
            details["retryAfterSeconds"] = self.retry_after
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        return status | ({"details": details} if details else {})


def retry_header(seconds: int | None) -> dict[str, str]:
    """The header that says when to ask again, if anything is to be said."""
    return {} if seconds is None else {"Retry-After": str(seconds)}


def success(code: int) -> dict[str, Any]:
    """The ``Status`` of something that has no object to show."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}


def not_found(qualified: str, name: str) -> ApiError:
    """404 for an object; ``qualified`` is ``plural[.group]``."""
    kind, _, group = qualified.partition(".")
    details = {"name": name, "kind": kind} | ({"group": group} if group else {})
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', details=details)


def no_such_path() -> ApiError:
    """404 for a path that is no resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def already_exists(qualified: str, name: str) -> ApiError:
    """409 on create."""
    details = {"name": name, "kind": qualified.partition(".")[0]}
    return ApiError(409, "AlreadyExists", f'{qualified} "{name}" already exists', details=details)


def conflict(qualified: str, name: str, why: str) -> ApiError:
    """409 on a write against an object that has moved on."""
    details = {"name": name, "kind": qualified.partition(".")[0]}
    message = f'Operation cannot be fulfilled on {qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, details=details)


def bad_request(message: str) -> ApiError:
    """400."""
    return ApiError(400, "BadRequest", message)


def invalid(message: str) -> ApiError:
    """422."""
    return ApiError(422, "Invalid", message)

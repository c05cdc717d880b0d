"""What is wrong with the server itself: outages, silence, and answers that stand in for its own.

It deliberately knows no object: what is wrong with nodes and pods is in the state they are part of.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from nixkube_deploy.lab.kube.errors import ApiError, retry_header
from nixkube_deploy.lab.kube.http import Request, Response, json_response

PLAIN = "text/plain; charset=utf-8"
EVICTIONS = r"/pods/[^/]+/eviction$"


@dataclass(slots=True, kw_only=True)
class Scripted:
    """An answer to some requests in place of the server's own."""

    status: int
    message: str
    method: str = ""
    """Empty: any."""
    path: str = ""
    """A regular expression that is searched in the path; empty: any."""
    times: int | None = 1
    """So many requests; None: until it is taken away."""
    retry_after: int | None = None
    plain: bool = False
    """In plain text, as flow control and load balancers answer, instead of a ``Status``."""

    def takes(self, request: Request) -> bool:
        """Whether this request gets it; uses up one of its times."""
        if self.times == 0 or self.method not in {"", request.method} or not re.search(self.path, request.path):
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def response(self) -> Response:
        """The answer."""
        if self.plain:
            text, headers = f"{self.message}\n".encode(), retry_header(self.retry_after)
            return Response(status=self.status, body=text, content_type=PLAIN, headers=headers)
        reason = {429: "TooManyRequests", 503: "ServiceUnavailable", 504: "Timeout"}.get(self.status, "InternalError")
        error = ApiError(self.status, reason, self.message, retry_after=self.retry_after)
        return json_response(error.code, error.status(), **retry_header(self.retry_after))


def webhook_fails(times: int | None = None) -> Scripted:
    """Evictions meet an admission webhook that does not answer: 500, and it passes."""
    message = (
        'Internal error occurred: failed calling webhook "evictions.lab.nixkube-deploy.io": failed to call webhook: '
        'Post "https://webhook.kube-system.svc:443/validate?timeout=10s": dial tcp 10.43.0.9:443: connect: '
        "connection refused"
    )
    return Scripted(status=500, message=message, method="POST", path=EVICTIONS, times=times)


def flow_control(times: int | None = None, *, path: str = "", retry_after: int = 1) -> Scripted:
    """429 of API priority and fairness: the code of a budget that blocks, with another meaning and in plain text."""
    message = "Too many requests, please try again later."
    return Scripted(status=429, message=message, path=path, times=times, retry_after=retry_after, plain=True)


@dataclass(slots=True, kw_only=True)
class KubeFaults:
    """What is wrong with the server now. Times are the state's (``KubeState.now``); counts go down as they are used."""

    api_down_until: float = 0.0
    """Connections are reset until then."""
    silent_until: float = 0.0
    """Requests are taken and not answered until then, as over a half-open connection."""
    server_errors: int = 0
    """So many requests are answered 500."""
    throttled: int = 0
    """So many requests are answered 429 in plain text by flow control."""
    delay: float = 0.0
    """Seconds before each answer."""
    retry_after: int = 1
    """What a throttled client is told."""
    scripted: list[Scripted] = field(default_factory=list)
    """Asked in order; the first that takes a request answers it."""

    asked: Callable[[Request], Response | None] = lambda _request: None
    """Asked first, by whoever scripts faults over time."""

    def answer(self, request: Request) -> Response | None:
        """The answer that stands in for the server's own, if any."""
        if (answer := self.asked(request)) is not None:
            return answer
        if self.throttled > 0:
            self.throttled -= 1
            return flow_control(retry_after=self.retry_after).response()
        if self.server_errors > 0:
            self.server_errors -= 1
            message = "Internal error occurred: the lab was told to fail"
            return Scripted(status=500, message=message).response()
        return next((s.response() for s in self.scripted if s.takes(request)), None)

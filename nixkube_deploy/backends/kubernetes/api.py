"""One request to the API server, asked again through restarts and flow control until an answer or a deadline.

Only requests that are safe to repeat come here: reads, conditional writes, evictions. It deliberately does not know
what objects look like.
"""

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
from lightkube.core.exceptions import ConfigError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_before_delay, wait_random_exponential

from nixkube_deploy.backends.kubernetes.answers import denied, refused, words_of
from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.cluster import LeaseConflict

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
"""RFC 7386: lists are replaced whole. A strategic merge would do the same with a Node's taints in the API server."""
RETRY_AFTER_CEILING = 10.0
"""A server may ask for at most this many seconds of patience at a time."""
STARTING = 15.0
"""Seconds for which a refusal is doubted while the server does not say that it is ready."""
FORBIDDEN = 403


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to go on asking an API server that does not answer, in seconds."""

    total: float = 60.0
    first: float = 0.25
    ceiling: float = 5.0
    connect: float = 5.0
    answer: float = 15.0
    """For one answer. A half-open connection (the server's machine went away) ends this late."""

    def timeout(self, left: float | None = None) -> httpx2.Timeout:
        """The same for the HTTP client, cut to the seconds ``left``: the last attempt, too, has to fit.

        Cancelling from outside would do as well, but the client leaks a socket when its TLS handshake is cancelled.
        """
        left = max(self.total if left is None else left, 0.05)
        return httpx2.Timeout(min(self.answer, left), connect=min(self.connect, left), pool=left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request. ``right`` is what RBAC must grant for it, in words: ``patch nodes``."""

    method: str
    path: str
    right: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    content_type: str = JSON
    expects: Callable[[int, str], bool] = lambda _status, _text: False
    """Which answers besides 2xx the caller understands itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer the caller expects."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """A 2xx status."""
        return 200 <= self.status < 300  # noqa: PLR2004 (HTTP)

    def data(self) -> dict[str, Any]:
        """The object in the body."""
        try:
            found = json.loads(self.text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise task_error(
                FailureKind.CLUSTER,
                "the Kubernetes API answered with something that is not an object; is this its address?",
                expected="a JSON object",
                seen=words_of(self.text)[:80],
            )
        return found


class _Again(Exception):  # noqa: N818 (a signal to the retry loop)
    """Worth another try."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


@dataclass(slots=True, kw_only=True)
class _Doubt:
    """Whether a refusal is to be believed: a server that starts refuses everything until it has read its roles."""

    until: float
    was_ready: bool = False
    """Whether it said that it was ready before it was asked again."""


class Api:
    """Asks one API over one connection pool.

    With several ``servers`` (the API servers of a control plane, each at its own address) the next one is asked when
    one cannot be reached, and stays the one that is asked until it cannot be reached either.
    """

    def __init__(
        self, http: httpx2.AsyncClient, patience: Patience, servers: tuple[str, ...] = (), tls_name: str = ""
    ) -> None:
        self._http, self._patience = http, patience
        self._extensions = {"sni_hostname": tls_name} if tls_name else {}
        self._servers = servers or (str(http.base_url),)
        self._at = 0

    async def ask(self, ask: Ask) -> Reply:
        """The answer.

        Raises:
            TaskError: CLUSTER, transient when patience ran out, final when the server refused.
            LeaseConflict: 409.
        """
        backoff = wait_random_exponential(multiplier=self._patience.first, max=self._patience.ceiling)
        retrying = AsyncRetrying(
            sleep=anyio.sleep,
            stop=stop_before_delay(self._patience.total),
            wait=lambda state: max(backoff(state), _asked_to_wait(state)),
            retry=retry_if_exception_type(_Again),
            reraise=True,
        )
        now = anyio.current_time()
        doubt = _Doubt(until=now + min(STARTING, self._patience.total / 2))
        try:
            return await retrying(self._once, ask, now + self._patience.total, doubt)
        except _Again as error:
            where = " and ".join(self._servers)
            raise task_error(
                FailureKind.CLUSTER,
                f"the Kubernetes API at {where} did not answer for {self._patience.total:g} s: {error}",
                expected="an API server that answers",
                seen=str(error),
                next="kubectl get --raw /readyz",
                transient=True,
            ) from error

    async def _once(self, ask: Ask, deadline: float, doubt: _Doubt) -> Reply:
        answer = await self._send(ask, deadline)
        refuses = answer.status_code == FORBIDDEN and not ask.expects(FORBIDDEN, answer.text)
        if refuses and not doubt.was_ready and anyio.current_time() < doubt.until:
            ready = await self._send(Ask(method="GET", path="readyz", right="get /readyz"), deadline)
            doubt.was_ready = ready.is_success
            raise _Again(f"status {FORBIDDEN}: {words_of(answer.text)}")
        return _understood(ask, answer)

    async def _send(self, ask: Ask, deadline: float) -> httpx2.Response:
        content = None if ask.body is None else json.dumps(ask.body)
        headers = {"Accept": JSON} | ({} if content is None else {"Content-Type": ask.content_type})
        timeout, at = self._patience.timeout(deadline - anyio.current_time()), self._at
        # A server URL may have a path of its own (Rancher's /k8s/clusters/...).
        url = f"{self._servers[at].rstrip('/')}/{ask.path}"
        try:
            return await self._http.request(
                ask.method,
                url,
                params=dict(ask.params),
                content=content,
                headers=headers,
                timeout=timeout,
                extensions=self._extensions,
            )
        except httpx2.HTTPError as error:
            if self._at == at:  # Others may have noticed, too.
                self._at = (at + 1) % len(self._servers)
            trouble = _trouble(error, self._servers[at])
            # Only the first server is one that somebody named; another may well not be meant for us.
            raise (trouble if at == 0 else _Again(str(trouble))) from error
        except (ConfigError, OSError, KeyError, ValueError) as error:
            # What an exec plug-in or a token file can do wrong; lightkube asks them while sending.
            raise task_error(
                FailureKind.CLUSTER,
                f"no credentials for the Kubernetes API: {words_of(str(error))}",
                expected="a token from the kubeconfig's exec plug-in or token file",
                next="kubectl get nodes",
            ) from error


def _understood(ask: Ask, answer: httpx2.Response) -> Reply:
    status, text = answer.status_code, answer.text
    if answer.is_success or ask.expects(status, text):
        return Reply(status=status, text=text)
    match status:
        case 409:
            raise LeaseConflict(words_of(text))
        case 401 | 403:
            raise denied(ask.right, status, text)
        case 429 | 500 | 502 | 503 | 504:
            why = f"status {status}: {words_of(text) or 'no reason given'}"
            raise _Again(why, _seconds(answer.headers.get("Retry-After")))
        case _:
            raise refused(ask.right, status, text)


def _trouble(error: httpx2.HTTPError, server: str) -> Exception:
    """Another try for what a restart does to connections; a failure for what no waiting mends."""
    certificate = _certificate_error(error)
    if certificate is not None:
        return task_error(
            FailureKind.CLUSTER,
            f"the certificate of the Kubernetes API at {server} is not accepted: {certificate}",
            expected="a certificate for this address, signed by the kubeconfig's CA",
            next="kubectl get nodes; k3s: add the address with --tls-san",
        )
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError | httpx2.TooManyRedirects):
        return _unusable_server(server, error)
    return _Again(str(error) or type(error).__name__)


def _unusable_server(server: str, error: Exception) -> TaskError:
    return task_error(FailureKind.CLUSTER, f"{server} cannot be used as a Kubernetes API server: {error}")


def _certificate_error(error: BaseException | None) -> str | None:
    """Why TLS refused a certificate, theirs or ours; None when certificates are not the trouble."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message or "it cannot be verified"
        if isinstance(error, ssl.SSLError) and "CERTIFICATE" in str(error).upper():
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def _asked_to_wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.after if isinstance(error, _Again) else 0.0


def _seconds(retry_after: str | None) -> float:
    """The header's seconds, bounded; its other form, a date, would need the server's clock."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return 0.0
    return min(float(retry_after), RETRY_AFTER_CEILING)

"""GET over the standard library, in a thread: gates ask a few URLs every few seconds, which needs no HTTP client.

Redirects are not followed: a gate names the status it expects, and a redirect is a status. It deliberately keeps no
connections, no cookies and no credentials.
"""

from http.client import HTTPException
from urllib.error import URLError
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, UnknownHandler

import anyio
import anyio.to_thread

from nixkube_deploy.ports.web import Answer

BODY_LIMIT = 64 * 1024
AT_ONCE = 16
"""Threads; one that hangs past its deadline is abandoned and ends with its own socket time-out."""


class ThreadedWeb:
    """``ports.web.Web``."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        self._opener = OpenerDirector()
        # Exactly these: no file:, ftp: or data:, and without an error processor every status comes back as it is.
        for handler in (ProxyHandler(), UnknownHandler(), HTTPHandler(), HTTPSHandler()):
            self._opener.add_handler(handler)

    async def get(self, url: str, timeout: float) -> Answer:
        """Ask once."""
        with anyio.move_on_after(timeout):
            return await anyio.to_thread.run_sync(
                self._get, url, timeout, abandon_on_cancel=True, limiter=self._limiter
            )
        return Answer(error=f"no answer within {timeout:g} s")

    def _get(self, url: str, timeout: float) -> Answer:
        try:
            request = Request(url, headers={"User-Agent": "nixkube-deploy"})  # noqa: S310 (the opener knows HTTP only)
            with self._opener.open(request, timeout=timeout) as answer:
                return Answer(status=answer.status, body=answer.read(BODY_LIMIT).decode(errors="replace"))
        except URLError as error:
            return Answer(error=str(error.reason))
        except (OSError, HTTPException, ValueError) as error:
            return Answer(error=str(error) or type(error).__name__)

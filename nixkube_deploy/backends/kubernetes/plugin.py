"""Credentials from a kubeconfig's exec plug-in: a token or a client certificate, kept until they expire or are refused.

The protocol is client.authentication.k8s.io, any version of it. It deliberately never asks a person: a plug-in that
needs a terminal has to be logged in beforehand.
"""

import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import anyio
import httpx2

from nixkube_deploy.ports.clock import Clock

PATIENCE = 60.0
"""Seconds a plug-in gets; some of them ask servers of their own."""
MARGIN = timedelta(seconds=30)
"""Credentials are renewed this long before they expire."""
UNAUTHORIZED = 401


class NoCredentials(ValueError):  # noqa: N818 (what is the case)
    """The plug-in gave none; says why, and never what it printed on standard output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a plug-in gave. Never shown."""

    token: str = ""
    has_certificate: bool = False
    expires: datetime | None = None


class PluginAuth(httpx2.Auth):
    """Signs each request with what the plug-in gave; certificates go into ``tls``, which connections are made of."""

    def __init__(self, plugin: Mapping[str, Any], tls: ssl.SSLContext, clock: Clock) -> None:
        self._plugin, self._tls, self._clock = plugin, tls, clock
        self._kept: Credential | None = None
        self._lock = anyio.Lock()

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Once with what we have, once more with fresh credentials where the server refuses these."""
        used = await self._credential(None)
        _sign(request, used)
        response = yield request
        if response.status_code == UNAUTHORIZED:
            _sign(request, await self._credential(used))
            yield request

    async def _credential(self, refused: Credential | None) -> Credential:
        """One run of the plug-in serves everybody who waits for it."""
        async with self._lock:
            kept = self._kept
            if kept is None or kept is refused or self._is_over(kept):
                self._kept = kept = await self._ask()
            return kept

    def _is_over(self, credential: Credential) -> bool:
        return credential.expires is not None and self._clock.now() + MARGIN >= credential.expires

    async def _ask(self) -> Credential:
        status = _status_of(await self._run())
        token, certificate, key = (
            str(status.get(name) or "") for name in ("token", "clientCertificateData", "clientKeyData")
        )
        if certificate:
            _load(self._tls, certificate, key)
        if not (token or certificate):
            raise NoCredentials(f"{self._plugin['command']} gave neither a token nor a certificate")
        return Credential(token=token, has_certificate=bool(certificate), expires=_expiry(status))

    async def _run(self) -> bytes:
        command = str(self._plugin["command"])
        argv: Sequence[str] = [command, *map(str, self._plugin.get("args") or ())]
        told = {str(each["name"]): str(each["value"]) for each in self._plugin.get("env") or ()}
        if self._plugin.get("interactiveMode") == "Always":
            raise NoCredentials(f"{command} wants a terminal (interactiveMode: Always)")
        try:
            with anyio.fail_after(PATIENCE):
                done = await anyio.run_process(argv, stdin=subprocess.DEVNULL, env={**os.environ, **told}, check=False)
        except TimeoutError:
            raise NoCredentials(f"{command} did not end within {PATIENCE:g} s") from None
        except OSError as error:
            hint = str(self._plugin.get("installHint") or "").strip()
            raise NoCredentials(f"{command} cannot be run: {error.strerror}. {hint}".strip()) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise NoCredentials(f"{command} ended with {done.returncode}: {' '.join(said[-3:]) or 'no reason given'}")
        return done.stdout


def _sign(request: httpx2.Request, credential: Credential) -> None:
    if credential.token:
        request.headers["Authorization"] = f"Bearer {credential.token}"
    if credential.has_certificate:
        # A connection keeps the certificate it was opened with, and that one expires.
        request.headers["Connection"] = "close"


def _status_of(output: bytes) -> Mapping[str, Any]:
    try:
        status = json.loads(output)["status"]
    except (ValueError, KeyError, TypeError):
        # Without its cause: that quotes the output, which may hold a token.
        raise NoCredentials("the exec plug-in printed no ExecCredential") from None
    if not isinstance(status, Mapping):
        raise NoCredentials("the exec plug-in printed an ExecCredential without a status")
    return status


def _expiry(status: Mapping[str, Any]) -> datetime | None:
    stamp = status.get("expirationTimestamp")
    try:
        return datetime.fromisoformat(str(stamp)) if stamp else None
    except ValueError:
        raise NoCredentials("the exec plug-in's expirationTimestamp is not a time") from None


def _load(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    """``ssl`` reads pairs from files only; this one is ours alone and gone at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as pair:
        pair.write(f"{certificate}\n{key}\n")
        pair.flush()
        try:
            tls.load_cert_chain(pair.name)
        except ssl.SSLError:
            raise NoCredentials("the exec plug-in's certificate and key cannot be used") from None

"""Requests to answers: discovery, objects, lists, tables, errors as ``Status``.

Watches are only recognised here (``Watch``); ``server`` streams them. It deliberately keeps no state of its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nixkube_deploy.lab.kube import verbs
from nixkube_deploy.lab.kube.errors import ApiError, bad_request, retry_header
from nixkube_deploy.lab.kube.http import JSON, Request, Response, json_response
from nixkube_deploy.lab.kube.listing import page
from nixkube_deploy.lab.kube.rbac import attempt_of, check
from nixkube_deploy.lab.kube.resources import discovery, group_entry, groups
from nixkube_deploy.lab.kube.reviews import review, token_review
from nixkube_deploy.lab.kube.routes import Discovery, Target, parse
from nixkube_deploy.lab.kube.state import KubeState
from nixkube_deploy.lab.kube.store import Object
from nixkube_deploy.lab.kube.table import to_table
from nixkube_deploy.lab.kube.users import ADMIN, User
from nixkube_deploy.lab.kube.verbs import find


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A request for a stream of events."""

    target: Target
    query: Mapping[str, str]
    as_table: bool


def handle(state: KubeState, request: Request, user: User = ADMIN) -> Response | Watch:
    """Answer one request of an authenticated user; never raises for what a client does wrong."""
    try:
        return _route(state, request, user)
    except ApiError as error:
        return error_response(error)


def error_response(error: ApiError) -> Response:
    """A ``Status`` with its code."""
    return json_response(error.code, error.status(), **retry_header(error.retry_after))


def wrap(state: KubeState, target: Target, obj: Object, *, as_table: bool) -> dict[str, Any]:
    """One object, in the form the client accepts."""
    if not as_table:
        return obj
    metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
    return to_table(target.resource.plural, [obj], metadata, state.now)


def _route(state: KubeState, request: Request, user: User) -> Response | Watch:
    where = parse(request.path)
    check(state.store, user, attempt_of(where, request))
    if isinstance(where, Discovery):
        _only(request, "GET")
        return _discover(state, where)
    as_table = _negotiate(request)
    if not where.resource.is_stored:
        _only(request, "POST")
        return json_response(201, review(state.store, user, where, _parse(request.body)))
    if request.method == "GET":
        return _read(state, where, request, as_table=as_table)
    return _write(state, where, request, as_table=as_table)


def _discover(state: KubeState, where: Discovery) -> Response:
    match where.path.split("/"):
        case ["version"]:
            return json_response(200, _version(state.version))
        case ["healthz" | "readyz" | "livez"]:
            return Response(body=b"ok", content_type="text/plain; charset=utf-8")
        case ["api"]:
            return json_response(200, {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        case ["apis"]:
            entries = [group_entry(group) for group in groups()]
            return json_response(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries})
        case ["apis", group]:
            return json_response(200, {"kind": "APIGroup", "apiVersion": "v1", **group_entry(group)})
        case ["apis", group, _]:
            return json_response(200, discovery(group))
        case _:
            return json_response(200, discovery(""))


def _version(git_version: str) -> dict[str, str]:
    major, minor, *_ = git_version.removeprefix("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": git_version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }


def _read(state: KubeState, target: Target, request: Request, *, as_table: bool) -> Response | Watch:
    if target.subresource == "proxy":
        return Response(body=verbs.node_proxy(state, target).encode(), content_type="text/plain; charset=utf-8")
    if request.query.get("watch") in {"1", "true"}:
        return Watch(target=target, query=request.query, as_table=as_table)
    if target.name is not None:
        return json_response(200, wrap(state, target, find(state, target), as_table=as_table))
    found = page(state, target, request.query)
    if as_table:
        return json_response(200, to_table(target.resource.plural, found.items, found.metadata, state.now))
    kind = {"kind": f"{target.resource.kind}List", "apiVersion": target.resource.api_version}
    return json_response(200, {**kind, "metadata": found.metadata, "items": found.items})


def _write(state: KubeState, target: Target, request: Request, *, as_table: bool) -> Response:
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip()
    if request.method != "PATCH" and kind not in {JSON, ""}:
        raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {kind}")
    body = _parse(request.body)
    write = verbs.Write(target=target, body=body, content_type=kind, dry_run=request.query.get("dryRun") == "All")
    match request.method, target.name is not None, target.subresource:
        case "POST", False, _:
            return json_response(201, wrap(state, target, verbs.create(state, write), as_table=as_table))
        case "POST", True, "eviction":
            return json_response(201, verbs.evict(state, write))
        case "POST", True, "token":
            return json_response(201, token_review(find(state, target)))
        case "PUT", True, "" | "status":
            return json_response(200, verbs.replace(state, write))
        case "PATCH", True, "" | "status":
            return json_response(200, wrap(state, target, verbs.patch(state, write), as_table=as_table))
        case "DELETE", True, "":
            return json_response(200, verbs.delete(state, write, request.query))
        case _:
            raise _not_allowed()


def _parse(body: bytes) -> Any:
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from error


def _negotiate(request: Request) -> bool:
    """Whether the client wants a Table first; 406 when it takes no JSON at all."""
    accept = request.headers.get("accept", "*/*")
    for part in accept.split(","):
        media, _, parameters = part.strip().partition(";")
        if media in {JSON, "*/*", "application/*"}:
            return "as=Table" in parameters
    raise ApiError(406, "NotAcceptable", "only the following media types are accepted: application/json")


def _only(request: Request, method: str) -> None:
    if request.method != method:
        raise _not_allowed()


def _not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

"""What the API server's answers mean: errors as failures, evictions as their own small language.

Bodies are read leniently: load balancers and flow control answer in plain text, servers that start answer with nothing.
It deliberately never asks again; ``api`` does.
"""

import json
from collections.abc import Mapping
from typing import Any

from nixkube_deploy.model.error import TaskError, task_error
from nixkube_deploy.model.failure import FailureKind
from nixkube_deploy.ports.cluster import Evicted, EvictionAnswer

WORDS = 500
"""Characters kept of what a server says."""


def status_of(text: str) -> Mapping[str, Any]:
    """The ``Status`` object in a body; empty when the body is anything else."""
    try:
        status = json.loads(text)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def words_of(text: str) -> str:
    """The server's own words on one line, free of control characters."""
    message = status_of(text).get("message") or text
    printable = "".join(c if c.isprintable() else " " for c in str(message))
    return " ".join(printable.split())[:WORDS]


def classify_eviction(status: int, text: str) -> Evicted | None:
    """What an eviction's answer means for draining; None when it is an error like any other.

    429 has two meanings: with the cause DisruptionBudget a budget is in the way, without it the server is busy.
    """
    causes = _causes(text)
    match status:
        case 200 | 201 | 202:
            return Evicted(answer=EvictionAnswer.ACCEPTED)
        case 404:
            return Evicted(answer=EvictionAnswer.GONE, message=words_of(text))
        case 429 if "DisruptionBudget" in causes:
            return Evicted(answer=EvictionAnswer.BUDGET, message=causes["DisruptionBudget"] or words_of(text))
        case 429 | 409:
            return Evicted(answer=EvictionAnswer.THROTTLED, message=words_of(text))
        case 403 if "NamespaceTerminating" in causes:
            return Evicted(answer=EvictionAnswer.TERMINATING, message=words_of(text))
        case 500 if "more than one PodDisruptionBudget" in text:
            return Evicted(answer=EvictionAnswer.MULTIPLE_BUDGETS, message=words_of(text))
        case 500:
            return Evicted(answer=EvictionAnswer.FAILED, message=words_of(text) or "status 500, no reason given")
        case _:
            return None


def denied(right: str, status: int, text: str) -> TaskError:
    """401 or 403: final, with the right that is missing."""
    if status == 401:  # noqa: PLR2004 (HTTP)
        return task_error(
            FailureKind.CLUSTER,
            f"the Kubernetes API does not accept our credentials (401, wanted to {right})",
            expected="valid credentials in the kubeconfig",
            seen=words_of(text),
            next="kubectl auth whoami; fetch a fresh kubeconfig when its certificate or token has expired",
        )
    if "admission webhook" in text:
        return task_error(
            FailureKind.CLUSTER,
            f"an admission webhook of the cluster refuses to {right} (403): {words_of(text)}",
            expected="a webhook that lets it pass",
            seen=words_of(text),
            next="kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations",
        )
    verb, _, resource = right.partition(" ")
    return task_error(
        FailureKind.CLUSTER,
        f"the Kubernetes API forbids us to {right} (403)",
        expected=f"RBAC verb {verb!r} on {resource}",
        seen=words_of(text),
        next=f"kubectl auth can-i {verb} {resource}; grant it in the role of this user",
    )


def refused(right: str, status: int, text: str) -> TaskError:
    """Any other answer that asking again does not change."""
    return task_error(
        FailureKind.CLUSTER,
        f"the Kubernetes API refused to {right} (status {status}): {words_of(text) or 'no reason given'}",
        expected="status 200",
        seen=f"status {status}",
    )


def _causes(text: str) -> dict[str, str]:
    """Reasons in ``details.causes`` with their messages."""
    details = status_of(text).get("details")
    causes = details.get("causes") if isinstance(details, dict) else None
    found = [cause for cause in causes if isinstance(cause, dict)] if isinstance(causes, list) else []
    return {str(cause.get("reason", "")): str(cause.get("message", "")) for cause in found}

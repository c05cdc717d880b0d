"""A process of its own that watches a lab while the controller works, and writes down what it saw.

``python -m tests.lab.observer LAB TRACE`` looks twenty times a second until its standard input ends. It asks the
machines and the Kubernetes API, never the controller or its journal, and judges nothing itself.
"""

import http.client
import json
import ssl
import sys
import tempfile
import threading
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from nixkube_deploy.lab.control import ask

HERTZ = 20
PODS = "/api/v1/namespaces/default/pods?labelSelector=app%20in%20(web,queue,db)"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
"""Each budget is of the pods whose label ``app`` is its name."""


class Api:
    """One connection to the lab's Kubernetes API, as the administrator."""

    def __init__(self, lab: Path) -> None:
        config = json.loads((lab / "kubeconfig").read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        trust = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(b64decode(user["client-certificate-data"]) + b64decode(user["client-key-data"]))
            pair.flush()
            trust.load_cert_chain(pair.name)
        address = cluster["server"].removeprefix("https://")
        self._link = http.client.HTTPSConnection(address, timeout=5, context=trust)

    def items(self, path: str) -> list[dict[str, Any]]:
        """One list, from the server and at one moment."""
        try:
            self._link.request("GET", path)
            return json.loads(self._link.getresponse().read())["items"]
        except (OSError, http.client.HTTPException):
            self._link.close()  # The next request opens another.
            raise


def is_ready(thing: dict[str, Any]) -> bool:
    """Whether a Node's or a pod's Ready condition holds."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in thing["status"].get("conditions", ()))


def look(lab: Path, api: Api) -> dict[str, Any]:
    """One sample. Its parts are taken one after the other, and each of them is of one moment."""
    pulse = next(iter(ask(lab, {"op": "pulse"})))["hosts"]
    nodes, pods = api.items("/api/v1/nodes"), api.items(PODS)
    healthy: dict[str, int] = {}
    for pod in pods:
        app = pod["metadata"]["labels"]["app"]
        sound = is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
        healthy[app] = healthy.get(app, 0) + sound
    wanted = {budget["metadata"]["name"]: budget["status"]["desiredHealthy"] for budget in api.items(BUDGETS)}
    return {
        "unpowered": sorted(name for name, host in pulse.items() if not host["powered"]),
        "stopped": sorted(name for name, host in pulse.items() if not host["serves"]),
        "away": sorted(
            node["metadata"]["name"] for node in nodes if node["spec"].get("unschedulable") or not is_ready(node)
        ),
        "pods": {app: [healthy.get(app, 0), least] for app, least in wanted.items()},
    }


def main(lab: Path, trace: Path) -> None:
    """Look, write, wait for the rest of the twentieth of a second."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    api = Api(lab)
    with trace.open("w", buffering=1) as file:
        due = time.monotonic()
        while not ended.is_set():
            began = time.monotonic()
            try:
                sample = look(lab, api)
            except (OSError, http.client.HTTPException) as error:
                sample = {"blind": repr(error)}
            file.write(json.dumps({"at": began, **sample}) + "\n")
            due = max(due + 1 / HERTZ, time.monotonic())
            ended.wait(due - time.monotonic())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

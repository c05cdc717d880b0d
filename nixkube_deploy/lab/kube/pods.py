"""What becomes of pods on their nodes: starting, becoming Ready, terminating, restarting after a boot.

It deliberately starts no pod by itself (workloads do) and asks no budget (evictions do that first).
"""

from nixkube_deploy.lab.kube.nodes import NodeLifecycle
from nixkube_deploy.lab.kube.objects import (
    MIRROR,
    is_finished,
    is_ready,
    is_terminating,
    node_of,
    with_condition,
)
from nixkube_deploy.lab.kube.store import (
    Change,
    Key,
    Object,
    ObjectStore,
    key_of,
    merged,
    stamp,
)
from nixkube_deploy.lab.kube.timing import Timing

CSI_DRIVER = "csi.lab.nixkube-deploy.io"
CSI_LABEL = "csi-driver"
"""A pod with this label registers the driver it names on its node once it is Ready."""


class PodLifecycle:
    """Moves pods along on a timer each; only pods that are on their way cost anything."""

    def __init__(self, store: ObjectStore, nodes: NodeLifecycle, timing: Timing) -> None:
        self.held: set[str] = set()
        """Nodes on which pods never become Ready (a fault)."""
        self.stuck: set[str] = set()
        """Nodes on which pods never finish terminating (a fault)."""
        self._store = store
        self._nodes = nodes
        self._timing = timing
        self._starting: dict[str, tuple[float, Key]] = {}
        self._ending: dict[str, tuple[float, Key]] = {}
        self._mirrors: dict[Key, Object] = {}
        store.subscribe(self._note)

    def terminate(self, pod: Object, grace: int | None) -> Object:
        """Begin a deletion as the API does; the answer is the pod as it now is (or was, when it is gone at once).

        A second deletion may shorten the grace of the first one, never lengthen it.
        """
        spec_grace = pod["spec"].get("terminationGracePeriodSeconds", 30)
        seconds = spec_grace if grace is None or grace < 0 else grace
        if seconds == 0 or not node_of(pod) or is_finished(pod):
            return self._end(pod)
        if is_terminating(pod) and pod["metadata"].get("deletionGracePeriodSeconds", 0) <= seconds:
            return pod
        meta = {"deletionTimestamp": stamp(self._store.now + seconds), "deletionGracePeriodSeconds": seconds}
        return self._store.put(merged(pod, metadata=meta))

    def _end(self, pod: Object) -> Object:
        """Nothing of the pod runs any more: it is gone, unless a finalizer holds the object."""
        if not pod["metadata"].get("finalizers"):
            self._store.remove(pod)
            return pod
        meta = {"deletionTimestamp": stamp(self._store.now), "deletionGracePeriodSeconds": 0}
        status = {} if is_finished(pod) or not node_of(pod) else {"phase": "Failed"}
        return self._store.put(merged(_unready(pod, self._store.now, restarted=False), metadata=meta, status=status))

    def boot(self, node: str) -> None:
        """Every pod of a freshly booted node has to start again; its CSI drivers are not registered any more."""
        for pod in self._store.pods_on(node):
            if not is_finished(pod):
                self._store.put(_unready(pod, self._store.now, restarted=True))
        csi = self._store.get("csinodes", node)
        if csi is not None and csi["spec"].get("drivers"):
            self._store.put(merged(csi, spec={"drivers": []}))

    def tick(self) -> None:
        """Finish what is due."""
        now = self._store.now
        self._mirror()
        for uid, (due, key) in list(self._ending.items()):
            pod = self._store.get("pods", key[1], key[0])
            if pod is None or pod["metadata"]["uid"] != uid:
                del self._ending[uid]
            elif node_of(pod) in self.stuck:
                continue
            elif now >= due and (self._nodes.runs(node_of(pod)) or self._node(pod) is None):
                del self._ending[uid]
                self._end(pod)
        for uid, (due, key) in list(self._starting.items()):
            pod = self._store.get("pods", key[1], key[0])
            if pod is None or pod["metadata"]["uid"] != uid:
                del self._starting[uid]
            elif now >= due and self._nodes.works(node_of(pod)) and node_of(pod) not in self.held:
                del self._starting[uid]
                self._store.put(_running(pod, now))
                self._register_driver(pod)

    def _node(self, pod: Object) -> Object | None:
        return self._store.get("nodes", node_of(pod))

    def _note(self, change: Change) -> None:
        if change.resource == "nodes":
            self._note_node(change)
        if change.resource != "pods":
            return
        if change.after is None:
            self._note_mirror(change)
            return
        pod = change.after
        uid, now = pod["metadata"]["uid"], self._store.now
        if is_terminating(pod):
            self._starting.pop(uid, None)
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 30)
            due = now + grace * self._timing.grace_scale
            if grace > 0:
                self._ending[uid] = (min(due, self._ending.get(uid, (due,))[0]), key_of(pod))
        elif node_of(pod) and not is_finished(pod) and not is_ready(pod):
            self._starting.setdefault(uid, (now + self._timing.pod_start, key_of(pod)))

    def _note_mirror(self, change: Change) -> None:
        """A static pod runs on when the mirror of it is deleted, and its kubelet makes the mirror again."""
        pod = change.before
        assert pod is not None
        if MIRROR in (pod["metadata"].get("annotations") or {}) and not is_finished(pod):
            self._mirrors[key_of(pod)] = pod

    def _mirror(self) -> None:
        for key, pod in list(self._mirrors.items()):
            if self._node(pod) is None:
                del self._mirrors[key]
            elif self._nodes.runs(node_of(pod)):
                del self._mirrors[key]
                kept = {
                    k: pod["metadata"][k]
                    for k in ("name", "namespace", "labels", "annotations", "ownerReferences")
                    if k in pod["metadata"]
                }
                self._store.create({**pod, "metadata": kept, "status": {"phase": "Pending", "conditions": []}})

    def _note_node(self, change: Change) -> None:
        before, after = change.before, change.after
        if after is None:
            assert before is not None
            for pod in self._store.pods_on(before["metadata"]["name"]):
                self._store.remove(pod)
        elif before is not None and is_ready(before) and not is_ready(after):
            # The node lifecycle controller marks the pods, since their kubelet cannot be trusted to.
            for pod in self._store.pods_on(after["metadata"]["name"]):
                if is_ready(pod):
                    self._store.put(_unready(pod, self._store.now, restarted=False))

    def _register_driver(self, pod: Object) -> None:
        driver = (pod["metadata"].get("labels") or {}).get(CSI_LABEL)
        csi = self._store.get("csinodes", node_of(pod))
        if driver is None or csi is None:
            return
        drivers = csi["spec"].get("drivers") or []
        if all(d["name"] != driver for d in drivers):
            entry = {"name": driver, "nodeID": node_of(pod), "topologyKeys": []}
            self._store.put(merged(csi, spec={"drivers": [*drivers, entry]}))


def _containers(pod: Object, now: float, *, ready: bool, restarted: bool) -> list[dict[str, object]]:
    old = {c["name"]: c for c in pod["status"].get("containerStatuses", ())}
    statuses = []
    for container in pod["spec"].get("containers", ()):
        before = old.get(container["name"], {})
        state = {"running": {"startedAt": stamp(now)}} if ready else {"waiting": {"reason": "ContainerCreating"}}
        statuses.append(
            {
                "name": container["name"],
                "image": container.get("image", ""),
                "imageID": "",
                "ready": ready,
                "started": ready,
                "restartCount": before.get("restartCount", 0) + int(restarted),
                "state": state if not before or ready or restarted else before["state"],
            }
        )
    return statuses


def _running(pod: Object, now: float) -> Object:
    uid = pod["metadata"]["uid"]
    address = pod["status"].get("podIP") or f"10.42.{int(uid[:2], 16)}.{int(uid[2:4], 16)}"
    statuses = _containers(pod, now, ready=True, restarted=False)
    status = {"phase": "Running", "podIP": address, "containerStatuses": statuses}
    pod = merged(pod, status=status | {"startTime": pod["status"].get("startTime", stamp(now))})
    for kind in ("Initialized", "ContainersReady", "Ready"):
        pod = with_condition(pod, {"type": kind, "status": "True"}, now)
    return pod


def _unready(pod: Object, now: float, *, restarted: bool) -> Object:
    pod = merged(pod, status={"containerStatuses": _containers(pod, now, ready=False, restarted=restarted)})
    for kind in ("ContainersReady", "Ready"):
        pod = with_condition(pod, {"type": kind, "status": "False", "reason": "ContainersNotReady"}, now)
    return pod

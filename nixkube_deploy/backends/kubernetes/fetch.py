"""A kubeconfig fetched over SSH from a control-plane host: the way to the cluster when the inventory names none."""

from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText, fetched, inline_files, referenced_files
from nixkube_deploy.model.error import TaskError
from nixkube_deploy.model.failure import Failure, FailureKind
from nixkube_deploy.model.fleet import Fleet, Host
from nixkube_deploy.ports.shell import Command, Shell


async def fetch_kubeconfig(fleet: Fleet, shell: Shell) -> KubeconfigText:
    """An admin kubeconfig from the first control-plane host that has one, fit for use from here.

    Raises:
        TaskError: CLUSTER, no control-plane host has one that can be read.
    """
    path = fleet.cluster.distribution.admin_kubeconfig
    assert path is not None, "plain hosts have no cluster"
    seen: list[str] = []
    servers = [host for host in fleet.hosts.values() if host.role.is_control_plane]
    for host in servers:
        try:
            text = await _cat(shell, host, path)
            contents = {name: await _cat(shell, host, name) for name in referenced_files(text)}
        except TaskError as error:
            seen.append(f"{host.name}: {error.failure.message}")
            continue
        return fetched(inline_files(text, contents), host.address, (other.address for other in servers))
    raise TaskError(
        Failure(
            kind=FailureKind.CLUSTER,
            message=f"no control-plane host has a readable {path}",
            expected="cluster.kubeconfig in the inventory, or that file on a control-plane host",
            evidence=tuple(seen) or ("the inventory has no control-plane host",),
            next="set cluster.kubeconfig",
        )
    )


async def _cat(shell: Shell, host: Host, path: str) -> str:
    result = await shell.run(host, Command(argv=("cat", path), privileged=True))
    if not result.ok:
        raise TaskError(Failure(kind=FailureKind.CLUSTER, message=f"cannot read {path}", evidence=result.tail(3)))
    return result.stdout

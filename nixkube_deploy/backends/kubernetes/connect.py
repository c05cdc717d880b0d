"""Opening a cluster. Importing this is cheap: lightkube is imported by the first ``open_cluster``."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText, in_cluster, load, servers_of, tls_name_of
from nixkube_deploy.model.fleet import IN_CLUSTER
from nixkube_deploy.ports.clock import Clock
from nixkube_deploy.ports.cluster import Cluster


@asynccontextmanager
async def open_cluster(
    kubeconfig: str | KubeconfigText | None, context: str | None, *, clock: Clock, patience: float = 60.0
) -> AsyncIterator[Cluster]:
    """A cluster for the length of the block. Nothing is asked yet: the first call tells whether it answers.

    ``kubeconfig`` is a path, a fetched text, ``IN_CLUSTER`` for the service account of our own pod, or None for the
    user's default. ``patience`` is how many seconds a call goes on asking an API server that does not answer.

    Raises:
        TaskError: CLUSTER, the kubeconfig cannot be used.
    """
    if kubeconfig is None:
        config, name = None, "of the environment"
    elif kubeconfig == IN_CLUSTER:
        config, name = in_cluster(os.environ), "of the pod"
    else:
        config, name = load(kubeconfig, context)
    # Late, because lightkube takes longer to import than all of the product's own code.
    from nixkube_deploy.backends.kubernetes.api import Api, Patience  # noqa: PLC0415
    from nixkube_deploy.backends.kubernetes.cluster import ApiCluster, http_client  # noqa: PLC0415

    limits = Patience(total=patience)
    async with http_client(config, name, limits, clock) as http:
        elsewhere = kubeconfig.elsewhere if isinstance(kubeconfig, KubeconfigText) else ()
        servers = servers_of(config, elsewhere) if config is not None else ()
        yield ApiCluster(Api(http, limits, servers, tls_name_of(config)), clock)

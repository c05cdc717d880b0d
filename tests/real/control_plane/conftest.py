"""These run in ``nox -s cluster`` only, and there a control plane that cannot be had is a failure, not a skip."""

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from nixkube_deploy.app.clock import SystemClock
from nixkube_deploy.backends.kubernetes.connect import open_cluster
from nixkube_deploy.backends.kubernetes.kubeconfig import KubeconfigText
from tests.real.control_plane.kubelets import Kubelets
from tests.real.control_plane.plane import Plane, running
from tests.real.control_plane.programs import NoControlPlane, programs
from tests.real.control_plane.scene import Scene, a_scene, admit_product

ASKED = "NIXKUBE_CLUSTER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name != "control_plane":
            continue
        if os.environ.get(ASKED):
            item.add_marker(pytest.mark.timeout(240))
        else:
            item.add_marker(pytest.mark.skip(reason="a control plane of its own: `nox -s cluster` runs it"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    try:
        made = programs()
    except NoControlPlane as error:
        pytest.fail(f"not run: no control plane can be had here: {error}", pytrace=False)
    began = time.monotonic()
    with running(made, tmp_path_factory.mktemp("plane")) as plane:
        sys.stderr.write(
            f"\n{plane.admin.ask('GET', '/version')['gitVersion']} after {time.monotonic() - began:.0f} s\n"
        )
        yield plane


@pytest.fixture(scope="session")
def kubelets(plane: Plane) -> Kubelets:
    return Kubelets(plane)


@pytest.fixture(scope="session")
def kubeconfig(plane: Plane) -> KubeconfigText:
    return admit_product(plane)


@pytest.fixture
async def scene(plane: Plane, kubelets: Kubelets, kubeconfig: KubeconfigText) -> AsyncIterator[Scene]:
    with a_scene(plane, kubelets) as scene:
        async with open_cluster(kubeconfig, None, clock=SystemClock(), patience=20) as cluster:
            scene.cluster = cluster
            yield scene

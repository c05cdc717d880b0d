"""These run in ``nox -s etcd`` only, and there an etcd that cannot be had is a failure, not a skip."""

import os

import pytest

ASKED = "NIXKUBE_ETCD"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "etcd" and not os.environ.get(ASKED):
            item.add_marker(pytest.mark.skip(reason="an etcd of its own: `nox -s etcd` runs it"))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"

"""Which tests on real hosts run when: those marked ``long`` only in ``nox -s real``; what is skipped is named."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: on real hosts, and not cheap; runs in `nox -s real` only")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("NIXKUBE_REAL") == "all":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long on real hosts: `nox -s real` runs it"))

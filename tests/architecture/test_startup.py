"""``deploy --help`` imports next to nothing: start-up time, tested as a set of modules instead of a timer."""

import subprocess
import sys

HEAVY = {
    "anyio", "asyncio", "asyncssh", "cryptography", "lightkube", "httpx2", "msgspec", "rich", "structlog", "tenacity",
    "yaml", "nixkube_deploy.app", "nixkube_deploy.backends", "nixkube_deploy.engine", "nixkube_deploy.inventory",
    "nixkube_deploy.journal", "nixkube_deploy.lab", "nixkube_deploy.model", "nixkube_deploy.plan",
    "nixkube_deploy.protocols", "nixkube_deploy.ui",
}  # fmt: skip
PROGRAM = """
import sys
sys.argv = ["deploy", *{arguments!r}]
from nixkube_deploy.cli import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
print(*sorted(sys.modules), file=sys.stderr)
"""


def modules_of(*arguments: str) -> set[str]:
    program = PROGRAM.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_imports_nothing_heavy():
    assert not modules_of("--help") & HEAVY


def test_version_imports_nothing_heavy():
    assert not modules_of("--version") & HEAVY


def test_the_help_of_a_command_imports_nothing_heavy():
    assert not modules_of("apply", "--help") & HEAVY

"""Which stand-in answers to which name, and the small scripts that put them on PATH."""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from nixkube_deploy.lab.tools.deploy_rs import deploy_rs
from nixkube_deploy.lab.tools.nix import nix
from nixkube_deploy.lab.tools.nixos_anywhere import nixos_anywhere
from nixkube_deploy.lab.tools.nixos_rebuild import nixos_rebuild
from nixkube_deploy.lab.tools.workshop import ToolCall, ToolError

Tool = Callable[[ToolCall], Awaitable[int]]
TOOLS: Mapping[str, Tool] = {
    "deploy-rs": deploy_rs,
    "nix": nix,
    "nixos-anywhere": nixos_anywhere,
    "nixos-rebuild": nixos_rebuild,
}
PASSED_ON = ("HOME", "LOCAL_KEY", "PATH", "SSH_AUTH_SOCK", "TMPDIR")
"""Environment variables that reach a stand-in, besides all that begin with NIX."""

_SCRIPT = """\
#!{python} -IS
import json, os, socket, sys
env = {{k: v for k, v in os.environ.items() if k.startswith("NIX") or k in {passed!r}}}
link = socket.socket(socket.AF_UNIX)
try:
    link.connect({path!r})
except OSError as error:
    sys.exit("the lab behind this program is not running (%s): nixkube-lab up" % error.strerror)
call = {{"op": "tool", "tool": {tool!r}, "argv": sys.argv[1:], "env": env, "cwd": os.getcwd()}}
link.sendall(json.dumps(call).encode() + b"\\n")
for line in link.makefile(encoding="utf-8"):
    news = json.loads(line)
    if "exit" in news:
        sys.stdout.flush()
        os._exit(news["exit"])
    stream = sys.stdout if "out" in news else sys.stderr
    stream.write(news.get("out") or news.get("err") or "")
    stream.flush()
sys.exit("the lab behind this program went away")
"""


def write_scripts(folder: Path, socket_path: Path) -> None:
    """One small script a stand-in: no imports but the four it needs, so that it starts fast."""
    folder.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        script = folder / tool
        text = _SCRIPT.format(python=sys.executable, passed=PASSED_ON, path=os.fspath(socket_path), tool=tool)
        script.write_text(text)
        script.chmod(0o755)


async def run_tool(name: str, call: ToolCall) -> int:
    """Run a stand-in to its exit code."""
    try:
        return await TOOLS[name](call)
    except ToolError as error:
        call.err(error.text)
        return error.code

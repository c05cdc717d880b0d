"""What happens as asyncssh is imported."""

import ctypes
import subprocess
import sys

from nixkube_deploy.backends.ssh import libraries

PROGRAM = """
import subprocess, os
def refuse(*arguments, **named):
    raise AssertionError(f"a program is started: {arguments}")
subprocess.Popen.__init__ = refuse
os.fork = os.posix_spawn = os.system = refuse
import nixkube_deploy.backends.ssh.shell
import asyncssh, ctypes.util
assert ctypes.util.find_library.__module__ == "ctypes.util"
print(asyncssh.__version__)
"""


def test_importing_it_starts_no_program():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_library_that_is_there_is_found_and_can_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "libnotthere.so.2").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert libraries._find_library("notthere") == str(tmp_path / "libnotthere.so.2")
    assert libraries._find_library("nowhere-at-all") is None
    libc = libraries._find_library("c")
    assert libc is not None
    assert ctypes.CDLL(libc if libc.endswith(".6") else "libc.so.6").getpid() > 0

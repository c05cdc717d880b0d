"""Where this controller keeps its journals."""

import os
from pathlib import Path


def state_directory() -> Path:
    """``$NIXKUBE_DEPLOY_STATE``, else ``$XDG_STATE_HOME/nixkube-deploy``, else ``~/.local/state/nixkube-deploy``."""
    if explicit := os.environ.get("NIXKUBE_DEPLOY_STATE"):
        return Path(explicit).expanduser().absolute()
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser().absolute() / "nixkube-deploy"

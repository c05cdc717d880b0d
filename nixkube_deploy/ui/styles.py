"""Which colour a state has. Words always say it too: nothing is told by colour alone."""

from nixkube_deploy.ui.rows import HostState

STYLES = {
    HostState.WAITING: "dim",
    HostState.RUNNING: "yellow",
    HostState.DONE: "green",
    HostState.UNCHANGED: "green",
    HostState.FAILED: "bold red",
    HostState.ROLLED_BACK: "magenta",
    HostState.SKIPPED: "dim",
    HostState.INTERRUPTED: "magenta",
}

"""The manual: ``nox -l`` lists what can be done, ``nox`` does what CI does."""

import os
import shutil
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2025.2"

CONSTRAINTS = Path(__file__).parent / ".ci" / "constraints.txt"
PURE = tuple(f"tests/unit/{room}" for room in ("model", "plan", "engine", "journal"))
"""Tests of the rooms whose every branch must be taken."""
MEASURED = (
    "tests/lab/test_apply.py", "tests/lab/test_scale.py", "tests/lab/test_rolling_reboot.py", "tests/architecture",
)  # fmt: skip
"""Tests with a clock or a scale in their hand."""
WITH_NIX = tuple(f"tests/contract/test_nix_{what}.py" for what in ("build", "cli", "closures", "copy", "evaluation"))
"""Tests of whatever nix is found first."""
ALL_PAGES = {"NIXKUBE_DOCS": "all"}
"""The commands of every page of docs/ are run, also those that take long."""
STRICT = ("--fail-on-warning", "--keep-going", "--nitpicky", "--quiet")
"""Sphinx: a broken link, a page nobody can reach and a lexer's doubt are errors."""


def install(session: nox.Session) -> None:
    session.install("-q", "-c", str(CONSTRAINTS), "-e", ".", *nox.project.dependency_groups(PYPROJECT, "dev"))


PYPROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, strict types, layers and the size budget."""
    install(session)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("lint-imports", "--no-cache")
    session.run("pytest", "-q", "tests/architecture/test_size.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but the slow tiers, with 100 % branch coverage of the pure rooms. Arguments go to pytest instead."""
    install(session)
    if session.posargs:
        session.run("pytest", *session.posargs)
        return
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", *PURE, "tests/properties")
    session.run("coverage", "report")
    # Two at a time what mostly waits; alone what is measured against the clock.
    aside = [f"--ignore={path}" for path in (*PURE, *MEASURED, "tests/properties")]
    session.run("pytest", "-q", "-n", "2", "--dist", "loadfile", "tests", *aside)
    session.run("pytest", "-q", *MEASURED)


@nox.session
def unit(session: nox.Session) -> None:
    """Only what needs no I/O: seconds. Arguments go to pytest."""
    install(session)
    session.run("pytest", "-q", *(session.posargs or ["tests/unit"]))


@nox.session
def lab(session: nox.Session) -> None:
    """The product against the embedded lab, with faults."""
    install(session)
    session.run("pytest", "tests/lab", "tests/cli", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill the controller at fifty points of a rollout, finish every one: six minutes (`nox -s lab` does ten)."""
    install(session)
    fifty = {"NIXKUBE_CRASH_ROUNDS": "50"}
    session.run("pytest", "-s", "tests/lab/test_crash.py", *session.posargs, env=fifty)


@nox.session
def faults(session: nox.Session) -> None:
    """Every trouble of a cluster, also those that mostly wait for a deadline: three minutes."""
    install(session)
    session.run("pytest", "tests/lab/test_cluster_faults.py", *session.posargs, env={"NIXKUBE_LONG_FAULTS": "1"})


@nox.session
def contract(session: nox.Session) -> None:
    """Against real OpenSSH, kubectl and nix, where these programs are present; each absence is named."""
    install(session)
    session.run("pytest", "tests/contract", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """Real sshd, nix and systemd, every fault: root, some minutes. `--nix=trixie` or `--nix=forky`: a newer Nix."""
    install(session)
    if os.geteuid() != 0:
        session.error("real hosts are made of namespaces and mounts: run this as root")
    suites = [each.removeprefix("--nix=") for each in session.posargs if each.startswith("--nix=")]
    chosen = [each for each in session.posargs if not each.startswith("--nix=")]
    for suite in suites or [""]:
        env = {"NIXKUBE_REAL": "all", "NIXKUBE_REAL_NIX": suite}
        if suite:  # Fails where there is no such Nix: nothing is tested with another one in its name.
            programs = str(session.run("python", "-m", "tests.real.bed.tree", suite, silent=True)).split()[-1]
            paths = os.pathsep.join((session.bin, programs, os.environ["PATH"]))
            session.run("sh", "-c", "nix --version", env={"PATH": paths}, external=True)
            if not chosen:
                session.run("pytest", "-q", *WITH_NIX, env={"PATH": paths})
        session.run("pytest", "-q", *(chosen or ["tests/real"]), env=env)


@nox.session
def vm(session: nox.Session) -> None:
    """Real reboots: a QEMU machine with firmware, systemd-boot and kernel (root, five minutes); fails where none is."""
    install(session)
    session.run("python", "-m", "tests.real.vm.image")
    session.run("pytest", "-s", "-q", "tests/real/vm", *session.posargs, env={"NIXKUBE_VM": "1"})


@nox.session
def cluster(session: nox.Session) -> None:
    """A real etcd, kube-apiserver, controllers and scheduler (built from Go modules, once); fails where none is."""
    install(session)
    session.run("python", "-m", "tests.real.control_plane.programs")
    session.run("pytest", "-v", *(session.posargs or ["tests/real/control_plane"]), env={"NIXKUBE_CLUSTER": "1"})


@nox.session
def flakes(session: nox.Session) -> None:
    """What deploy init writes: every file parses, every option exists and fits. `--nixpkgs=PATH`, or only its lib."""
    install(session)
    session.run("python", "-m", "tests.flakes.evaluation", *session.posargs)
    given = {f"NIXKUBE_{name.upper().replace('-', '_')}": path for name, path in _given(session.posargs)}
    session.run("pytest", "-q", "-rs", "tests/flakes", env=given)


def _given(arguments: list[str]) -> list[tuple[str, str]]:
    pairs = (each.removeprefix("--").partition("=") for each in arguments)
    return [(name, str(Path(path).resolve())) for name, equals, path in pairs if equals]


@nox.session
def etcd(session: nox.Session) -> None:
    """The etcd gate against a real etcd of three members, plain and with client certificates (root, two minutes)."""
    install(session)
    session.run("pytest", "-q", *(session.posargs or ["tests/real/etcd"]), env={"NIXKUBE_ETCD": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Engine cost at 1,000 and 10,000 hosts, makespan against its lower bound, start-up; evaluation of 50 hosts."""
    install(session)
    session.run("python", "tests/bench/engine.py", *session.posargs)
    session.run("python", "-m", "tests.bench.evaluation")


@nox.session
def side_by_side(session: nox.Session) -> None:
    """This product against a shell loop, pyinfra and ansible-core on ten real hosts (root, about five minutes)."""
    install(session)
    session.run("python", "tests/bench/side_by_side.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Generated pages anew, then the site and the man pages, strictly, to build/docs; every command in them is run."""
    install(session)
    session.run("python", "-m", "tests.docs.pages")
    for kind in ("html", "man"):
        session.run(
            "python", "-m", "sphinx", *STRICT, "-b", kind, "-d", "build/docs/doctrees", "docs", f"build/docs/{kind}"
        )
    session.log("build/docs/html/index.html, build/docs/man/nixkube-deploy.1")
    session.run(
        "pytest", "-q", *(session.posargs or ["tests/docs", "tests/cli/test_documented_commands.py"]), env=ALL_PAGES
    )


@nox.session
def shells(session: nox.Session) -> None:
    """TAB in bash, zsh and fish: Debian's packages, seen by this session alone (root; a few MB, once)."""
    install(session)
    tree = Path("build/shells").absolute()
    if not (tree / "done").exists():
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "debs").mkdir(parents=True)
        packages = ("zsh", "zsh-common", "fish", "fish-common", "libpcre2-32-0")
        with session.chdir(tree / "debs"):
            session.run("apt-get", "download", "-qq", *packages, external=True)
        for package in sorted((tree / "debs").glob("*.deb")):
            session.run("dpkg-deb", "-x", str(package), str(tree), external=True, silent=True)
        shutil.copytree(tree / "bin", tree / "usr/bin", dirs_exist_ok=True, symlinks=True)
        (tree / "done").touch()
    inside = f'mount -t overlay overlay -o "lowerdir={tree}/usr:/usr" /usr && exec "$@"'
    test = ("pytest", "-q", "tests/cli/test_completion.py", *session.posargs)
    session.run("unshare", "-m", "sh", "-c", inside, "sh", *test, external=True, env={"NIXKUBE_SHELLS": "all"})


@nox.session
def format(session: nox.Session) -> None:  # noqa: A001 (the name people type)
    """Let ruff mend what it can."""
    session.install("-q", "-c", str(CONSTRAINTS), "ruff")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def lock(session: nox.Session) -> None:
    """Write .ci/constraints.txt anew from pyproject.toml."""
    session.install("-q", "-U", "-e", ".", *nox.project.dependency_groups(PYPROJECT, "dev"))
    frozen = session.run("pip", "freeze", "--exclude-editable", silent=True)
    CONSTRAINTS.write_text(str(frozen))


@nox.session
def clean(session: nox.Session) -> None:
    """Remove caches and virtual environments of nox."""
    for name in (".nox", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".coverage"):
        shutil.rmtree(name, ignore_errors=True)
    session.log("clean")

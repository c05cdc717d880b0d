"""This product against a shell loop, pyinfra and ansible-core, on the same real hosts in one run.

Run it as root: ``python tests/bench/side_by_side.py``. Every contender brings up a fresh change of one file and is then
started again with nothing to do; after each run every host is asked what it runs. Exits with 1 when ours is slower on
changes than the best of the others, or less than three times as fast as the slowest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.contenders import COMPETITORS, Contender, contenders
from tests.bench.meter import Cost, Meter
from tests.bench.range import Range, open_range

TIMES_THE_SLOWEST = 3.0
JOBS = ("change", "no-op")


@dataclass(slots=True)
class Results:
    """Every cost, by contender and job."""

    costs: dict[str, dict[str, list[Cost]]] = field(default_factory=dict)

    def add(self, name: str, job: str, cost: Cost) -> None:
        self.costs.setdefault(name, {}).setdefault(job, []).append(cost)

    def median(self, name: str, job: str, what: str = "seconds") -> float:
        return statistics.median(getattr(cost, what) for cost in self.costs[name][job])

    def plain(self) -> dict[str, dict[str, list[dict[str, object]]]]:
        """For JSON; what the programs said is left out."""

        def figures(cost: Cost) -> dict[str, object]:
            return {name: value for name, value in asdict(cost).items() if name != "output"}

        return {name: {job: [*map(figures, costs)] for job, costs in jobs.items()} for name, jobs in self.costs.items()}

    def spread(self, name: str, job: str) -> tuple[float, float]:
        seconds = [cost.seconds for cost in self.costs[name][job]]
        return min(seconds), max(seconds)


def compete(rng: Range, field_of: Sequence[Contender], repeats: int) -> Results:
    """``repeats`` rounds; in each every contender once, and each round another one begins."""
    results, meter = Results(), Meter(inits=rng.inits, logins=rng.logins)
    for round_ in range(-1, repeats):  # Round -1 warms file caches and is not counted.
        turn = max(round_, 0) % len(field_of)
        for contender in (*field_of[turn:], *field_of[:turn]):
            rng.change()
            for job in JOBS:
                cost = meter.measure(rng.here(contender.argv), environment(contender, rng))
                check(rng, contender, job, cost)
                note = "" if round_ >= 0 else "  (not counted)"
                sys.stderr.write(f"{contender.name:<20} {job:<7} {cost.seconds:6.2f} s {cost.logins:4} logins{note}\n")
                if round_ >= 0:
                    results.add(contender.name, job, cost)
    return results


def environment(contender: Contender, rng: Range) -> dict[str, str]:
    """Python programs may keep their byte code, as installed ones do."""
    unwanted = {"PYTHONDONTWRITEBYTECODE", "NIX_SSHOPTS"}
    plain = {name: value for name, value in os.environ.items() if name not in unwanted}
    return {**plain, **rng.environ, "PYTHONPYCACHEPREFIX": str(rng.site.work / "pyc"), **contender.env}


def check(rng: Range, contender: Contender, job: str, cost: Cost) -> None:
    """It counts only when it did the work."""
    if cost.exit_code:
        sys.exit(f"{contender.name} ({job}) ended with {cost.exit_code}:\n{cost.output[-4000:]}")
    if wrong := rng.astray():
        sys.exit(f"{contender.name} ({job}) left hosts on another system: {', '.join(wrong)}\n{cost.output[-4000:]}")


def table(results: Results, names: Sequence[str]) -> str:
    """For people: medians, and from the fastest to the slowest run."""
    head = f"{'':<20}{'change':>8}{'(min-max)':>14}{'no-op':>8}{'(min-max)':>14}{'logins':>13}{'CPU s here+hosts':>26}"
    lines = [head]
    for name in names:
        cells = [f"{name:<20}"]
        for job in JOBS:
            low, high = results.spread(name, job)
            cells.append(f"{results.median(name, job):>8.2f}{f'({low:.2f}-{high:.2f})':>14}")
        logins = " / ".join(f"{results.median(name, job, 'logins'):.0f}" for job in JOBS)
        cells.append(f"{logins:>13}")
        spent = (f"{results.median(name, job, 'here'):.1f}+{results.median(name, job, 'there'):.1f}" for job in JOBS)
        cells.append(f"{' / '.join(spent):>26}")
        lines.append("".join(cells))
    return "\n".join(lines) + "\n"


def broken_promises(results: Results, names: Sequence[str]) -> list[str]:
    ours, others = names[0], names[1:]
    broken = []
    best = min(others, key=lambda name: results.median(name, "change"))
    if results.median(ours, "change") > results.median(best, "change"):
        broken.append(f"a change takes longer than with {best}")
    for job in JOBS:
        slowest = max(others, key=lambda name: results.median(name, job))
        ratio = results.median(slowest, job) / results.median(ours, job)
        if ratio < TIMES_THE_SLOWEST:
            broken.append(f"{job}: {ratio:.2f} times as fast as {slowest}, not {TIMES_THE_SLOWEST:g}")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--tier", type=int, choices=(1, 2), default=2, help="2: hosts with a systemd of their own")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count")
    parser.add_argument("--tools", type=Path, help="where pyinfra and ansible-playbook are; installed when not given")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as work:
        tools = options.tools or install(Path(work) / "venv")
        with open_range(options.tier, options.hosts, Path(work), tools) as rng:
            field_of = contenders(rng.site, rng.outputs_suffix)
            results = compete(rng, field_of, options.repeats)
    names = [one.name for one in field_of]
    broken = broken_promises(results, names)
    if options.json:
        found = {"hosts": options.hosts, "tier": options.tier, "costs": results.plain(), "broken": broken}
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        sys.stdout.write(table(results, names))
        sys.stdout.write("".join(f"BROKEN: {line}\n" for line in broken) or "every promise kept\n")
    return 1 if broken else 0


def install(folder: Path) -> Path:
    """The competitors, in an environment of their own."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", *COMPETITORS], check=True)
    return folder / "bin"


if __name__ == "__main__":
    sys.exit(main())

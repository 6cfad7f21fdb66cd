"""Every benchmark in a process of its own, one after the other, and one table of all ratios: what `make bench` runs.

python benchmarks/_all.py [NAME ...] [--limit 120] [--results benchmarks/results] [--add-to benchmarks/results/X.json]

Leaves RESULTS/DATE_MACHINE.md and .json, written anew after each benchmark, so that a run that is stopped leaves what
it has; what each printed lies in out/bench. Nothing is compared across runs: each ratio is of one interleaved run.
A benchmark that cannot run here says so in its row, and one that takes longer than --limit is stopped: those that keep
finished parts under out/ (the arms) go on with the next run. Exit status 1: one failed. A missed bar is no failure.
All take many hours: with --add-to those of another night join the table of the first, on the same machine only.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from _table import Held, Row, held, page, parse, plain, read_claims

from fahr.progress import progress
from fahr.version import code_version

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Beside a run of each file as it is: the file, its arguments, and whether it needs a card.
MORE = {
    "pretrain_step on a card": ("pretrain_step", ["--device", "cuda"], True),
    "serve with whole photos": ("serve", ["--photos"], False),
}


def runs(names: list[str]) -> dict[str, tuple[Path, list[str], str]]:
    """Name -> file, arguments, and why it cannot run here (empty: it can)."""
    found = {path.stem: (path, list[str](), "") for path in sorted(HERE.glob("[a-z]*.py"))}
    for name, (file, arguments, card) in MORE.items():
        why = "not run: needs a CUDA device" if card and not torch.cuda.is_available() else ""
        found[name] = (found[file][0], arguments, why)
    if unknown := sorted(set(names) - found.keys()):
        sys.exit(f"{', '.join(unknown)}: no such benchmark. They are {', '.join(found)}.")
    return {name: run for name, run in found.items() if not names or name in names}


def machine() -> list[str]:
    """What the figures depend on. No name of a machine or a person."""
    flags = set(Path("/proc/cpuinfo").read_text().split()) if Path("/proc/cpuinfo").exists() else set[str]()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cards = [torch.cuda.get_device_properties(n).total_memory / 2**30 for n in range(torch.cuda.device_count())]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ray", "numpy", "timm"))
    gpus = f"{len(cards)} GPU of {cards[0]:.0f} GiB" if cards else "no GPU"
    return [
        f"{platform.machine()} ({', '.join(known)}), {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {gpus}; "
        f"{platform.system()}, Python {platform.python_version()}, {versions}; code {code_version()}.",
        f"Load before it began: {os.getloadavg()[0]:.1f}. A ratio above 1: ours is faster, or the larger share.",
    ]


def run(file: Path, arguments: list[str], log: Path, limit_s: float) -> str:
    """How it ended. What it printed is in `log`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with log.open("w") as told:
        child = subprocess.Popen(
            [sys.executable, str(file), *arguments], cwd=ROOT, stdout=told, stderr=subprocess.STDOUT,
            env={**environment, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
        try:
            status = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # Ctrl-C too: nothing that it started stays
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if status is None:
        return f"stopped after {limit_s / 60:g} minutes"
    if status == 0:
        return "ended"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return f"FAILED ({status}): {' '.join(last)[:200]}"


def free_name(results: Path) -> Path:
    """DATE_MACHINE, numbered where an earlier run has that name: a result is never written over."""
    kind = f"{len(os.sched_getaffinity(0))}cpu" + ("_gpu" if torch.cuda.is_available() else "")
    name = f"{datetime.now(UTC):%Y-%m-%d}_{kind}"
    number = 1
    while (place := results / (name if number == 1 else f"{name}_{number}")).with_suffix(".md").exists():
        number += 1
    return place


def earlier(place: Path, about: list[str], names: Iterable[str]) -> tuple[list[str], list[Row], dict[str, Any]]:
    """Of a run that this one is added to: its head with ours below, and what it has of benchmarks not in `names`."""
    told = json.loads(place.read_text())
    theirs, ours = (line.rpartition("; code ")[0] for line in (told["machine"][0], about[0]))
    if theirs != ours:
        sys.exit(f"{place}: was made on another machine, or with other versions: {theirs}. Here: {ours}.")
    keeps = {name: how for name, how in told["ran"].items() if name not in names}
    rows = [Row(**row) for row in told["rows"] if row["benchmark"] in keeps]
    took = {name: seconds for name, seconds in told["seconds"].items() if name in keeps}
    here = f"Added {datetime.now(UTC):%Y-%m-%d}: {', '.join(names)}; {about[0].rpartition('; ')[2]} {about[1]}"
    return [*told["machine"], here], rows, {"ran": keeps, "took": took}


def write(place: Path, about: list[str], rows: list[Row], ran: dict[str, str], took: dict[str, float]) -> list[Held]:
    claims = held(read_claims(), rows)
    text = page(f"All benchmarks, {place.name[:10]}", about, rows, claims, ran)
    place.with_suffix(".md").write_text(text)
    told = {"machine": about, "ran": ran, "seconds": took, **plain(rows, claims)}
    place.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks; all, if none is named")
    parser.add_argument("--limit", type=float, default=120, help="minutes that one may take")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--add-to", type=Path, metavar="JSON", help="a result whose table these benchmarks join")
    parser.add_argument("--logs", type=Path, default=ROOT / "out" / "bench")
    options = parser.parse_args()
    todo, about = runs(options.names), machine()
    options.results.mkdir(parents=True, exist_ok=True)
    options.logs.mkdir(parents=True, exist_ok=True)
    place, rows = free_name(options.results), list[Row]()
    ran, took = dict[str, str](), dict[str, float]()
    if options.add_to:
        place = options.add_to.with_suffix("")
        about, rows, before = earlier(options.add_to, about, todo)
        ran, took = before["ran"], before["took"]
    claims: list[Held] = []
    with progress(len(todo), "benchmarks", "bench") as bar:
        for name, (file, arguments, why) in todo.items():
            print(f"bench: {name}{f': {why}' if why else ''}", flush=True)
            began, log = time.monotonic(), options.logs / f"{name.replace(' ', '_')}.txt"
            ran[name] = why or run(file, arguments, log, 60 * options.limit)
            if not why:
                took[name] = round(time.monotonic() - began, 1)
                rows += parse(name, log.read_text(errors="replace"))
                print(f"bench: {name}: {ran[name]} after {took[name]:.0f} s", flush=True)
            claims = write(place, about, rows, ran, took)
            bar.update()
    count = [sum(each.met is value for each in claims) for value in (True, False)]
    unmeasured = sum(each.row is None for each in claims)
    print(f"bench: of {len(claims)} promised or told, {count[0]} met, {count[1]} missed, {unmeasured} not measured")
    print(f"bench: {place.with_suffix('.md')}")
    sys.exit(any(how.startswith("FAILED") for how in ran.values()))


if __name__ == "__main__":
    main()

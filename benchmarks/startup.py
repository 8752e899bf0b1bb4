"""How long ``graphopt --help`` takes: the wall time of fresh processes, and what is imported on the way.

    python benchmarks/startup.py [--runs 11] [--publish]

Imports are what the time goes into; graphopt's own command line imports no package of HEAVY before a command needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from publish import RESULTS, circumstances, publish
from rich.console import Console
from tables import Table

COMMANDS: tuple[tuple[str, ...], ...] = (("--help",), ("optimize", "--help"), ("passes",))
HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "sympy", "tvm", "torch", "rich", "jinja2")
"""Packages whose import would show."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs, prints and writes; 1 when a command fails, 2 when there is no command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=11, help="processes for each command")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    program = Path(sys.executable).with_name("graphopt")
    if not program.exists():
        console.print(f"there is no {program}: install graphopt into this environment", style="yellow", markup=False)
        return 2
    rows: list[tuple[str, ...]] = [_empty(chosen.runs)]
    failed = False
    for command in COMMANDS:
        times, problem = timed([str(program), *command], chosen.runs)
        name = f"graphopt {' '.join(command)}"
        failed |= bool(problem)
        rows.append((name, problem, "", "", "") if problem else (name, *_times(times), ", ".join(imported(command))))
    columns = ("command", "median s", "fastest s", "CPU s", "imports")
    table = Table(f"Wall time of {chosen.runs} fresh processes, after one to fill the page cache", columns, tuple(rows))
    table.show(console)
    chosen.out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    (chosen.out / "startup.jsonl").write_text(lines, encoding="utf-8")
    text = "\n\n".join([circumstances(), table.markdown()])
    (chosen.out / "startup.md").write_text(text + "\n", encoding="utf-8")
    if chosen.publish:
        publish("startup", text)
    return 1 if failed else 0


def timed(command: Sequence[str], runs: int) -> tuple[list[tuple[float, float]], str]:
    """Wall and CPU seconds of each run, and what went wrong."""
    times: list[tuple[float, float]] = []
    for _ in range(runs + 1):
        started, used = time.perf_counter(), _children()
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        times.append((time.perf_counter() - started, _children() - used))
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            return [], f"failed ({done.returncode}): {last[:120]}"
    return times[1:], ""


def imported(command: Sequence[str]) -> list[str]:
    """Which of the heavy packages the command imports."""
    program = "\n".join(
        [
            "import contextlib, io, sys",
            f"sys.argv = ['graphopt', *{list(command)!r}]",
            "from graphopt.cli import main",
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()",
            f"print(*[name for name in {HEAVY!r} if name in sys.modules])",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split()


def _empty(runs: int) -> tuple[str, ...]:
    """Python itself, for comparison."""
    times, _ = timed([sys.executable, "-c", "pass"], runs)
    return ("python -c pass", *_times(times), "")


def _children() -> float:
    """CPU seconds of all child processes so far."""
    used = os.times()
    return used.children_user + used.children_system


def _times(times: Sequence[tuple[float, float]]) -> tuple[str, str, str]:
    wall, cpu = zip(*times, strict=True)
    return f"{statistics.median(wall):.3f}", f"{min(wall):.3f}", f"{statistics.median(cpu):.3f}"


if __name__ == "__main__":
    sys.exit(main())

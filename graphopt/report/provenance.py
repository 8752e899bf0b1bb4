"""Where a run comes from and how to do it again: commands, machine, versions, source."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from . import formats
from .reading import Run
from .values import as_dict, as_list, number, size, text

MACHINE = {
    "cpu": "Processor",
    "cores": "Cores",
    "memory": "Memory",
    "os": "System",
    "architecture": "Architecture",
    "isa": "Vector units",
}


def commands(run: Run) -> list[tuple[str, str]]:
    """How to do it again: (what the command does, the command)."""
    command = text(run.fact("command"))
    if isinstance(run.fact("command"), list):
        command = shlex.join(text(word) for word in run.facts["command"])
    if not command:
        return []
    command = command if command.startswith("graphopt ") else f"graphopt {command}"
    try:
        found = [("As it was run", _lined(shlex.split(command)))]
    except ValueError:  # quotes that do not match
        found = [("As it was run", command)]
    source = text(run.fact("source", "path"))
    if run.recipe and source and command.startswith("graphopt optimize"):
        folder = text(run.fact("folder")) or text(run.fact("id")) or run.name
        words = [
            "graphopt",
            "optimize",
            source,
            "-o",
            "model.opt.onnx",
            "--recipe",
            str(PurePath(folder) / "recipe.toml"),
        ]
        facts = {"target": run.fact("target"), "data": run.fact("data_path"), "seed": run.fact("seed")}
        if text(facts["data"]):
            facts.pop("seed")
        for option, fact in facts.items():
            if text(fact):
                words += [f"--{option}", text(fact)]
        found.append(("With the recipe of this folder", _lined(words)))
    return found


def _lined(words: list[str]) -> str:
    """A command for a shell, an option a line when it is long."""
    whole = shlex.join(words)
    if len(whole) <= 60:
        return whole
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-") and word != "-":
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines)


def machine(run: Run) -> list[tuple[str, str]]:
    """(what, value) of the machine, the known facts first."""
    facts = as_dict(run.fact("machine"))
    memory = size(facts.get("memory"))
    if memory is not None:
        facts = {**facts, "memory": formats.size(memory)}
    order = [*(key for key in MACHINE if key in facts), *(key for key in facts if key not in MACHINE)]
    return [(MACHINE.get(key, key), text(facts[key])) for key in order if facts[key] is not None]


def profiles(run: Run) -> list[str]:
    """Where what the target knows of fused operators was measured, the profile that is asked first at first."""
    here = text(run.fact("machine", "cpu"))
    found: list[str] = []
    for item in map(as_dict, as_list(run.fact("profiles"))):
        local = text(item.get("origin")) == "local"
        cpu, runtime, day = (text(item.get(key)) for key in ("cpu", "onnxruntime", "measured"))
        threads = size(item.get("threads"))
        parts = [cpu, formats.plural(threads, "thread") if threads else "all cores"]
        parts += [f"onnxruntime {runtime}"] if runtime else []
        parts += [day] if day else []
        where = "measured on this machine" if local else "shipped with graphopt, measured on"
        other = "; another processor than this run’s" if cpu and here and cpu != here else ""
        file = f"{text(item.get('path'))}, SHA-256 {text(item.get('sha256'))[:16]}"
        found.append(f"{where}{':' if local else ''} {', '.join(part for part in parts if part)}{other} ({file})")
    return found


def versions(run: Run) -> list[tuple[str, str]]:
    """(package, version)."""
    return [(key, text(item)) for key, item in as_dict(run.fact("versions")).items() if item is not None]


def origin(run: Run) -> list[tuple[str, str, bool]]:
    """(what, value, whether it is a name or digest to be shown as code)."""
    took = number(run.fact("seconds"))
    opsets = [stats.opset for stats in (run.before, run.after) if stats and stats.opset is not None]
    found = [
        ("Run", text(run.fact("id")) or run.name, True),
        ("Started", formats.moment(text(run.fact("created"))), False),
        ("Took", formats.seconds(took) if took is not None and 0 <= took < 2**63 else "", False),
        ("Source", text(run.fact("source", "path")), True),
        ("SHA-256", text(run.fact("source", "sha256")), True),
        ("File size", formats.size(size(run.fact("source", "bytes"))), False),
        ("Opset", " → ".join(str(opset) for opset in dict.fromkeys(opsets)), False),
        ("Target", text(run.fact("target")), True),
        ("Profile", "; ".join(profiles(run)) or ("not measured" if run.fact("profiles") == [] else ""), False),
        ("Feeds", text(run.fact("data")), False),
        ("graphopt", text(run.fact("graphopt")), False),
    ]
    return [line for line in found if line[1] and line[1] != formats.NOTHING]

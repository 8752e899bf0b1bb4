"""Run folders made by hand, whole and hostile, and a strict reader of the page made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graphopt.report import render

HOSTILE = "<script>alert('x')</script>\"&\u202e\x00<img src=x onerror=alert(1)>"


def write(folder: Path, name: str, content: Any) -> None:
    """A JSON file, or JSON lines from a list."""
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(record) + "\n" for record in content)
    else:
        text = json.dumps(content)
    (folder / name).write_text(text, "utf-8")


def site(where: str, text: str, status: str = "changed") -> dict[str, str]:
    return {"where": where, "text": text, "status": status}


def profile(origin: str, cpu: str, threads: int) -> dict[str, Any]:
    return {"origin": origin, "path": f"{origin}/x86-64.json", "sha256": "cd" * 32, "measured": "2026-11-22"} | {
        "cpu": cpu, "onnxruntime": "1.31.1", "threads": threads, "forms": 37,
    }  # fmt: skip


def fill(folder: Path, name: str = "x", output: str = "logits") -> Path:
    """A finished run with every file; ``name`` goes into every text a model could have chosen."""
    folder.mkdir(parents=True, exist_ok=True)
    write(
        folder,
        "run.json",
        {
            "id": folder.name,
            "command": f"optimize '{name}.onnx' -o out.onnx" if name == "x" else ["optimize", name],
            "created": "2026-11-22T01:45:01+00:00",
            "finished": "2026-11-22T01:45:09+00:00",
            "seconds": 8.25,
            "graphopt": "0.1.0",
            "versions": {"graphopt": "0.1.0", "onnxruntime": "1.31.1"},
            "machine": {"cpu": "Example CPU 9000", "cores": 8, "memory": 34359738368, "os": "Linux 6"},
            "source": {"path": f"models/{name}.onnx", "sha256": "ab" * 32, "bytes": 4_200_000},
            "target": "x86-64",
            "profiles": [profile("local", "Example CPU 9000", 2), profile("packaged", "Another CPU", 1)],
            "data": "feeds.npz",
            "data_path": "feeds.npz",
            "seed": 7,
            "folder": f"all/{folder.name}",
        },
    )
    sites = [site(f"BatchNormalization '{name}{i}'", f"folded into Conv '{name}{i}'") for i in range(12)]
    sites += [site(f"BatchNormalization 'k{i}'", f"its scale '{name}{i}' is not a constant", "kept") for i in range(3)]
    sites.append(site(f"BatchNormalization 'shared{name}'", "the Conv has another reader", "kept"))
    sites.append(site(f"BatchNormalization 'guilty{name}'", "folded into Conv 'c'", "left-out"))
    step = {
        "pass": "fuse-batchnorm{limit=3}",
        "family": "fuse",
        "fidelity": "NUMERIC",
        "changed": 12,
        "kept": 4,
    }
    step |= {"seconds": 0.0711, "node_delta": -12, "sites": sites, "error": ""}
    idle = {"pass": "no-op-cast", "family": "clean", "round": 1, "fidelity": "exact", "changed": 0, "kept": 0}
    idle |= {"seconds": 0.00008, "nodes_before": 1872, "nodes_after": 1872, "sites": []}
    write(folder, "steps.jsonl", [step, idle])
    before = {"nodes": 1884, "initializers": 300, "parameters": 1_048_576, "bytes": 4_194_304, "opset": 17}
    before |= {"flops": 4_200_000_000, "activations": 9_000_000, "peak": 2**21, "cost_notes": []}
    after = before | {"nodes": 1872, "initializers": 252, "bytes": 4_193_280, "flops": 4_100_000_000, "peak": 2**20}
    operators = {"Conv": 1000, "Relu": 872, "BatchNormalization": 12, f"custom::{name}": 3, "Transpose": 9}
    gone = {key: count for key, count in operators.items() if key != "BatchNormalization"}
    gone |= {"HardSwish": 4, "Transpose": 2}
    write(
        folder,
        "stats.json",
        {"before": before | {"operators": operators}, "after": after | {"operators": gone}, "sizes": "N=4"},
    )
    used = {"form": "Gelu", "verdict": "used", "why": "measured as faster", "sizes": [1024, 4096], "unit": "elements"}
    used |= {"ratio": [0.58, 0.7], "origin": "local", "before": 0, "after": 4}
    refused = {"form": "com.microsoft::SkipLayerNormalization", "verdict": "refused", "why": "measured as slower"}
    refused |= {"sizes": [], "unit": "elements", "ratio": [2.18, 8.02], "origin": "packaged", "before": 0, "after": 0}
    strange = {"form": name, "verdict": name, "why": name, "sizes": [], "unit": name, "ratio": None}
    write(folder, "decisions.jsonl", [used, refused, strange])
    fine = {
        "name": output,
        "dtype": "float32",
        "shape": [1, "N", 1000],
        "max_abs": 5.96e-8,
        "max_rel": 1.3e-6,
    }
    fine |= {"sqnr_db": 138.42, "tolerance": {"rtol": 1e-4, "atol": 1e-5}, "ok": True}
    same = {
        "name": f"ids{name}",
        "dtype": "int64",
        "shape": [],
        "max_abs": 0.0,
        "max_rel": 0.0,
        "sqnr_db": None,
    }
    same |= {"tolerance": "exact", "ok": True}
    write(folder, "verify.json", {"verdict": "within tolerance", "feeds": 8, "outputs": [fine, same]})
    first = {
        "name": "before",
        "median_ms": 2.314,
        "ratio": 1.0,
        "ratio_low": 1.0,
        "ratio_high": 1.0,
        "runs": 201,
    }
    first |= {
        "load_s": 0.0832,
        "peak_bytes": 58_400_000,
        "file_bytes": 4_200_000,
        "threads": 1,
        "provider": "CPU",
    }
    second = first | {
        "name": "after",
        "median_ms": 1.62,
        "ratio": 0.701,
        "ratio_low": 0.683,
        "ratio_high": 0.722,
    }
    write(folder, "measurements.jsonl", [first, second])
    (folder / "recipe.toml").write_text(f'# {name}\n[[pass]]\nname = "fuse-batchnorm"\n', "utf-8")
    (folder / "model.onnx").write_bytes(b"\x08\x09" * 100)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of every part."""
    return fill(tmp_path / "20261122-014501-optimize-x")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A run of a model whose every name is an attack."""
    return fill(tmp_path / "hostile", HOSTILE, HOSTILE)


VOID = frozenset(("meta", "link", "input", "br", "wbr", "img", "hr"))


class Page(HTMLParser):
    """Parses a page and fails on a tag that is not closed where it was opened."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}> at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """The words, with single plain spaces."""
        return " ".join("".join(self.words).replace("\u00a0", " ").split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def rendered() -> Callable[[Path], Page]:
    """Renders a run folder and reads the page."""
    return lambda folder: Page(render(folder).read_text("utf-8"))

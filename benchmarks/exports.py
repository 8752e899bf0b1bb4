"""Makes the export set of the simplify benchmark: 11 torch models by both exporters, with feeds.

    python -m pip install -r benchmarks/requirements.txt
    python benchmarks/exports.py --out DIR [--only bert,t5] [--exporter dynamo] [--again]

Writes DIR/<model>.<exporter>.onnx, the feeds beside it as .npz (keys ``<i>|<input>``) and DIR/exports.json.
For each it tries dynamic dimensions first and fixed ones after, torch's fused attention first and the
written-out one after, and says what worked. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.models.export import Exported, Exporter, export

EXPORTERS: tuple[Exporter, ...] = ("dynamo", "torchscript")
SIZES = ((2, 32), (3, 20))
"""Batch and length of the two feeds; the first is the example the export is traced with."""


def main() -> int:
    """Makes what is missing; 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="folder for the models")
    parser.add_argument("--only", default="", help="names of models, with commas")
    parser.add_argument("--exporter", choices=EXPORTERS, help="one exporter only")
    parser.add_argument("--again", action="store_true", help="make what is there already too")
    chosen = parser.parse_args()
    try:
        from export_models import MODELS
    except ImportError as error:
        print(f"{error}: python -m pip install -r benchmarks/requirements.txt", file=sys.stderr)
        return 2
    names = [name for name in chosen.only.split(",") if name] or list(MODELS)
    if unknown := set(names) - set(MODELS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    table = chosen.out / "exports.json"
    rows: dict[str, dict[str, Any]] = json.loads(table.read_text()) if table.exists() else {}
    for name in names:
        for exporter in [chosen.exporter] if chosen.exporter else EXPORTERS:
            key = f"{name}.{exporter}"
            if (chosen.out / f"{key}.onnx").exists() and key in rows and not chosen.again:
                print(f"{key:28} is there")
                continue
            rows[key] = make(MODELS[name], key, exporter, chosen.out)
            print(f"{key:28} {line(rows[key])}", flush=True)
            table.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
    return 1 if any("failed" in row for row in rows.values()) else 0


def variants(model: Any) -> Iterator[tuple[bool, str]]:
    """What to try, in this order: dynamic dimensions or not, attention implementation."""
    for dynamic in (True, False):
        for attention in model.attentions:
            yield dynamic, attention


def make(model: Any, key: str, exporter: Exporter, folder: Path) -> dict[str, Any]:
    """Exports one model, writes its feeds, and says how it went."""
    import torch

    path = folder / f"{key}.onnx"
    reasons: list[str] = []
    for dynamic, attention in variants(model):
        torch.manual_seed(0)
        module = model.build(attention).eval()
        drawn = [model.draw(*size) for size in (SIZES if dynamic else SIZES[:1])]
        started = time.perf_counter()
        try:
            done = export(
                lambda module=module, drawn=drawn, dynamic=dynamic: (
                    module,
                    drawn[0],
                    options(model, drawn[0], exporter) if dynamic else {},
                ),
                path,
                exporter=exporter,
            )
        except GraphoptError as error:
            reasons.append(f"{'dynamic' if dynamic else 'fixed'}, {attention}: {error.what}"[:300])
            continue
        seconds = time.perf_counter() - started
        right, why = held(done, module, drawn)
        reasons += [why] if why else []
        if not right:
            path.unlink()
            continue
        arrays = {f"{i}|{k}": v.numpy() for i, feed in enumerate(drawn[:right]) for k, v in feed.items()}
        np.savez(path.with_suffix(".npz"), **arrays)
        return {
            "nodes": done.nodes,
            "bytes": path.stat().st_size,
            "opset": done.opset,
            "dynamic": dynamic and right == len(SIZES),
            "attention": attention,
            "max_error": done.max_error,
            "seconds": round(seconds, 1),
            "feeds": right,
            "tried": reasons,
        }
    return {"failed": reasons}


def options(model: Any, inputs: dict[str, Any], exporter: Exporter) -> dict[str, Any]:
    """The dynamic dimensions in the exporter's own terms."""
    from torch.export import Dim

    if exporter == "torchscript":
        return {"dynamic_axes": {name: dict(axes) for name, axes in model.dynamic.items()}}
    shapes = {name: dict.fromkeys(model.dynamic.get(name, {}), Dim.DYNAMIC) for name in inputs}
    return {"dynamic_shapes": shapes}


def held(done: Exported, module: Any, drawn: list[dict[str, Any]]) -> tuple[int, str]:
    """How many of the feeds, from the first on, ONNX Runtime computes as torch does, and why not more."""
    import onnxruntime as ort
    import torch

    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    session = ort.InferenceSession(str(done.path), quiet, providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    for place, feed in enumerate(drawn):
        with torch.no_grad():
            true = module(**feed).numpy()
        try:
            given = session.run(None, {name: v.numpy() for name, v in feed.items() if name in wanted})[0]
        except Exception as error:  # noqa: BLE001  ONNX Runtime raises its own classes, all of Exception
            return place, f"feed {place}: {str(error).splitlines()[0][:200]}"
        if given.shape != true.shape or not np.allclose(given, true, rtol=1e-3, atol=1e-3):
            return place, f"feed {place}: differs from torch"
    return len(drawn), ""


def line(row: dict[str, Any]) -> str:
    """One row for the terminal."""
    if "failed" in row:
        return "failed: " + " | ".join(row["failed"])
    kind = "dynamic" if row["dynamic"] else "fixed"
    return f"{row['nodes']:5} nodes, opset {row['opset']}, {kind}, {row['attention']}, {row['seconds']} s"


if __name__ == "__main__":
    sys.exit(main())

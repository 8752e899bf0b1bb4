"""Where a model came from: the steps graphopt applied to it, kept inside the model.

The list rides as JSON in the model's metadata under ``graphopt.history``, so it survives saving, loading and
other tools. It holds no times and no paths: the same steps give the same bytes.
"""

from __future__ import annotations

import json
from typing import Any, cast

import onnx_ir as ir

KEY = "graphopt.history"


def record(model: ir.Model, step: str) -> None:
    """Append one step, such as ``fuse-batchnorm{eps=1e-05}``, to the model's history."""
    model.metadata_props[KEY] = json.dumps([*read(model), step], ensure_ascii=False)


def read(model: ir.Model) -> list[str]:
    """The steps applied so far, oldest first; empty for a model that graphopt never touched.

    An entry of that name that some other tool wrote, and that is no list of strings, becomes the first step
    as it is: provenance is never thrown away.
    """
    text = model.metadata_props.get(KEY)
    if not text:
        return []
    try:
        steps: Any = json.loads(text)
    except (ValueError, RecursionError):
        return [text]
    if isinstance(steps, list) and all(isinstance(step, str) for step in cast("list[object]", steps)):
        return cast("list[str]", steps)
    return [text]

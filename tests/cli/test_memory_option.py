"""graphopt inspect --memory --picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from onnx import helper, save

from .conftest import build

Command = Callable[..., Any]


def test_memory_is_shown_with_what_lives_at_the_fullest_moment(graphopt: Command, model: Path) -> None:
    done = graphopt("inspect", "model.onnx", "--memory")
    assert done.code == 0, done.err
    for words in ("(naive)", "alive at once", "no plan needs less", "arena", "alive at node", "MatMul 'product'"):
        assert words in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert "(naive)" not in graphopt("inspect", "model.onnx").out


def test_as_json_every_tensor_has_its_offset(graphopt: Command, model: Path) -> None:
    done = graphopt("inspect", "model.onnx", "--memory", "--json")
    (line,) = done.out.splitlines()
    plan = json.loads(line)["memory"]
    assert (plan["arena"], plan["bound"]) == (64, 64)
    assert [(place["names"], place["offset"], place["over"]) for place in plan["places"]] == [
        (["m"], 0, ""),
        (["y"], 0, "m"),
    ]


def test_the_picture_is_svg_with_a_rectangle_for_each_tensor(graphopt: Command, folder: Path) -> None:
    evil = '<script>"&\x1b'
    nodes = [helper.make_node("Softmax", ["x"], [evil], evil), helper.make_node("Softmax", [evil], ["y"], "b")]
    save(build(nodes), folder / "model.onnx")
    done = graphopt("inspect", "model.onnx", "--picture", "plan.svg")
    assert done.code == 0, done.err
    assert "plan.svg" in done.out
    drawn = ElementTree.parse(folder / "plan.svg").getroot()
    boxes = [item for item in drawn.iter() if item.get("class") == "b"]
    assert len(boxes) == 2
    assert all(float(item.get("y", -1)) >= 0 and float(item.get("height", -1)) > 0 for item in boxes)
    assert not [item for item in drawn.iter() if item.tag.endswith("script")]


def test_a_picture_has_a_place_and_a_format(graphopt: Command, folder: Path, model: Path) -> None:
    done = graphopt("inspect", "model.onnx", "--picture", "plan.png")
    assert (done.code, "name it .svg" in done.err) == (2, True)
    done = graphopt("inspect", "model.onnx", "--picture", "none/plan.svg")
    assert (done.code, "does not exist" in done.err) == (2, True)
    assert [item.name for item in folder.iterdir()] == ["model.onnx"]

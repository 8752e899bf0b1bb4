"""The micro-benchmarks: both sides of each are valid, deterministic, different, and compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphopt.backends.onnxruntime import session_settings
from graphopt.errors import GraphoptError
from graphopt.execute.session import Session
from graphopt.flows.microbench import MICROS, Micro, build
from graphopt.flows.profile_target import Unusable, point
from graphopt.ir import check, count_nodes
from graphopt.profile import operator_of
from graphopt.target import targets

SETTINGS = session_settings(targets()["x86-64"])
TINY = Micro("Relu", "y = Max(x, 0)", "y = Relu(x)", {"x": "n 3"}, [{"n": 2}])


def operators(micro: Micro, which: str) -> set[str]:
    model = build(micro, which, micro.sizes[0])
    return {f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph}


@pytest.mark.parametrize("form", MICROS)
def test_a_form_computes_what_its_plain_operators_do(form: str) -> None:
    micro = MICROS[form]
    measured = point(micro, micro.sizes[0], SETTINGS, 0.001)
    assert measured.work == micro.size(micro.sizes[0])


@pytest.mark.parametrize("form", MICROS)
def test_both_sides_are_valid_and_the_fused_one_has_the_form_and_fewer_nodes(form: str) -> None:
    micro = MICROS[form]
    sides = [build(micro, which, micro.sizes[-1]) for which in ("plain", "fused")]
    for model in sides:
        check(model)
    merged = {"MergedMatMul": "MatMul", "MergedConv": "Conv"}.get(form)
    if form == "Conv1x1":
        assert "Conv" in operators(micro, "fused") - operators(micro, "plain")
    elif merged is None:
        assert operator_of(form) in operators(micro, "fused") - operators(micro, "plain")
    else:
        counts = [sum(node.op_type == merged for node in model.graph) for model in sides]
        assert counts[1] < counts[0]
    if merged is None and not form.startswith("Arg"):
        assert count_nodes(sides[1]) < count_nodes(sides[0])


@pytest.mark.parametrize("form", MICROS)
def test_the_sizes_rise(form: str) -> None:
    micro = MICROS[form]
    works = [micro.size(sizes) for sizes in micro.sizes]
    assert works == sorted(set(works)) and len(works) >= 3


def test_the_same_seed_gives_the_same_models_and_feeds_and_another_one_others() -> None:
    micro = MICROS["Gemm"]
    sizes = micro.sizes[0]

    def weights(seed: int) -> bytes:
        values = build(micro, "plain", sizes, seed).graph.initializers.values()
        return b"".join(value.const_value.tobytes() for value in values if value.const_value is not None)

    assert weights(0) == weights(0) != weights(1)
    assert (micro.feeds(sizes, 0)["x"] == micro.feeds(sizes, 0)["x"]).all()
    assert (micro.feeds(sizes, 0)["x"] != micro.feeds(sizes, 1)["x"]).any()


def test_the_pattern_is_repeated_on_its_own_result() -> None:
    doubled = replace(TINY, plain="y = Add(x, x)", chain=3)
    feeds = doubled.feeds({"n": 2})
    found = Session(build(doubled, "plain", {"n": 2}), optimized=False).run(feeds)
    np.testing.assert_allclose(found["y"], 8 * feeds["x"])
    once = Session(build(doubled, "plain", {"n": 2}, copies=1), optimized=False).run(feeds)
    np.testing.assert_allclose(once["y"], 2 * feeds["x"])


@pytest.mark.parametrize(
    ("fused", "said"),
    [
        ("y = Elu(x)", "its results are wrong"),
        ("y = Transpose(x)", "shape"),
        ("y = com.microsoft::NoSuchOperator(x)", "does not know the operator com.microsoft::NoSuchOperator"),
    ],
)
def test_a_form_that_is_wrong_or_has_no_kernel_is_unusable(fused: str, said: str) -> None:
    with pytest.raises(Unusable, match=said):
        point(replace(TINY, fused=fused), {"n": 2}, SETTINGS, 0.001)


def test_plain_operators_that_do_not_run_are_told_apart() -> None:
    with pytest.raises(Unusable, match="the plain operators do not run"):
        point(replace(TINY, plain="y = com.example::Nothing(x)"), {"n": 2}, SETTINGS, 0.001)


def test_a_name_that_nothing_defines_is_told() -> None:
    with pytest.raises(GraphoptError, match="nothing defines 'z'"):
        build(replace(TINY, fused="y = Relu(z)"), "fused", {"n": 2})

"""The manager's promises, held against passes that are wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.events import Event, Site, Sites
from graphopt.execute.session import Session
from graphopt.ir import array, count_nodes, is_op, new_initializer, nodes, replace, where
from graphopt.passes.clean.eliminate_identity import EliminateIdentity
from graphopt.passes.clean.eliminate_noop import EliminateNoop
from graphopt.pipeline import Context, Fidelity, Pass, PassManager, Recipe


def model_of_adds(count: int = 8) -> ir.Model:
    """y = x + 1 + 2 + ... with an Identity behind each Add."""
    lines = "\n".join(
        f"c{i} = Constant<value = float {{{i + 1}}}>() a{i} = Add({'x' if i == 0 else f'b{i - 1}'}, c{i}) b{i} = Identity(a{i})"
        for i in range(count)
    )
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> g (float[3] x) => (float[3] y) {{ {lines} y = Relu(b{count - 1}) }}'
    )
    model = ir.from_onnx_text(text)
    for node in nodes(model):
        node.name = f"{node.op_type}_{node.outputs[0].name}"
    return model


@dataclass(frozen=True)
class DoubleConstants(Pass):
    """Wrong at one place: doubles the addend of one Add, and is right (does a no-op edit) at all others."""

    name: ClassVar[str] = "double-constants"
    fidelity: ClassVar[Fidelity] = Fidelity.NUMERIC
    once: ClassVar[bool] = True
    victims: tuple[str, ...] = ("Add_a5",)

    def apply(self, model: ir.Model, context: Context) -> Sites:
        for node in list(nodes(model)):
            if is_op(node, "Add"):
                factor = 2.0 if node.name in self.victims else 1.0
                yield Site(where(node), "constant rewritten", lambda n=node, f=factor: self._scale(n, f))

    @staticmethod
    def _scale(node: ir.Node, factor: float) -> None:
        elements = array(node.inputs[1])
        assert elements is not None and node.graph is not None
        replace(node.inputs[1], new_initializer(node.graph, elements * np.float32(factor), "scaled"))


@dataclass(frozen=True)
class DieHalfway(Pass):
    """Raises at the third Add, after two edits."""

    name: ClassVar[str] = "die-halfway"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    in_edit: bool = False

    def apply(self, model: ir.Model, context: Context) -> Sites:
        for count, node in enumerate([n for n in nodes(model) if is_op(n, "Identity")]):
            if count == 2 and not self.in_edit:
                raise RuntimeError("I cannot go on")
            broken = count == 2
            yield Site(where(node), "removed", lambda n=node, b=broken: self._edit(n, b))

    @staticmethod
    def _edit(node: ir.Node, broken: bool) -> None:
        if broken:
            raise RuntimeError("I cannot go on")
        replace(node.outputs[0], node.inputs[0])


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.array([1, 2, 3], np.float32)}


@pytest.mark.parametrize("verify", ["end", "each"])
def test_the_guilty_site_is_left_out_and_the_rest_goes_on(verify):
    model = model_of_adds()
    warnings: list[Event] = []
    context = Context(events=lambda event: warnings.append(event) if event.kind == "warning" else None)
    recipe = Recipe((EliminateIdentity(), DoubleConstants()))
    result, outcomes = PassManager(recipe, verify=verify).run(model, context)
    identity, double = outcomes
    assert double.left_out == [("Add 'Add_a5'", "constant rewritten")]
    assert len(double.changed) == 7 and len(identity.changed) == 8
    assert not double.failed
    assert warnings
    np.testing.assert_array_equal(
        Session(result, optimized=False).run(feeds())["y"], Session(model, optimized=False).run(feeds())["y"]
    )


def test_several_guilty_sites_are_left_out_one_by_one():
    recipe = Recipe((DoubleConstants(victims=("Add_a1", "Add_a6")),))
    _, (outcome,) = PassManager(recipe).run(model_of_adds())
    assert [place for place, _ in outcome.left_out] == ["Add 'Add_a1'", "Add 'Add_a6'"]


def test_a_pass_that_is_wrong_everywhere_is_left_out_whole():
    victims = tuple(f"Add_a{i}" for i in range(8))
    model = model_of_adds()
    result, (identity, double) = PassManager(Recipe((EliminateIdentity(), DoubleConstants(victims)))).run(model)
    assert "broke its promise" in double.failed
    assert len(identity.changed) == 8
    assert count_nodes(result) == 9


def test_what_was_left_out_has_its_cause():
    _, outcomes = PassManager((DoubleConstants(), DieHalfway(in_edit=True))).run(model_of_adds())
    assert "broke the promise NUMERIC" in outcomes[0].causes[0]
    assert "I cannot go on" in outcomes[1].causes[0]
    assert "I cannot go on" in str(outcomes[1].as_json())


@pytest.mark.parametrize("recipe", ["clean", EliminateIdentity(), [EliminateIdentity()]])
def test_a_recipe_may_be_text_a_pass_or_passes(recipe):
    result, _ = PassManager(recipe).run(model_of_adds())
    assert count_nodes(result) == 9


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: PassManager("clean", verify="nope"), "one of end, each, off"),
        (lambda: PassManager([EliminateIdentity]), "no pass"),
        (lambda: PassManager("clean").run(ir.to_proto(model_of_adds())), "go.load"),
        (lambda: type("Nameless", (Pass,), {}), "has no name"),
    ],
)
def test_a_wrong_call_is_explained(mistake, said):
    with pytest.raises(GraphoptError) as raised:
        mistake()
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


def test_strict_names_the_pass_and_the_place():
    with pytest.raises(GraphoptError) as raised:
        PassManager(Recipe((DoubleConstants(),)), strict=True).run(model_of_adds())
    assert "double-constants" in raised.value.what
    assert raised.value.where == "Add 'Add_a5'"


@pytest.mark.parametrize("in_edit", [False, True])
def test_a_pass_that_dies_halfway_harms_nothing(in_edit):
    model = model_of_adds()
    before = ir.to_proto(model).SerializeToString()
    result, (die, identity) = PassManager(Recipe((DieHalfway(in_edit), EliminateIdentity()))).run(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert die.left_out if in_edit else die.failed
    assert count_nodes(result) == 9
    assert identity is not None


def test_strict_raises_what_a_pass_raised():
    with pytest.raises(GraphoptError, match="I cannot go on"):
        PassManager(Recipe((DieHalfway(),)), strict=True).run(model_of_adds())


def test_without_verification_a_wrong_result_goes_through():
    """The counter-proof: it is verification that catches the wrong pass."""
    _, outcomes = PassManager(Recipe((DoubleConstants(),)), verify="off").run(model_of_adds())
    assert outcomes.verdict is None and outcomes.unverified == "not asked for"
    assert len(outcomes[0].changed) == 8


def test_the_callers_model_is_never_touched():
    model = model_of_adds()
    before = ir.to_proto(model).SerializeToString()
    PassManager(Recipe.parse("clean")).run(model)
    assert ir.to_proto(model).SerializeToString() == before


def test_the_same_seed_recipe_and_data_give_equal_bytes():
    results = [PassManager(Recipe.parse("clean, fuse")).run(model_of_adds())[0] for _ in range(2)]
    assert ir.to_proto(results[0]).SerializeToString() == ir.to_proto(results[1]).SerializeToString()


def test_a_second_application_changes_nothing():
    once, _ = PassManager(Recipe.parse("clean, fuse")).run(model_of_adds())
    twice, outcomes = PassManager(Recipe.parse("clean, fuse")).run(once)
    assert outcomes.changed == 0
    assert ir.to_proto(once).SerializeToString() == ir.to_proto(twice).SerializeToString()


@dataclass(frozen=True)
class Settle(Pass):
    """Decides what an Expand expands to, which tells its shape."""

    name: ClassVar[str] = "settle"
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs_shapes: ClassVar[bool] = True
    keeps_shapes: ClassVar[bool] = True

    def apply(self, model: ir.Model, context: Context) -> Sites:
        for node in nodes(model):
            if is_op(node, "Expand") and array(node.inputs[1]) is None:
                yield Site(where(node), "settled", lambda n=node: self._settle(n))

    @staticmethod
    def _settle(node: ir.Node) -> None:
        assert node.graph is not None
        node.replace_input_with(1, new_initializer(node.graph, np.array([1, 1]), "target"))


def test_a_pass_that_saw_old_shapes_runs_once_more():
    """That the Expand does nothing follows from what the pass before it did, and nothing is done behind it."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x, int64[2] k) => (float[?, ?] y) {
          e = Expand(x, k) y = Relu(e) }"""
    recipe = Recipe((Settle(), EliminateNoop()))
    once, _ = PassManager(recipe, verify="off").run(ir.from_onnx_text(text))
    assert [node.op_type for node in once.graph] == ["Relu"]
    assert PassManager(recipe, verify="off").run(once)[1].changed == 0


def test_a_model_with_a_custom_operator_is_optimised_but_said_to_be_unverified():
    model = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["": 17, "my.domain": 1]>
           g (float[3] x) => (float[3] y) { a = Identity(x) b = my.domain.Secret(a) c = Identity(b) y = Relu(c) }"""
    )
    result, outcomes = PassManager(Recipe.parse("clean")).run(model)
    assert count_nodes(result) == 2
    assert outcomes.verdict is None
    assert "Secret" in outcomes.unverified


def test_a_pass_that_renames_an_output_is_caught():
    @dataclass(frozen=True)
    class Rename(Pass):
        name: ClassVar[str] = "rename"
        fidelity: ClassVar[Fidelity] = Fidelity.EXACT
        once: ClassVar[bool] = True

        def apply(self, model: ir.Model, context: Context) -> Sites:
            yield Site("model", "renamed", lambda: setattr(model.graph.outputs[0], "name", "z"))

    result, (outcome,) = PassManager(Recipe((Rename(),))).run(model_of_adds())
    assert outcome.left_out or outcome.failed
    assert result.graph.outputs[0].name == "y"


def test_a_pass_that_makes_the_model_invalid_is_caught_even_without_verification():
    @dataclass(frozen=True)
    class Scramble(Pass):
        name: ClassVar[str] = "scramble"
        fidelity: ClassVar[Fidelity] = Fidelity.EXACT
        once: ClassVar[bool] = True

        def apply(self, model: ir.Model, context: Context) -> Sites:
            yield Site("model", "last node first", lambda: self._move(model))

        @staticmethod
        def _move(model: ir.Model) -> None:
            last = model.graph[len(model.graph) - 1]
            model.graph.remove(last)
            model.graph.insert_before(model.graph[0], last)

    result, (outcome,) = PassManager(Recipe((Scramble(),)), verify="off").run(model_of_adds())
    assert outcome.left_out or outcome.failed
    assert list(result.graph)[-1].op_type == "Relu"


def test_real_data_of_the_wrong_shape_is_refused():
    from graphopt.calibrate.data import CalibrationData

    data = CalibrationData.open([{"x": np.zeros(4, np.float32)}])
    with pytest.raises(GraphoptError, match="x"):
        PassManager(Recipe.parse("clean")).run(model_of_adds(), Context(data=data))

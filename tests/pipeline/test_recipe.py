from __future__ import annotations

import pytest

from graphopt.errors import GraphoptError
from graphopt.passes.clean.fold_constants import FoldConstants
from graphopt.pipeline import Recipe, recipes, registry


@pytest.mark.parametrize(
    "text",
    [
        "clean",
        "clean, fuse",
        "fold-constants{max_bytes=65536}, eliminate-identity",
        "clean, -fold-constants, fuse-batchnorm",
    ],
)
def test_text_and_toml_round_trip(text, tmp_path):
    recipe = Recipe.parse(text)
    assert Recipe.parse(str(recipe)) == recipe
    file = tmp_path / "r.toml"
    file.write_text(recipe.to_toml())
    assert Recipe.load(file) == recipe


def test_options_reach_the_pass():
    assert Recipe.parse("fold-constants{max_bytes=7}").passes == (FoldConstants(max_bytes=7),)


def test_a_dash_leaves_a_pass_out():
    names = [item.name for item in Recipe.parse("clean, -fold-constants").passes]
    assert "fold-constants" not in names and "eliminate-identity" in names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clena", "did you mean 'clean'"),
        ("fold-constant", "did you mean 'fold-constants'"),
        ("fold-constants{max_byte=1}", "did you mean 'max_bytes'"),
        ("fold-constants{max_bytes=big}", "no int"),
        ("fold-constants{max_bytes=true}", "no int"),
        ("fold-constants{max_bytes}", "no option=value"),
        ("fold-constants{max_bytes=1", "not closed"),
        ("clean{x=1}", "takes no options"),
        ("", "holds no pass"),
        ("-clean", "leaves out nothing"),
        ("clean,,fuse", "nothing between two commas"),
        ("fold-constants{max_bytes=-1}", "0 or more"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(GraphoptError) as raised:
        Recipe.parse(text)
    assert message in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("content", ["", "[[pass]]\n", "passes = 3", "[[pass", '[[pass]]\nname = "nope"'])
def test_a_bad_recipe_file_is_a_usage_error(content, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(content)
    with pytest.raises(GraphoptError) as raised:
        Recipe.load(file)
    assert raised.value.exit_code == 2


def test_a_missing_recipe_file_is_a_usage_error(tmp_path):
    with pytest.raises(GraphoptError, match="no such recipe file"):
        Recipe.read(str(tmp_path / "r.toml"))


@pytest.mark.parametrize("name", registry.names())
def test_every_pass_is_built_with_defaults_and_reads_back(name):
    pass_ = registry.find(name)()
    assert pass_.name == name
    assert Recipe.parse(str(pass_)).passes == (pass_,)
    assert type(pass_).summary().endswith(".")


@pytest.mark.parametrize("name", list(recipes()))
def test_every_preset_names_existing_passes(name):
    assert Recipe.parse(name).passes

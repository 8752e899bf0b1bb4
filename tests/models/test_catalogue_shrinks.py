"""Real models through the default recipe: right, and at least as small as they once were.

The ceilings are the node counts reached when they were written. One that no longer holds is a pass that lost something.
"""

from __future__ import annotations

import pytest

from graphopt.calibrate.data import CalibrationData
from graphopt.errors import GraphoptError
from graphopt.ir import count_nodes, load
from graphopt.models import fetch
from graphopt.models.samples import samples
from graphopt.pipeline import Context, PassManager, Recipe

CEILINGS = {
    "basic_pitch": 177,
    "layout_cdla": 333,
    "magika_v3_3": 75,
    "paraphrase_minilm_l3": 129,
    "ppocr_cls_v2": 144,
    "ppocrv4_det": 191,
    "ppocrv4_rec": 246,
    "silero_vad_16k_op15": 34,
}


@pytest.mark.network
@pytest.mark.parametrize("name", CEILINGS)
def test_a_real_model_stays_right_and_small(name: str) -> None:
    try:
        path = fetch(name)
    except GraphoptError as error:
        pytest.skip(f"the model cannot be fetched here: {error.what}")
    data = CalibrationData.open(samples(name)[:2])
    model, outcomes = PassManager(Recipe.parse("clean, fuse")).run(path, Context(data=data))
    assert outcomes.verdict is not None and outcomes.verdict.ok
    assert not [step.name for step in outcomes if step.failed or step.left_out]
    assert count_nodes(model) <= CEILINGS[name] < count_nodes(load(path))

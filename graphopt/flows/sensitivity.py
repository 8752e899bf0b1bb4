"""What each quantised product costs in accuracy and would save in time, and which of them had better stay float.

    noise of a site = sum (y_float - y_only_this_site)^2 / sum y_float^2        of the worst output

Noises of sites add up nearly, since their errors are nearly independent; so the fewest floats for a budget are those
with the most noise per saved operation first. Where on that list to end is found by bisection, on the whole recipe.

Sources: Wu et al., Integer Quantization for Deep Learning Inference (2020), section 6.1 (partial quantisation by
sensitivity); Dong et al., HAWQ-V2 (2020), for noises that add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ..events import Event, Events, silent
from ..ir import where
from .flops import flops
from .quality import Quality


@dataclass(frozen=True)
class Sensitivity:
    """One site.

    Attributes:
        name: of the product's first output.
        where: the product.
        sqnr_db: of the worst output when this site alone is quantised; infinite when nothing is lost.
        share: of the multiplications of all sites that are this one's.
    """

    name: str
    where: str
    sqnr_db: float
    share: float

    @property
    def noise(self) -> float:
        """Energy of the error by that of the signal."""
        return 10 ** (-self.sqnr_db / 10)

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the run folder."""
        return asdict(self) | {"sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None}


def sensitivities(
    products: Sequence[ir.Node], alone: Callable[[str], Quality], events: Events = silent
) -> list[Sensitivity]:
    """Measure each site alone.

    Args:
        products: the sites, with shapes inferred.
        alone: the quality of the model in which only the product of that first output is quantised.
        events: hears of progress.

    Returns:
        the sites, the one with the most noise per share of the work first.
    """
    work = [flops(node) or 1 for node in products]
    found: list[Sensitivity] = []
    for number, (node, size) in enumerate(zip(products, work, strict=True), 1):
        name = str(node.outputs[0].name)
        found.append(Sensitivity(name, where(node), alone(name).sqnr_db, size / sum(work)))
        events(Event("progress", {"stage": "measuring sensitivity", "done": number, "total": len(products)}))
    return sorted(found, key=lambda site: -site.noise / site.share)


def fewest_floats(order: Sequence[Sensitivity], accepted: Callable[[tuple[str, ...]], bool]) -> tuple[str, ...] | None:
    """The shortest beginning of a list of sites that must stay float, by bisection; None when all of them do not help.

    Args:
        order: the sites, the most worth keeping first.
        accepted: whether a model with these sites in float is good enough; assumed to stay so with more of them.
    """
    names = [site.name for site in order]
    low, high = 0, len(names)
    if not accepted(tuple(names)):
        return None
    while low < high:
        middle = (low + high) // 2
        if accepted(tuple(names[:middle])):
            high = middle
        else:
            low = middle + 1
    return tuple(names[:high])

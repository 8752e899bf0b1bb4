"""Which operator an attention is written as.

- Attention, of ONNX from operator set 23 on: [batch, heads, length, size], or [batch, length, heads * size] when the
  splitting of heads goes too; grouped heads; caches.
- com.microsoft::MultiHeadAttention: queries [batch, length, heads * size]; no grouped heads, no caches.
- com.microsoft::GroupQueryAttention: for causal masks, with grouped heads or a cache.
"""

from __future__ import annotations

import re
from statistics import geometric_mean

from ._affine import Refusal
from ._attention_grouped import grouped_objection, is_grouped
from ._attention_plan import Plan
from ._attention_sources import flat, heads_of, is_widened, operands_of
from ._forms import Form, Place

ATTENTION = Form("Attention", since=23)
CAUSAL = Form("Attention", since=23, attributes={"is_causal": 1})
MULTI_HEAD = Form("com.microsoft::MultiHeadAttention")
GROUPED = Form("com.microsoft::GroupQueryAttention")
_AT_LEAST_1 = re.compile(r"^[A-Za-z0-9_*]+( \+ [A-Za-z0-9_*]+)* \+ [1-9]\d*$")  # sizes, and a number


def choose(plan: Plan, place: Place, zero: bool) -> Form:
    """The form to write: the one measured to be the fastest here, the standard one where none was measured.

    Where the lengths are known in the run only, all measured sizes count alike.

    Args:
        plan: what is known of the attention.
        place: where it is.
        zero: a query without a key may as well get zeros for NaN.

    Raises:
        Refusal: there is something against each; says what.
    """
    reasons, fitting = [], []
    for form in (ATTENTION, GROUPED, MULTI_HEAD) if is_grouped(plan) else (ATTENTION, MULTI_HEAD):
        name = _measured_as(plan, form)
        reason = place.objection(form) or place.target.objection(name, plan.work) or objection(plan, form, zero)
        if reason is None and form is MULTI_HEAD and plan.repeat > 1 and fitting:
            reason = "MultiHeadAttention has no grouped heads: keys and values would be repeated"
        if reason is None:
            ratios = [point.ratio for point in place.target.profile.points(name, plan.work)]
            fitting.append((geometric_mean(ratios or [1.0]), len(fitting), form))
        else:
            reasons.append(reason)
    if not fitting:
        raise Refusal("; ".join(dict.fromkeys(reasons)))
    form = min(fitting)[2]
    if form is ATTENTION and plan.causal and place.target.objection("Attention:causal", plan.work) is None:
        return CAUSAL
    return form


def _measured_as(plan: Plan, form: Form) -> str:
    """What the profile calls the form: an Attention that splits heads itself spares the transposes around it."""
    splits = len(plan.shape) == 4 and operands_of(plan)[1]
    return f"{form.name}:heads" if form is ATTENTION and not splits else form.name


def objection(plan: Plan, form: Form, zero: bool) -> str | None:
    """Why a form is not the same function, or None."""
    if form is ATTENTION:
        if plan.nans and not zero:
            return "a query whose keys are all masked by -inf gets NaN, which Attention would make zeros"
        if not is_widened(plan) and plan.core.softmax.outputs[0].dtype != plan.dtype:
            return "its Softmax is computed in another element type"
        return None
    if form is GROUPED:
        return grouped_objection(plan, operands_of(plan)[1])
    if plan.zeroes:
        return "a query whose keys are all masked by -inf gets zeros, which MultiHeadAttention would make NaN"
    if plan.core.softcap or plan.core.softmax.outputs[0].dtype != plan.dtype:
        return "MultiHeadAttention has no soft cap and no wider Softmax"
    if flat(plan.queries, 1) is None or not isinstance(heads_of(plan), int):
        return "MultiHeadAttention needs queries that are not split into heads"
    if not isinstance(plan.value_size, int):
        return "the size of the values is not known"
    if (flat(plan.keys, 1) is None or flat(plan.values, 1) is None) and plan.value_size != plan.shape[-1]:
        return "MultiHeadAttention needs keys and values of the same size"
    return None


def assumption(plan: Plan, form: Form) -> str:
    """What is taken for granted of sizes that only the run knows, for the report; nothing where they are proven."""
    new = plan.length if plan.caches is None else plan.shape[-2]
    sizes = (plan.shape[0], plan.shape[-2], new)
    if form is MULTI_HEAD or all(isinstance(size, int) or _AT_LEAST_1.search(size or "") for size in sizes):
        return ""
    return "; assumes batch and sequence are not empty"

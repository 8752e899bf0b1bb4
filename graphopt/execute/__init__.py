"""Running models on this machine: sessions, feeds, taps, comparison, isolation, measurement.

``onnxruntime`` is imported when the first session is made, not before.
"""

from .compare import EXACT, Difference, Tolerance, compare, difference, tolerance
from .divergence import Divergence, first_divergence
from .feeds import random_feeds
from .isolate import isolated
from .machine import machine
from .measure import Candidate, Measurement, measure
from .rounding import Rounding
from .session import Session
from .signature import Feeds, Port, checked, signature
from .taps import Taps
from .verify import Verdict, verify

__all__ = [
    "EXACT",
    "Candidate",
    "Difference",
    "Divergence",
    "Feeds",
    "Measurement",
    "Port",
    "Rounding",
    "Session",
    "Taps",
    "Tolerance",
    "Verdict",
    "checked",
    "compare",
    "difference",
    "first_divergence",
    "isolated",
    "machine",
    "measure",
    "random_feeds",
    "signature",
    "tolerance",
    "verify",
]

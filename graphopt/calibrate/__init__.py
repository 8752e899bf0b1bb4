"""Data to calibrate with, and what is learnt of a model's tensors by running it on them."""

from .collect import collect
from .data import CalibrationData
from .observers import ChannelMean, ChannelRange, Gram, Histogram, MovingRange, Observer, Range, SampleMeans
from .ranges import find_range, observer_for
from .statistics import Statistics

__all__ = [
    "CalibrationData",
    "ChannelMean",
    "ChannelRange",
    "Gram",
    "Histogram",
    "MovingRange",
    "Observer",
    "Range",
    "SampleMeans",
    "Statistics",
    "collect",
    "find_range",
    "observer_for",
]

"""Data to calibrate with: named feeds, re-iterable and hashed."""

from .data import CalibrationData

__all__ = ["CalibrationData"]

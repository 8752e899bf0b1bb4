"""Passes that change in which order tensors are stored; the numbers stay."""

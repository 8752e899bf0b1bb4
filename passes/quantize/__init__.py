"""Passes that compute on integers what was made in floats, with ranges and errors measured on data."""

"""Passes that lower the memory a run needs; the numbers stay the same."""

"""Passes that fold several operators into one; results agree up to rounding."""

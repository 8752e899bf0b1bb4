"""Passes that make a graph smaller without changing one bit of what it computes."""

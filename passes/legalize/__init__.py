"""Passes that put a model into the form a runtime or compiler takes."""

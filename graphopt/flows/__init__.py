"""The commands as functions: each flow does one job from end to end and can be called from Python."""

"""Passes that compute in fewer bits than the model was made with, within a stated error."""

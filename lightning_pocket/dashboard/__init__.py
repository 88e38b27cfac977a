"""The dashboard of a project on Weights & Biases, as code."""

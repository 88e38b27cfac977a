"""Experiments of many runs: each is a list of ordinary commands and a report on what they left."""

"""Optuna studies of many trials, each of them ordinary runs that one printed command repeats."""

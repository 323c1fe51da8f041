"""Compares versions of any trainer, two commands or two revisions of a repository, by the confirmation's rule.

Imports core, rule, the cost of code, and how the lab reserves cores; never torch. Runs are defined in trial.py and
made in contest.py. Add a way to read a number to metric.py, a kind of place to run to places.py.
"""

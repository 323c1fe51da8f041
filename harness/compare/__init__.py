"""Compares two versions of any trainer, given as commands or git revisions, with the test that decides about records.

Imports core, rule, the code that counts statements, and the code of lab/ that reserves cores, but never torch. trial.py
defines a run, and contest.py makes the runs. Add a new way to read a number to metric.py, and a new place for runs to
places.py.
"""

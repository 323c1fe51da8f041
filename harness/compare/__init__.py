"""Compares two versions of any trainer, given as commands or git revisions, by the rule of confirmations.

Imports core, rule, the code that counts statements, and the lab's reservation of cores; never torch. Runs are defined
in trial.py and made in contest.py. New ways to read a number go to metric.py, new places to run to places.py.
"""

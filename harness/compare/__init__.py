"""Any trainer: two commands, or two revisions of a repository, compared by the confirmation's rule.

Imports core, rule, the cost of code, and how the lab reserves cores; never torch. What a run is starts in trial.py,
how pairs are run is in contest.py; another way to read a number belongs into metric.py, another place into places.py.
"""

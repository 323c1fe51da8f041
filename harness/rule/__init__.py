"""The rule, which accepts or rejects a candidate by the numbers of its runs and of the record's runs.

The commands `run`, `submit` and `verify` and the benchmarks call the same functions. This package imports only
harness.core. Add a statistical test to stats.py, a stopping rule to screen.py (the cheap first test) or sequential.py
(the deciding tests), a lane (kind of claim) or a limit to criteria.py, a decision to verdict.py, a condition for
comparing runs to comparable.py, a reason code to reasons.py. forecast.py estimates how long judging a candidate takes.
external.py judges numbers of any trainer, which files/ reads.
"""

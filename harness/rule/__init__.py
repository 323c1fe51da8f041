"""The rule, which makes a verdict from numbers. `run`, `submit`, `verify` and the benchmarks call the same functions.

Imports only core. Add a test to stats.py, a stopping rule to screen.py (first runs) or sequential.py (confirmation), a
lane or a guard to criteria.py, a decision to verdict.py, a condition for comparing runs to comparable.py, a reason code
to reasons.py. forecast.py estimates what a contest costs. external.py applies the rule to anyone's numbers, which
files/ reads.
"""

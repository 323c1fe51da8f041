"""The rule: numbers in, verdict out. Pure functions, the same in `run`, `submit`, `verify` and the benchmarks.

Imports core alone. Add a test to stats.py, a stopping rule to screen.py (first runs) or sequential.py (confirmation), a
lane or a guard to criteria.py, a decision to verdict.py, a condition for comparing runs to comparable.py, a reason code
to reasons.py. forecast.py estimates what a contest costs. external.py applies the rule to anyone's numbers, which
files/ reads.
"""

"""The rule: numbers in, verdict out. Pure functions, the same in `run`, `submit`, `verify` and the study of errors.

Imports core alone. Add a test to stats.py, a stopping rule to sequential.py, a lane or a decision to verdict.py, a
condition for comparing runs to comparable.py, a reason code to reasons.py.
"""

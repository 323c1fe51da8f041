"""The rule: numbers in, verdict out. Pure functions, the same in `run`, `submit`, `verify` and the study of errors.

Imports core alone. Add a test to stats.py, a stopping rule to screen.py (first runs) or sequential.py (confirmation), a
lane or a guard to criteria.py, a decision to verdict.py, a condition for comparing runs to comparable.py, a reason code
to reasons.py; forecast.py says what all of it will cost. external.py applies it to anyone's numbers, read by files/.
"""

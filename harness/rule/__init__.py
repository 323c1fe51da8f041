"""The rule: floats in, verdict out. Pure functions, the same in `run`, `submit`, `verify` and the study of errors.

Imports core alone. A stopping rule, a test or a reason code belongs here.
"""

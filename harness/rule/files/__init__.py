"""Files of per-seed numbers, of any trainer: `read.py` finds the form, `rows.py` sorts rows into two arms.

Add a form of text to tables.py, a trainer's own folders to folders.py.
"""

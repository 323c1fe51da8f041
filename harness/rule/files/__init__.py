"""Files of per-seed numbers, of any trainer: `read.py` recognizes the format, `rows.py` sorts rows into two arms.

Add a text format to tables.py, the folders of another trainer to folders.py.
"""

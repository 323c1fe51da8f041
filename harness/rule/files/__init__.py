"""Reads files of per-seed numbers of any trainer. read.py recognizes the format, rows.py sorts the rows by arm.

Add a text format to tables.py, and another trainer's folders to folders.py.
"""

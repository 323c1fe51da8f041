"""Reads files with one number per run. read.py recognizes the format, rows.py sorts them into record and candidate.

Add a new text format to tables.py, and a new layout of folders to folders.py.
"""

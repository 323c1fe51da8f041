"""How results are shown to people and programs: tables, sentences, pictures, the site, trackers, JSON documents.

This package may import every package except cli. To add a page to the site, write a template in site/templates/ and a
line in site/__init__.py. To add an experiment tracker, write a function in trackers.py. To add a document of `--json`,
write a class in documents.py. Metrics are in board/metrics.py.
"""

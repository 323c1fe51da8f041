"""How results are shown to people and programs: tables, sentences, pictures, the site, trackers, JSON documents.

It may import every package except cli. To add a page, write a template in site/templates/ and a line in
site/__init__.py. A new tracker is a function in trackers.py, a new document of `--json` a class in documents.py.
Metrics are in board/metrics.py.
"""

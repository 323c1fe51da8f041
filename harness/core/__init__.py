"""Errors, files, git, the schemas of a track and of a run, and how they are read and written.

Imports nothing of the harness but `models` for the model's settings. Add a field of a track in track.py or dataspec.py,
a field of a run in runs.py, a path of the checkout in project.py.
"""

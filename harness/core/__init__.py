"""Errors, files, git, the schemas of a track and of a run, and how they are read and written.

Imports models alone. Add a field of a track to track.py or dataspec.py, a field of a run to runs.py, a path of the
checkout to project.py.
"""

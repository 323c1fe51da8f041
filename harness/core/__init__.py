"""Errors, files and git, and the schemas of tracks and runs with the functions that read and write them.

Imports only models. Add a track's field to track.py or dataspec.py, a run's field to runs.py, a path in the checkout
to project.py.
"""

"""Code that all other folders use: errors, access to files and git, and the schemas of tracks and runs.

Imports only models. To add a field to a track, edit track.py or dataspec.py; to add a field to a run, edit runs.py; to
add a path in the checkout, edit project.py.
"""

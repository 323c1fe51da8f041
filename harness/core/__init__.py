"""What everything else speaks: errors, files, git, the track's schema and the run's record.

Imports nothing of the harness. A field of a track or of a run belongs here.
"""

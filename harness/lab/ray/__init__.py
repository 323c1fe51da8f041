"""Makes runs on a Ray cluster.

cluster.py runs on the asking machine. Ray sends node.py to the other machine, where it starts remote_run.py.
"""

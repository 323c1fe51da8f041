"""Makes runs on a Ray cluster.

cluster.py runs on the user's machine. Ray sends node.py to a machine of the cluster. There node.py starts
remote_run.py, which makes the run.
"""

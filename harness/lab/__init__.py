"""Makes runs on machines: finds kept ones, trains missing ones, pairs them, and files what comes of it.

Imports the board and all before it. Another way to run (an executor) belongs here.
"""

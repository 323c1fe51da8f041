"""The lab: finds kept runs, trains missing ones, pairs them into contests, and files the results.

Imports board and all rooms before it. A newcomer adds a way to run (an executor) to executor, or to a package like
ray; a command's work is a module named after it, as doctor and submit are, a long study one in studies; its options and
output are in cli.
"""

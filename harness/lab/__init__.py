"""The lab: finds kept runs, trains missing ones, judges contests, and files the results.

Imports board and all rooms before it. New ways to run (executors) go to executor.py, or into a package such as ray. The
work of each command is in the module with its name, such as doctor or submit; long studies are modules in studies.
Options and output are in cli.
"""

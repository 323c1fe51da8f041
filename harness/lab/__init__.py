"""The lab: finds kept runs, trains missing ones, judges contests, and files the results.

Imports board and all rooms before it. Add a way to run (an executor) to executor, or as a package such as ray. The work
of a command is a module with its name, such as doctor or submit; a long study is one in studies. Options and output are
in cli.
"""

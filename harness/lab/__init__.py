"""The lab finds kept runs, trains missing ones, compares candidates with the record, and files the results.

It may import board and every package above board in the table of docs/architecture.md. A new way to run goes into
executor.py, or into a package such as ray. The work of a command is in the module with the command's name, such as
doctor or submit. Long studies are in studies. Options and output are in cli.
"""

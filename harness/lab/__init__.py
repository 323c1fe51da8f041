"""The lab finds kept runs, trains missing ones, compares candidates with the record, and submits the results.

Its modules may import board and every package above board in the table of docs/architecture.md. A new way to make runs
goes into executor.py, or into a package such as ray. The work of a command is in the module with the command's name,
such as doctor or submit. Studies of many runs are in the package studies. Options and output of the commands are in the
package cli.
"""

"""Reads and checks a variant's file, counts its cost, and combines variants into recipes.

Imports only core and models. Add a module that variants may import to check.py, and a construct that costs extra
statements to cost.py. The variants themselves are in models/variants/, one file each.
"""

"""Reads and checks a variant's file, counts its cost, and combines variants into recipes.

This package imports only core and models. check.py lists the modules that variants may import. cost.py lists the
constructs of Python that cost extra statements. The variants themselves are in models/variants/, one file each.
"""

"""A corpus becomes pinned tokens, and tokens become batches.

Imports core alone. Add a data source to core/dataspec.py (its keys) and corpus.py (its documents), a tokenizer to
vocabulary.py and prepare.py.
"""

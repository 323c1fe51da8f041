"""Makes pinned tokens of a corpus, and batches of tokens.

Imports core only. Add a data source to core/dataspec.py (its keys) and corpus.py (its documents), a tokenizer to
vocabulary.py and prepare.py.
"""

"""Tokenizes a corpus, checks the tokens against the digests in the track's file, and cuts them into batches.

Imports core only. Add a data source to core/dataspec.py (its keys) and corpus.py (its documents), a tokenizer to
vocabulary.py and prepare.py.
"""

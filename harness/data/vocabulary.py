"""Turns text into token ids, and knows the bytes that each token id stands for.

The tokenizer must be byte-level. Because the bytes of each token are known, it can be checked that the tokens spell the
text exactly, and bits per byte can be compared between tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import LlmbenchError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SEPARATOR = "<|endoftext|>"


class Vocabulary:
    """A tokenizer and the bytes of each token id. Raises LlmbenchError if the tokenizer is not byte-level."""

    def __init__(self, tokenizer: Tokenizer, separator: str, name: str) -> None:
        tokenizer.encode_special_tokens = True  # a special token spelled out in a text is encoded as plain text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer, self.name = tokenizer, name
        with refusing_panics(name):
            self.table = token_bytes(tokenizer, name)
        self.lengths_V = np.array([len(spelled) for spelled in self.table])
        self.separator = separator

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """The token ids tokens_N of each text. The first id is the separator's.

        Raises LlmbenchError if the tokens do not spell a text exactly, or if the tokenizer has no separator.
        """
        separator_id = self.tokenizer.token_to_id(self.separator)
        if separator_id is None or self.table[separator_id]:
            raise LlmbenchError(
                f"{self.name} has no special token '{self.separator}' to put before each document; set "
                f"data.tokenizer.separator to a special token that it has"
            )
        encoded = []
        with refusing_panics(self.name):
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for text, encoding in zip(texts, encodings, strict=True):
            ids: list[int] = encoding.ids
            if b"".join([self.table[token] for token in ids]) != text.encode():
                raise LlmbenchError(
                    f"{self.name} does not encode text exactly: decoded, its tokens differ from the text that begins "
                    f"with {text[:40]!r}; choose another data.tokenizer"
                )
            encoded.append(np.array([separator_id, *ids], dtype=np.int64))
        return encoded

    def check(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """The array tokens_N of `ids`, a row of a tokenized corpus.

        Raises LlmbenchError if an id is not in the vocabulary.
        """
        tokens_N: NDArray[Any] = np.asarray(ids)
        if tokens_N.ndim != 1 or tokens_N.dtype.kind not in "iu":
            raise LlmbenchError(
                f"each row of the column data.ids must be a list of token ids (whole numbers), found {str(ids)[:60]}"
            )
        if outside := [token for token in (tokens_N.min(), tokens_N.max()) if not 0 <= token < len(self.table)]:
            raise LlmbenchError(
                f"the corpus contains the token id {outside[0]}, but {self.name} has only ids from 0 to "
                f"{len(self.table) - 1}; set data.tokenizer to the tokenizer that made the corpus"
            )
        return tokens_N.astype(np.int64)

    def num_bytes(self, tokens_N: NDArray[np.int64]) -> int:
        """Number of bytes of the text that these tokens spell. Special tokens add none."""
        return int(self.lengths_V[tokens_N].sum())


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE on `texts`. Its alphabet has every byte, so it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if (size := tokenizer.get_vocab_size()) != vocab_size:
        raise LlmbenchError(
            f"the text is enough for only {size} different tokens; set model.vocab_size to {size} or less"
        )
    return tokenizer


def load_tokenizer(serialized: bytes, name: str) -> Tokenizer:
    """The tokenizer in the bytes of a `tokenizer.json`. Raises LlmbenchError if these bytes are not a tokenizer."""
    from tokenizers import Tokenizer

    try:
        with refusing_panics(name):
            return Tokenizer.from_buffer(serialized)
    except ValueError as error:
        raise LlmbenchError(
            f"{name} is not a tokenizer.json that `tokenizers` can read: {error}; correct data.tokenizer in the "
            f"track's file"
        ) from error


@contextmanager
def refusing_panics(name: str) -> Iterator[None]:
    """Turn a panic (a crash of the Rust code in `tokenizers`), caused by a damaged file, into a LlmbenchError."""
    try:
        yield
    except BaseException as error:  # a panic is not an Exception, and its class is not public
        if type(error).__name__ != "PanicException":
            raise
        raise LlmbenchError(
            f"{name} makes the library `tokenizers` panic ({error}); its file is damaged, so download it again"
        ) from error


def token_bytes(tokenizer: Tokenizer, name: str) -> list[bytes]:
    """The bytes of each token id; empty for special tokens and unused ids.

    Byte-level BPE writes each byte as one printable character (Radford et al., 2019, GPT-2). A printable byte stays as
    it is, any other byte becomes a character from U+0100 on. Raises LlmbenchError for a tokenizer of another kind.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    table = [b""] * (max(vocabulary.values()) + 1)
    try:
        if "ByteLevel" not in json.dumps(json.loads(tokenizer.to_str())["decoder"]):
            raise KeyError("its decoder is not of the type ByteLevel")
        for token, token_id in vocabulary.items():
            if token_id not in added:
                table[token_id] = bytes(byte_of[character] for character in token)
            elif not added[token_id].special:
                table[token_id] = token.encode()
    except KeyError as error:
        raise LlmbenchError(
            f"{name} is not byte-level ({error.args[0]!r}), so the bytes of its tokens are unknown; "
            f"choose a tokenizer like GPT-2's or SmolLM2's"
        ) from error
    return table

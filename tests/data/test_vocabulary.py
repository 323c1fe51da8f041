"""Tokens: their bytes are the bytes of the text, and a tokenizer of which nobody can tell is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from harness.core.errors import LlmbenchError
from harness.data.vocabulary import SEPARATOR, Vocabulary, train_tokenizer

TEXTS = ["the cat sat on the mat, the dog did not", "naïve café, 日本語 and emoji 🙂"] * 8


def vocabulary_of(tokenizer: Tokenizer, separator: str = SEPARATOR) -> Vocabulary:
    return Vocabulary(tokenizer, separator, "the tokenizer under test")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return vocabulary_of(train_tokenizer(TEXTS, 300))


@settings(max_examples=150)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=5))
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(vocabulary: Vocabulary, texts: list[str]) -> None:
    for text, tokens_N in zip(texts, vocabulary.encode(texts), strict=True):
        assert b"".join(vocabulary.table[token] for token in tokens_N.tolist()) == text.encode()
        assert vocabulary.num_bytes(tokens_N) == len(text.encode())
        assert (tokens_N == 0).tolist() == [True] + [False] * (len(tokens_N) - 1)


def test_text_that_spells_a_special_token_is_text(vocabulary: Vocabulary) -> None:
    (tokens_N,) = vocabulary.encode([f"before{SEPARATOR}after"])
    assert vocabulary.num_bytes(tokens_N) == len(f"before{SEPARATOR}after")
    assert tokens_N.tolist().count(0) == 1


def test_an_added_token_counts_its_own_text_and_a_truncation_is_lifted() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.add_tokens(["<tab>"])
    tokenizer.enable_truncation(3)
    vocabulary = vocabulary_of(tokenizer)
    (tokens_N,) = vocabulary.encode(["the cat<tab>sat on the mat"])
    assert 300 in tokens_N
    assert vocabulary.num_bytes(tokens_N) == len("the cat<tab>sat on the mat")


def prefixed() -> Tokenizer:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def normalized() -> Tokenizer:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize("make", [prefixed, normalized])
def test_a_tokenizer_that_changes_the_text_is_refused(make: type) -> None:
    with pytest.raises(LlmbenchError, match="tokens differ from the text that begins with 'The cat'"):
        vocabulary_of(make()).encode(["The cat"])


def without_decoder() -> Tokenizer:
    return Tokenizer(models.WordLevel({SEPARATOR: 0, "the": 1}))


def of_sentence_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={"▁the": 0, SEPARATOR: 1}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()])
    return tokenizer


@pytest.mark.parametrize("make", [without_decoder, of_sentence_pieces])
def test_a_tokenizer_that_is_not_byte_level_is_refused(make: type) -> None:
    with pytest.raises(LlmbenchError, match="not byte-level"):
        vocabulary_of(make())


@pytest.mark.parametrize("separator", ["<s>", "th"])
def test_a_separator_is_a_special_token(separator: str) -> None:
    with pytest.raises(LlmbenchError, match=r"data\.tokenizer\.separator"):
        vocabulary_of(train_tokenizer(TEXTS, 300), separator).encode(["the"])


@pytest.mark.parametrize(
    ("row", "words"), [([5, 300], "token id 300"), ([-1, 5], "token id -1"), ([0.5], "whole numbers"), (["a"], "whole")]
)
def test_a_row_of_foreign_tokens_is_refused(vocabulary: Vocabulary, row: list[int], words: str) -> None:
    with pytest.raises(LlmbenchError, match=words):
        vocabulary.check(row)

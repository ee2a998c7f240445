"""A term index in numpy arrays: tf-idf cosine, BM25 coverage and set coverage of a query over documents.

Terms are 32-bit hashes, so a vocabulary of a million bigrams costs four megabytes and no Python objects.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bot.retrieval import text as texts

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Hashes = NDArray[np.uint32]

STOP_WEIGHT = 0.25
_K1 = 1.2
_B = 0.5
_MANY = 200_000
_DENSE_SHARE = 0.05


@functools.lru_cache(maxsize=65_536)
def term_hash(term: str) -> int:
    """A hash of a term that is the same in every process."""
    return crc32(term.encode("utf-8", "replace"))


@functools.cache
def _stop_hashes() -> Hashes:
    return np.fromiter(sorted(map(term_hash, texts.stop_terms())), np.uint32)


def hash_terms(normalised: str) -> Hashes:
    """Hashes of the terms of a normalised text, repeats included."""
    return np.fromiter(map(term_hash, texts.terms(normalised)), np.uint32)


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """Distinct terms of a query: `ids` into an index (-1: unknown there), `counts` and `idf` (stop words reduced)."""

    ids: Ints
    counts: Floats
    idf: Floats

    @property
    def mass(self) -> float:
        """Idf of all terms, unknown ones included."""
        return float(self.idf.sum())


class LexicalIndex:
    """Documents as bags of hashed terms; immutable once built, so any number of threads may ask it."""

    def __init__(self, rows: Sequence[Hashes], groups: Ints | None = None) -> None:
        """`rows`: term hashes per document; `groups` [n]: documents of one entry count once in the idf."""
        count = len(rows)
        lengths = np.fromiter(map(len, rows), np.int64, count)
        flat = np.concatenate(rows) if count else np.empty(0, np.uint32)
        self.n_docs = count
        self.vocabulary, ids = np.unique(flat, return_inverse=True)
        documents = np.repeat(np.arange(count, dtype=np.int64), lengths)
        pairs, tf = np.unique(ids * max(count, 1) + documents, return_counts=True)
        self.docs: Ints = (pairs % max(count, 1)).astype(np.int32)
        posting_terms = pairs // max(count, 1)
        self.tf: Floats = tf.astype(np.float32)
        self.starts = np.searchsorted(posting_terms, np.arange(len(self.vocabulary) + 1))
        self.n_groups, df = self._document_frequencies(posting_terms, groups)
        self.idf = self._idf(df)
        lengths_f = lengths.astype(np.float32)
        self.saturation: Floats = (
            _K1 * (1 - _B + _B * lengths_f / max(float(lengths_f.mean()), 1.0)) if count else lengths_f
        )
        weights = (1 + np.log(self.tf)) * self.idf[posting_terms]
        self.norms: Floats = np.sqrt(np.bincount(self.docs, weights**2, count)).astype(np.float32)

    def _document_frequencies(
        self, posting_terms: NDArray[np.int64], groups: Ints | None
    ) -> tuple[int, Floats]:
        size = len(self.vocabulary)
        if groups is None:
            return self.n_docs, np.bincount(posting_terms, minlength=size).astype(np.float32)
        total = int(groups[-1]) + 1 if len(groups) else 0
        distinct = np.unique(posting_terms * max(total, 1) + groups[self.docs])
        return total, np.bincount(distinct // max(total, 1), minlength=size).astype(np.float32)

    def _idf(self, df: Floats) -> Floats:
        idf = np.log(1 + (self.n_groups - df + 0.5) / (df + 0.5)).astype(np.float32)
        idf[np.isin(self.vocabulary, _stop_hashes())] *= STOP_WEIGHT
        return idf

    def query(self, normalised: str) -> QueryTerms:
        """The terms of a normalised query, weighed by this index."""
        counted = Counter(map(term_hash, texts.terms(normalised)))
        hashes = np.fromiter(counted, np.uint32, len(counted))
        counts = np.fromiter(counted.values(), np.float32, len(counted))
        ids = np.searchsorted(self.vocabulary, hashes).astype(np.int32)
        known = ids < len(self.vocabulary)
        known[known] = self.vocabulary[ids[known]] == hashes[known]
        ids[~known] = -1
        idf = np.full(len(hashes), np.log(2.0 * self.n_groups + 2), np.float32)
        idf[np.isin(hashes, _stop_hashes())] *= STOP_WEIGHT
        idf[known] = self.idf[ids[known]]
        return QueryTerms(ids, counts, idf)

    def _sum(self, query: QueryTerms, weigh: str) -> Floats:
        total = np.zeros(self.n_docs, np.float32)
        for term, count, idf in zip(query.ids, query.counts, query.idf, strict=True):
            if term < 0:
                continue
            start, end = self.starts[term], self.starts[term + 1]
            if self.n_docs > _MANY and end - start > _DENSE_SHARE * self.n_docs:
                continue
            docs, tf = self.docs[start:end], self.tf[start:end]
            if weigh == "cosine":
                total[docs] += ((1 + np.log(count)) * idf * idf) * (1 + np.log(tf))
            elif weigh == "bm25":
                total[docs] += idf * (tf * (_K1 + 1)) / (tf + self.saturation[docs])
            else:
                total[docs] += idf
        return total

    def cosine(self, query: QueryTerms) -> Floats:
        """Tf-idf cosine of the query with every document [n]; terms nobody has lengthen the query."""
        norm = float(np.linalg.norm((1 + np.log(query.counts)) * query.idf))
        return self._sum(query, "cosine") / np.maximum(self.norms * norm, 1e-9)

    def bm25(self, query: QueryTerms) -> Floats:
        """BM25 of every document [n] as a share of the mass of the query, about 0..1 (a repeated term may pass 1)."""
        return self._sum(query, "bm25") / max(query.mass, 1e-9)

    def coverage(self, query: QueryTerms) -> Floats:
        """Share of the query's idf mass that stands in each document [n], 0..1."""
        return self._sum(query, "set") / max(query.mass, 1e-9)


def rows_of(normalised: Iterable[str]) -> list[Hashes]:
    """Term hashes of several normalised texts."""
    return [hash_terms(text) for text in normalised]

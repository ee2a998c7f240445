"""A term index in numpy arrays: tf-idf cosine, BM25 and coverage of a query over documents.

Terms are 32-bit hashes, so a vocabulary of a million bigrams costs four megabytes and no Python objects.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bot.retrieval.text import terms, weight_class

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Hashes = NDArray[np.uint32]

_CLASS_WEIGHTS = np.asarray([1.0, 0.25], np.float32)
"""Factors on the idf of subject terms and of function words."""
_K1 = 1.0
_B = 0.6


@functools.lru_cache(maxsize=65_536)
def _hash(term: str) -> int:
    """A hash that is the same in every process; its lowest bit tells a function word."""
    return crc32(term.encode("utf-8", "replace")) & ~1 | weight_class(term)


def hash_terms(normalised: str) -> Hashes:
    """Hashes of the terms of a normalised text, repeats included."""
    return np.fromiter(map(_hash, terms(normalised)), np.uint32)


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """Distinct terms of a query: `ids` in an index (-1: unknown there), `counts`, reduced `idf`."""

    ids: Ints
    counts: Floats
    idf: Floats

    @property
    def mass(self) -> float:
        """Idf of all terms, unknown ones included; never 0."""
        return max(float(self.idf.sum()), 1e-6)

    @property
    def unknown(self) -> float:
        """Share of the mass that no document has."""
        return float(self.idf[self.ids < 0].sum()) / self.mass


class LexicalIndex:
    """Documents as bags of hashed terms; immutable once built, so any number of threads may ask it."""

    def __init__(self, flat: Hashes, offsets: NDArray[np.int64], owner: Ints) -> None:
        """Document i has the terms flat[offsets[i]:offsets[i+1]]; `owner` [n], rising: its entry.

        Documents of one entry count once in the idf.
        """
        count = max(len(owner), 1)
        lengths = np.diff(offsets)
        self.n_docs = len(owner)
        self.n_entries = int(owner[-1]) + 1 if len(owner) else 0
        self._owner = owner
        self._vocabulary, ids = np.unique(flat, return_inverse=True)
        documents = np.repeat(np.arange(self.n_docs, dtype=np.int64), lengths)
        pairs, tf = np.unique(ids * count + documents, return_counts=True)
        posting_terms = (pairs // count).astype(np.int32)
        self._docs: Ints = (pairs % count).astype(np.int32)
        self._tf: Floats = tf.astype(np.float32)
        del pairs, tf, ids, documents
        size = len(self._vocabulary)
        self._starts = np.searchsorted(posting_terms, np.arange(size + 1, dtype=np.int32))
        owners = owner[self._docs]
        self._leads = np.ones(len(owners), np.bool_)
        self._leads[1:] = (owners[1:] != owners[:-1]) | (posting_terms[1:] != posting_terms[:-1])
        df = np.bincount(posting_terms[self._leads], minlength=size).astype(np.float32)
        idf = np.log(1 + (self.n_entries - df + 0.5) / (df + 0.5))
        self._idf: Floats = (idf * _CLASS_WEIGHTS[self._vocabulary & 1]).astype(np.float32)
        self._saturation: Floats = (_K1 * (1 - _B + _B * lengths / max(lengths.sum() / count, 1.0))).astype(
            np.float32
        )
        weights = self._idf[posting_terms]
        self.masses: Floats = np.bincount(self._docs, weights, self.n_docs).astype(np.float32)
        weights = ((1 + np.log(self._tf)) * weights) ** 2
        self._norms: Floats = np.sqrt(np.bincount(self._docs, weights, self.n_docs)).astype(np.float32)

    def query(self, normalised: str) -> QueryTerms:
        """The terms of a normalised query, weighed by this index; unknown ones weigh most."""
        counted = Counter(map(_hash, terms(normalised)))
        hashes = np.fromiter(counted, np.uint32, len(counted))
        counts = np.fromiter(counted.values(), np.float32, len(counted))
        ids = np.searchsorted(self._vocabulary, hashes).astype(np.int32)
        known = ids < len(self._vocabulary)
        known[known] = self._vocabulary[ids[known]] == hashes[known]
        ids[~known] = -1
        idf = np.log(2.0 * self.n_entries + 2) * _CLASS_WEIGHTS[hashes & 1]
        idf[known] = self._idf[ids[known]]
        return QueryTerms(ids, counts, idf.astype(np.float32))

    def match(self, query: QueryTerms) -> tuple[Floats, Floats]:
        """Tf-idf cosine of every document [n], and the share of the query's mass that stands in it [n]."""
        dot = np.zeros(self.n_docs, np.float32)
        covered = np.zeros(self.n_docs, np.float32)
        query_weights = (1 + np.log(query.counts)) * query.idf
        for term, weight, idf in zip(query.ids.tolist(), query_weights, query.idf, strict=True):
            if term >= 0:
                postings = slice(self._starts[term], self._starts[term + 1])
                docs = self._docs[postings]
                dot[docs] += (weight * idf) * (1 + np.log(self._tf[postings]))
                covered[docs] += idf
        norm = float(np.linalg.norm(query_weights))
        return dot / np.maximum(self._norms * norm, 1e-6), covered / query.mass

    def entry_coverage(self, query: QueryTerms) -> Floats:
        """Share of the query's mass that stands in any document of each entry [entries]."""
        covered = np.zeros(self.n_entries, np.float32)
        for term, idf in zip(query.ids.tolist(), query.idf, strict=True):
            if term >= 0:
                postings = slice(self._starts[term], self._starts[term + 1])
                covered[self._owner[self._docs[postings][self._leads[postings]]]] += idf
        return covered / np.float32(query.mass)

    def bm25(self, query: QueryTerms) -> Floats:
        """BM25 of every document [n] as a share of the mass of the query: about 0..1."""
        total = np.zeros(self.n_docs, np.float32)
        for term, idf in zip(query.ids.tolist(), query.idf, strict=True):
            if term >= 0:
                postings = slice(self._starts[term], self._starts[term + 1])
                docs, tf = self._docs[postings], self._tf[postings]
                total[docs] += idf * (_K1 + 1) * tf / (tf + self._saturation[docs])
        return total / np.float32(query.mass)

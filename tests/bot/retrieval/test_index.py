"""What an index promises: right answers, silence, updates under fire, nothing encoded twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from numpy.typing import NDArray

from bot.retrieval import Entry, Index

HOSTILE = ["", " ", "\x00", "\ud800", "\ud83d", "？！", "\u200b"]


class LetterEncoder:
    """Hashes characters and pairs of them into 64 dimensions; counts and remembers what it was asked."""

    name = "letters"
    dim = 64

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked.extend(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for piece in (*text, *(text[i : i + 2] for i in range(len(text) - 1))):
                vectors[row, crc32(piece.encode()) % self.dim] += 1
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, 1e-9)


@pytest.fixture
def encoder() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture
def shop() -> list[Entry]:
    return [
        Entry("fee", ("运费是多少？", "邮费怎么算", "包邮吗"), "满 99 元包邮。"),
        Entry("return", ("怎么退货？", "如何申请退货"), "七天内可以退货。", tags=("售后",)),
        Entry("invoice", ("可以开发票吗？", "怎么开发票"), "可以开电子发票。"),
        Entry("hours", ("When are you open?", "What are your opening hours?"), "9 to 18."),
    ]


@pytest.fixture
def index(encoder: LetterEncoder, shop: list[Entry]) -> Index:
    made = Index("faq", encoder=encoder)
    made.replace(shop)
    encoder.asked.clear()
    return made


def ids(index: Index, text: str, k: int = 5) -> list[str]:
    return [hit.id for hit in index.search(text, k)]


def test_exact_question_is_certain_and_asks_no_encoder(index: Index, encoder: LetterEncoder) -> None:
    hit = index.best("運費是多少?")
    assert hit is not None
    assert (hit.id, hit.exact, hit.confidence, hit.matched) == ("fee", True, 1.0, "运费是多少？")
    assert hit.answer == "满 99 元包邮。"
    assert index.exact("WHAT are your opening hours") is not None
    assert index.exact("别的问题") is None
    assert encoder.asked == []


def test_search_puts_the_exact_entry_first_and_each_entry_once(index: Index) -> None:
    hits = index.search("怎么开发票", 10)
    assert hits[0].id == "invoice"
    assert hits[0].exact
    assert sorted(hit.id for hit in hits) == ["fee", "hours", "invoice", "return"]
    assert not any(hit.exact for hit in hits[1:])


def test_confidence_falls_and_stays_a_chance(index: Index) -> None:
    hits = index.search("请问怎么申请退货呀", 4)
    assert hits[0].id == "return"
    chances = [hit.confidence for hit in hits]
    assert chances == sorted(chances, reverse=True)
    assert all(0 <= chance <= 1 for chance in chances)
    assert hits[0].matched in hits[0].entry.texts


def test_stranger_is_less_sure_than_a_paraphrase(index: Index) -> None:
    paraphrase, stranger = index.best("邮费要怎么算呢"), index.best("恐龙为什么灭绝")
    assert paraphrase is not None
    assert stranger is not None
    assert paraphrase.confidence > stranger.confidence
    assert stranger.confidence < index.threshold_for("恐龙为什么灭绝")


@pytest.mark.parametrize("text", HOSTILE)
def test_text_without_words_finds_nothing(index: Index, text: str) -> None:
    assert index.search(text) == []
    assert index.best(text) is None


@pytest.mark.parametrize("text", ["退货" * 500_000, "a" * 1_000_000, "\ud800退货\x00" * 1000, "🙂" * 10])
def test_any_other_text_is_survived(index: Index, text: str) -> None:
    assert all(0 <= hit.confidence <= 1 for hit in index.search(text))


def test_empty_index_and_no_hits_wanted(encoder: LetterEncoder, index: Index) -> None:
    empty = Index("knowledge", encoder=encoder)
    assert (len(empty), empty.search("运费"), empty.best("运费")) == (0, [], None)
    empty.replace([])
    assert empty.search("运费") == []
    assert index.search("运费", 0) == []


def test_the_script_of_the_question_chooses_the_threshold(index: Index) -> None:
    chinese, english = index.threshold_for("邮费怎么算"), index.threshold_for("what is the shipping fee")
    assert chinese != english
    assert index.threshold_for("") == english
    assert index.threshold_for("hello, 我的 iPhone 订单怎么退货, thank you very much") == chinese


def test_one_entry_does_not_answer_everything(encoder: LetterEncoder) -> None:
    single = Index("faq", encoder=encoder)
    single.replace([Entry("fee", ("运费是多少？",), "8 元")])
    found = single.best("恐龙为什么灭绝")
    assert found is not None
    assert found.confidence < single.threshold_for("恐龙为什么灭绝")


def test_entry_without_texts_is_harmless(encoder: LetterEncoder) -> None:
    made = Index("faq", encoder=encoder)
    made.replace(
        [Entry("none", (), "x"), Entry("blank", ("",), "y"), Entry("fee", ("运费是多少？",), "8 元")]
    )
    assert ids(made, "运费多少")[0] == "fee"
    assert made.exact("") is None


def test_updates_encode_only_what_is_new(index: Index, encoder: LetterEncoder, shop: list[Entry]) -> None:
    index.upsert([Entry("fee", ("运费是多少？", "快递费多少"), "新的"), Entry("pay", ("怎么付款",), "微信")])
    assert sorted(encoder.asked) == ["快递费多少", "怎么付款"]
    hit = index.exact("运费是多少")
    assert hit is not None
    assert hit.answer == "新的"
    assert index.exact("包邮吗") is None
    assert len(index) == 5
    index.remove(["fee", "unknown"])
    assert "fee" not in index
    assert index.exact("运费是多少") is None
    encoder.asked.clear()
    index.replace(reversed(shop[1:]))
    assert encoder.asked == []
    assert [entry.id for entry in index.entries] == ["hours", "invoice", "return"]


def test_updated_index_equals_a_fresh_one(encoder: LetterEncoder, shop: list[Entry]) -> None:
    updated, fresh = Index("faq", encoder=encoder), Index("faq", encoder=encoder)
    updated.replace(shop[2:])
    updated.upsert(shop[:2])
    updated.remove(["hours"])
    order = [entry.id for entry in updated.entries]
    fresh.replace(sorted(shop[:3], key=lambda entry: order.index(entry.id)))
    for text in ("运费怎么算", "退货要怎么申请", "opening"):
        assert updated.search(text) == fresh.search(text)


def test_later_entry_with_the_same_id_wins(encoder: LetterEncoder) -> None:
    made = Index("faq", encoder=encoder)
    made.replace([Entry("a", ("旧问题",), "旧"), Entry("a", ("新问题",), "新")])
    assert len(made) == 1
    assert made.exact("旧问题") is None


class SlowEncoder(LetterEncoder):
    """Waits in `encode` of many texts until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = threading.Event(), threading.Event()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(texts) > 1:
            self.reached.set()
            assert self.go.wait(10)
        return super().encode(texts)


def test_first_build_shows_progress_and_answers_meanwhile(shop: list[Entry]) -> None:
    encoder = SlowEncoder()
    made = Index("faq", encoder=encoder)
    seen: list[tuple[int, int]] = []
    builder = threading.Thread(target=made.replace, args=(shop, lambda *step: seen.append(step)))
    builder.start()
    assert encoder.reached.wait(10)
    hit = made.best("邮费怎么算")
    assert hit is not None
    assert hit.id == "fee"
    least = made.threshold_for("恐龙为什么灭绝")
    assert all(other.confidence < least for other in made.search("恐龙为什么灭绝"))
    encoder.go.set()
    builder.join(10)
    assert seen[0] == (0, 9)
    assert seen[-1] == (9, 9)


def test_old_entries_answer_during_an_update(shop: list[Entry]) -> None:
    encoder = SlowEncoder()
    encoder.go.set()
    made = Index("faq", encoder=encoder)
    made.replace(shop)
    encoder.go.clear()
    encoder.reached.clear()
    writer = threading.Thread(target=made.replace, args=([Entry("new", ("新问题", "另一个"), "新")],))
    writer.start()
    assert encoder.reached.wait(10)
    assert ids(made, "请问邮费怎么算")[0] == "fee"
    assert made.exact("新问题") is None
    encoder.go.set()
    writer.join(10)
    assert ids(made, "请问邮费怎么算") == ["new"]


def test_searches_go_on_while_another_thread_updates(index: Index, shop: list[Entry]) -> None:
    stop, failures = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            hits = index.search("请问怎么申请退货")
            if not hits or hits[0].id != "return":
                failures.append(hits)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in askers:
        thread.start()
    for step in range(20):
        index.upsert([Entry(f"extra{step}", (f"第{step}个新问题",), "x")])
        index.replace(shop)
    stop.set()
    for thread in askers:
        thread.join(10)
    assert failures == []


def test_encoder_that_fails_leaves_the_old_state(index: Index, encoder: LetterEncoder) -> None:
    def fail(texts: Sequence[str]) -> NDArray[np.float32]:
        raise MemoryError

    working = encoder.encode
    encoder.encode = fail  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        index.upsert([Entry("new", ("新问题",), "新")])
    encoder.encode = working  # type: ignore[method-assign]
    assert "new" not in index
    assert ids(index, "请问邮费怎么算")[0] == "fee"
    index.upsert([Entry("new", ("新问题",), "新")])
    assert "new" in index


def test_large_index_finds_by_projection(encoder: LetterEncoder) -> None:
    made = Index("faq", encoder=encoder)
    made.replace(Entry(f"e{i}", (f"编号{i}的商品怎么退货", f"退掉{i}号商品"), str(i)) for i in range(3000))
    assert ids(made, "请问编号1234的商品怎么退货呢")[0] == "e1234"
    made.remove([f"e{i}" for i in range(1000)])
    assert ids(made, "请问编号1234的商品怎么退货呢")[0] == "e1234"


def test_passages_are_found_by_title_and_text(encoder: LetterEncoder) -> None:
    made = Index("knowledge", encoder=encoder)
    texts = {"手册": "冰箱温度应设为四度。" * 30, "保修": "压缩机保修三年，其余一年。", "空": ""}
    made.replace(Entry(name, (text,), text, title=name, source=f"{name}.md") for name, text in texts.items())
    assert ids(made, "压缩机保修几年")[0] == "保修"
    hit = made.search("冰箱温度设多少度")[0]
    assert (hit.id, hit.entry.source) == ("手册", "手册.md")
    assert len(hit.matched) < len(texts["手册"])
    assert made.exact("保修") is None


def test_cached_vectors_are_not_encoded_again(tmp_path: Path, shop: list[Entry]) -> None:
    first, second = LetterEncoder(), LetterEncoder()
    one = Index("faq", encoder=first, cache=tmp_path / "vectors")
    one.replace(shop)
    steps: list[tuple[int, int]] = []
    two = Index("faq", encoder=second, cache=tmp_path / "vectors")
    two.replace(shop, lambda *step: steps.append(step))
    assert second.asked == []
    assert steps == [(9, 9)]
    assert two.search("邮费要怎么算呢") == one.search("邮费要怎么算呢")

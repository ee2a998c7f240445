"""Fit `bot/retrieval/constants.json` and say how well the constants do on texts they were not fitted on.

    python tests/benchmarks/fit_retrieval.py [--data DIR] [--thresholds] [--check]

Ranking weights: softmax regression over the candidates of each answerable query. Confidence: logistic
regression on whether the best candidate is right. Every set weighs the same; seeds are fixed; numpy only.
Threshold of a script: the lowest confidence at which at most a tenth of what must be refused is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from bot.retrieval.dense import load_encoder
from bot.retrieval.entry import Entry
from bot.retrieval.scoring import CONFIDENCE, RANKING, Scores
from bot.retrieval.snapshot import Snapshot, unit_text
from bot.retrieval.text import normalise_query
from bot.retrieval.vectors import quantise

ROOT = Path(__file__).resolve().parents[2]
CONSTANTS = ROOT / "bot" / "retrieval" / "constants.json"
SAMPLES = ROOT / "plugins" / "faq" / "sample"
PARAPHRASES = Path(__file__).with_name("paraphrases.zh.txt")
SETS = {
    "faq_en_banking77": "BANKING77 (Casanueva et al. 2020), CC BY 4.0",
    "kb_cmrc": "CMRC 2018 (Cui et al. 2019), CC BY-SA 4.0",
    "kb_drcd_trad": "DRCD (Shao et al. 2018), CC BY-SA 3.0",
    "kb_xquad_en": "XQuAD English (Artetxe et al. 2020), CC BY-SA 4.0",
    "faq.zh.yaml, faq.en.yaml": "the sample FAQs of this project, Apache-2.0",
    "paraphrases.zh.txt": "written for this project, Apache-2.0",
}
AGAINST = ("unknown", "cohesion")
"""Features that speak against an answer; all others speak for it."""
MAX_FAR = 0.10
RIDGE = 3.0
_ENCODER = load_encoder()
_VECTORS: dict[str, NDArray[np.float32]] = {}

Floats = NDArray[np.float64]
Group = tuple[str, ...]


@dataclass(frozen=True)
class Query:
    """A text and the position of the entry that answers it, -1 for none."""

    text: str
    gold: int
    kind: str


@dataclass(frozen=True)
class Task:
    """Entries and queries, with a weight in the fit."""

    name: str
    kind: str
    entries: list[Entry]
    queries: list[Query]
    weight: float = 1.0


@dataclass
class Examples:
    """Per query: features of its candidates, the right one of them (-1: none), the Scores behind them."""

    task: Task
    ranking: list[Floats]
    gold: list[int]
    scores: list[Scores]


# ---- sets ----


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def knowledge(data: Path, name: str, weight: float = 1.0) -> Task:
    corpus, queries = (read_jsonl(data / name / f"{part}.jsonl") for part in ("corpus", "queries"))
    entries = [Entry(row["id"], (row["text"],), row["text"], row["title"]) for row in corpus]
    place = {entry.id: position for position, entry in enumerate(entries)}
    asked = [Query(q["query"], place[q["relevant"][0]] if q["relevant"] else -1, q["kind"]) for q in queries]
    return Task(name, "knowledge", entries, asked, weight)


def half(task: Task, which: int) -> Task:
    """Every second query of a set."""
    return Task(f"{task.name}/{which}", task.kind, task.entries, task.queries[which::2], task.weight)


def banking(data: Path, texts: int, seed: int, half: int | None = None) -> Task:
    """BANKING77 with `texts` texts an entry; `half`: only every second intent, the others being absent."""
    chance = random.Random(seed)
    corpus, queries = (
        read_jsonl(data / "faq_en_banking77" / f"{part}.jsonl") for part in ("corpus", "queries")
    )
    shuffled = sorted(corpus, key=lambda row: row["id"])
    random.Random(6).shuffle(shuffled)
    rows = shuffled if half is None else shuffled[half::2]
    entries = [
        Entry(row["id"], tuple(chance.sample([row["question"], *row["similar"]], texts)), "") for row in rows
    ]
    place = {entry.id: position for position, entry in enumerate(entries)}
    dropped = {row["id"] for row in corpus} - set(place)
    asked = [
        Query(q["query"], place[q["relevant"][0]] if q["relevant"] else -1, q["kind"])
        for q in queries
        if not dropped.intersection(q["relevant"])
    ]
    return Task(f"banking77 {texts} texts", "faq", entries, asked)


def sample(language: str, texts: int, seed: int) -> Task:
    """The sample FAQ: texts held out of their entries ask, a quarter of the entries is absent."""
    chance = random.Random(seed)
    entries: list[Entry] = []
    asked: list[Query] = []
    for row in yaml.safe_load((SAMPLES / f"faq.{language}.yaml").read_text("utf-8")):
        group = [row["question"], *row["similar"]]
        chance.shuffle(group)
        if chance.random() < 0.25:
            asked += [Query(text, -1, "absent") for text in group[:3]]
            continue
        kept = min(texts, len(group) - 1)
        asked += [Query(text, len(entries), "answerable") for text in group[kept:][:4]]
        entries.append(Entry(row["id"], tuple(group[:kept]), ""))
    return Task(f"sample {language} {texts} texts #{seed}", "faq", entries, asked)


def paraphrases(section: int, texts: int, seed: int, off_topic: Sequence[str]) -> Task:
    """One section of paraphrases.zh.txt: held-out paraphrases and near misses ask, a quarter is absent."""
    chance = random.Random(seed)
    entries: list[Entry] = []
    asked = [Query(text, -1, "off_topic") for text in chance.sample(list(off_topic), 20)]
    for known, held_out, near in _paraphrase_lines(section):
        if chance.random() < 0.25:
            asked += [Query(text, -1, "absent") for text in (known[0], *held_out)]
            continue
        asked += [Query(text, len(entries), "answerable") for text in held_out]
        asked += [Query(text, -1, "near_miss") for text in near]
        entries.append(Entry(known[0], known[:texts], ""))
    return Task(f"paraphrases {section} {texts} texts #{seed}", "faq", entries, asked)


def _paraphrase_lines(section: int) -> Iterator[tuple[Group, Group, Group]]:
    current = -1
    for line in PARAPHRASES.read_text("utf-8").splitlines():
        if line.startswith("# ----"):
            current += 1
        elif line and not line.startswith("#") and current == section:
            known, held_out, near = (
                tuple(text.strip() for text in part.split("|"))
                for part in line.replace("||", "\n").split("\n")
            )
            yield known, held_out, near


# ---- features ----


def vectors_of(texts: Sequence[str]) -> NDArray[np.float32]:
    missing = [text for text in dict.fromkeys(texts) if text not in _VECTORS]
    if missing:
        _VECTORS.update(zip(missing, _ENCODER.encode([*missing, ""]), strict=False))
    return np.stack([_VECTORS[text] for text in texts])


def examples(task: Task) -> Examples:
    snapshot = Snapshot(task.kind, task.entries, _ENCODER.dim)
    vectors = vectors_of([unit_text(text) for text in snapshot.units.texts])
    snapshot.vectors.put(slice(None), *quantise(vectors))
    snapshot.fit()
    texts = [normalise_query(query.text) for query in task.queries]
    made = Examples(task, [], [], [])
    for query, text, vector in zip(task.queries, texts, vectors_of(texts), strict=True):
        scores = Scores(snapshot, text, vector)
        made.ranking.append(
            np.stack([scores.features[name] for name in RANKING[task.kind]], 1).astype(np.float64)
        )
        found = np.flatnonzero(scores.positions == query.gold)
        made.gold.append(int(found[0]) if len(found) else -1)
        made.scores.append(scores)
    return made


# ---- regression ----


def fit_ranking(sets: Sequence[Examples]) -> Floats:
    """Softmax regression over candidates by Adam, every set weighing the same."""
    size = sets[0].ranking[0].shape[1]
    padded = [_padded(made) for made in sets]
    weights, first, second = np.zeros(size), np.zeros(size), np.zeros(size)
    for step in range(1, 201):
        gradient = 1e-3 * weights
        for made, (x, present, gold) in zip(sets, padded, strict=True):
            logits = np.where(present, x @ weights, -np.inf)
            chances = np.exp(logits - logits.max(1, keepdims=True))
            chances /= chances.sum(1, keepdims=True)
            chances[np.arange(len(gold)), gold] -= 1
            share = made.task.weight / sum(m.task.weight for m in sets)
            gradient += share * np.einsum("qc,qcf->f", chances, x) / len(gold)
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        weights -= 0.3 * first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return np.asarray(np.round(np.maximum(weights, 0), 3), np.float64)


def _padded(made: Examples) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Features [q, c, f] of queries whose right entry is a candidate, which exist, and the right ones."""
    chosen = [i for i, gold in enumerate(made.gold) if gold >= 0]
    width = max(len(made.ranking[i]) for i in chosen)
    x = np.zeros((len(chosen), width, made.ranking[0].shape[1]))
    present = np.zeros((len(chosen), width), np.bool_)
    for row, i in enumerate(chosen):
        x[row, : len(made.ranking[i])] = made.ranking[i]
        present[row, : len(made.ranking[i])] = True
    return x, present, np.asarray([made.gold[i] for i in chosen])


def strangers(sets: Sequence[Examples], ranking: NDArray[np.float32]) -> tuple[float, float]:
    """Mean score and nearness of the five and ten best entries that are not the best."""
    scores, near = [], []
    for made in sets:
        nearness = "centroid" if made.task.kind == "faq" else "nearest"
        for each in made.scores:
            scores.append(np.sort(each.fused(ranking))[-6:-1].mean())
            near.append(np.sort(each.features[nearness])[-11:-1].mean())
    return round(float(np.mean(scores)), 3), round(float(np.mean(near)), 3)


def usual_cohesion(sets: Sequence[Examples]) -> float:
    """Mean over the sets that have one."""
    known = [made.scores[0].cohesion for made in sets]
    return round(float(np.mean([each for each in known if each is not None] or [0.0])), 3)


def best_candidates(
    made: Examples, ranking: Floats, stranger: tuple[float, float], cohesion: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidence features of the best candidate of each query, and whether it is the right one."""
    rows, right = [], []
    for gold, scores in zip(made.gold, made.scores, strict=True):
        fused = scores.fused(ranking.astype(np.float32))
        best = np.argsort(-fused, kind="stable")[:1]
        rows.append(scores.confidence(fused, best, stranger, cohesion)[0])
        right.append(bool(best[0] == gold))
    return np.asarray(rows, np.float64), np.asarray(right)


def fit_logistic(x: Floats, right: NDArray[np.bool_], weights: Floats, signs: Floats) -> tuple[Floats, float]:
    """Logistic regression in which no feature may count against its meaning (`signs` [f]): such ones get 0.

    More evidence must never make an answer less likely, whatever the sets at hand say.
    """
    kept = list(range(x.shape[1]))
    while True:
        plain, bias = _ridge_logistic(x[:, kept], right, weights)
        against = plain * signs[kept] * x[:, kept].std(0)
        if against.min() >= 0:
            break
        kept.pop(int(against.argmin()))
    full = np.zeros(x.shape[1])
    full[kept] = plain
    return full, bias


def _ridge_logistic(x: Floats, right: NDArray[np.bool_], weights: Floats) -> tuple[Floats, float]:
    """Newton steps on standardised features, given back for plain ones."""
    mean, scale = x.mean(0), x.std(0) + 1e-9
    z = np.column_stack([(x - mean) / scale, np.ones(len(x))])
    ridge = np.diag([*[RIDGE] * x.shape[1], 1e-6])
    beta = np.zeros(z.shape[1])
    for _ in range(30):
        chances = 1 / (1 + np.exp(-z @ beta))
        gradient = z.T @ (weights * (chances - right)) + ridge @ beta
        beta -= np.linalg.solve((z.T * (weights * chances * (1 - chances))) @ z + ridge, gradient)
    plain = beta[:-1] / scale
    return np.round(plain, 4), round(float(beta[-1] - mean @ plain), 4)


def fit(sets: Sequence[Examples]) -> dict[str, Any]:
    """One calibration as `constants.json` has it."""
    kind = sets[0].task.kind
    ranking = fit_ranking(sets)
    stranger = strangers(sets, ranking.astype(np.float32))
    cohesion = usual_cohesion(sets)
    parts = [best_candidates(made, ranking, stranger, cohesion) for made in sets]
    x, right = (np.concatenate(column) for column in zip(*parts, strict=True))
    weights = np.concatenate([np.full(len(m.gold), 100 * m.task.weight / len(m.gold)) for m in sets])
    signs = np.asarray([-1.0 if name in AGAINST else 1.0 for name in CONFIDENCE[kind]])
    confidence, bias = fit_logistic(x, right, weights, signs)
    return {
        "ranking": dict(zip(RANKING[kind], ranking.tolist(), strict=True)),
        "confidence": dict(zip(CONFIDENCE[kind], confidence.tolist(), strict=True)),
        "bias": bias,
        "strangers": {"score": stranger[0], "nearness": stranger[1]},
        "cohesion": cohesion,
    }


# ---- judging ----


@dataclass(frozen=True)
class Outcome:
    """Confidences of the best candidates of one set, which are right, and the kinds of the queries."""

    chances: Floats
    right: NDArray[np.bool_]
    kinds: NDArray[np.str_]

    @property
    def answerable(self) -> NDArray[np.bool_]:
        return self.kinds == "answerable"

    def figures(self) -> dict[str, float]:
        """Recall@1, refusal AUC, share answered rightly where a tenth of the others is answered too."""
        ours, others = self.chances[self.answerable], self.chances[~self.answerable]
        above = (ours[:, None] > others).mean() + 0.5 * (ours[:, None] == others).mean()
        threshold = min((c for c in [*self.chances, 2.0] if (others >= c).mean() <= MAX_FAR), default=2.0)
        good = self.right & (self.chances >= threshold)
        return {
            "recall@1": round(float(self.right[self.answerable].mean()), 3),
            "refusal_auc": round(float(above), 3),
            "correct": round(float(good[self.answerable].mean()), 3),
        }


def judge(constants: dict[str, Any], made: Examples) -> Outcome:
    kind = made.task.kind
    ranking = np.asarray([constants["ranking"][name] for name in RANKING[kind]])
    stranger = (constants["strangers"]["score"], constants["strangers"]["nearness"])
    x, right = best_candidates(made, ranking, stranger, constants["cohesion"])
    logits = x @ np.asarray([constants["confidence"][name] for name in CONFIDENCE[kind]]) + constants["bias"]
    kinds = np.asarray([query.kind for query in made.task.queries])
    return Outcome(1 / (1 + np.exp(-logits)), right, kinds)


def with_off_topic(made: Examples, texts: Sequence[str]) -> Iterator[Examples]:
    """A set, and where nobody asks it anything off its topic, its entries asked `texts`."""
    yield made
    if all(query.kind != "off_topic" for query in made.task.queries):
        asked = [Query(text, -1, "off_topic") for text in texts]
        yield examples(Task(f"{made.task.name}, off topic", made.task.kind, made.task.entries, asked))


def answered(outcomes: Sequence[Outcome], threshold: float) -> dict[str, float]:
    """By kind of what should be refused: the share that is answered, all sets alike."""
    kinds = sorted({str(kind) for each in outcomes for kind in each.kinds} - {"answerable"})
    chances = {kind: [o.chances[o.kinds == kind] for o in outcomes if kind in o.kinds] for kind in kinds}
    return {
        kind: round(float(np.mean([(each >= threshold).mean() for each in sets])), 3)
        for kind, sets in chances.items()
    }


def threshold_of(outcomes: Sequence[Outcome]) -> float:
    """The lowest confidence at which at most a tenth of what should be refused is answered, kinds alike.

    Were sets alike, chance would say how hard the refused are: two thirds of one set are near misses, and
    another has nothing but subjects next to its own.
    """
    grid = np.arange(0.2, 0.95, 0.01)
    return round(
        float(next((t for t in grid if np.mean([*answered(outcomes, t).values()]) <= MAX_FAR), 0.95)), 2
    )


Fold = tuple[list[Examples], list[Examples]]


def folds(data: Path, off_topic: Sequence[str]) -> dict[tuple[str, str], tuple[list[Examples], list[Fold]]]:
    """By kind and script: what is fitted on, and (training, test) pairs that share no entry or query."""
    halves = [[examples(banking(data, texts, seed, which)) for texts, seed in BANKING] for which in (0, 1)]
    english = [examples(sample("en", texts, seed)) for texts, seed in ((4, 0), (2, 1))]
    shop = [examples(sample("zh", texts, seed)) for texts, seed in ((6, 0), (3, 1), (4, 2), (2, 3))]
    everyday, bank = (
        [examples(paraphrases(section, texts, seed, off_topic)) for texts, seed in ((3, 0), (2, 1), (1, 2))]
        for section in (0, 1)
    )
    cmrc, drcd = (examples(knowledge(data, name)) for name in ("kb_cmrc", "kb_drcd_trad"))
    light = [examples(knowledge(data, name, 0.5)) for name in ("kb_cmrc", "kb_drcd_trad")]
    xquad = knowledge(data, "kb_xquad_en")
    parts = [examples(half(xquad, which)) for which in (0, 1)]
    return {
        ("faq", "latin"): (
            [*(examples(banking(data, texts, seed)) for texts, seed in BANKING), *english],
            [([*halves[0], *english], halves[1]), ([*halves[1], *english], halves[0])],
        ),
        ("faq", "cjk"): (
            [*shop, *everyday, *bank],
            [([*shop, *everyday], bank), ([*shop, *bank], everyday), ([*everyday, *bank], shop)],
        ),
        ("knowledge", "latin"): (
            [examples(xquad), *light],
            [([parts[0], *light], [parts[1]]), ([parts[1], *light], [parts[0]])],
        ),
        ("knowledge", "cjk"): ([cmrc, drcd], [([cmrc], [drcd]), ([drcd], [cmrc])]),
    }


BANKING = ((6, 0), (3, 1), (2, 2), (1, 3))


def held_out(pairs: Sequence[Fold]) -> Iterator[tuple[dict[str, Any], Examples]]:
    """Every test set with constants fitted on the training sets beside it."""
    for training, test in pairs:
        fitted = fit(training)
        yield from ((fitted, made) for made in test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    default = os.environ.get("GLMBOT_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder that holds retrieval/")
    parser.add_argument("--thresholds", action="store_true", help="set the thresholds only, keep all weights")
    parser.add_argument("--check", action="store_true", help="print the figures, write nothing")
    arguments = parser.parse_args()
    data = arguments.data / "retrieval"
    asked = {name: read_jsonl(data / name / "queries.jsonl") for name in SETS if (data / name).is_dir()}
    everyday = [query["query"] for query in asked["kb_cmrc"] if query["kind"] == "off_topic"]
    off_topic = {
        ("faq", "latin"): [query["query"] for query in asked["kb_xquad_en"][::3]],
        ("knowledge", "latin"): [query["query"] for query in asked["faq_en_banking77"][::5]],
    }
    constants: dict[str, Any] = json.loads(CONSTANTS.read_text("utf-8")) if arguments.thresholds else {}
    figures: dict[str, Any] = {}
    for (kind, script), (everything, pairs) in folds(data, everyday).items():
        if not arguments.thresholds:
            constants.setdefault(kind, {})[script] = fit(everything)
        final = constants[kind][script]
        # A fold of FAQs lacks a whole sort of FAQ, and with it what is known of cohesion.
        judged = [(final, made) for made in everything] if kind == "faq" else list(held_out(pairs))
        texts = off_topic.get((kind, script), everyday)
        outcomes = [judge(by, each) for by, made in judged for each in with_off_topic(made, texts)]
        final["threshold"] = threshold_of(outcomes)
        print(
            f"{kind} {script}: threshold {final['threshold']}",
            answered(outcomes, final["threshold"]),
            flush=True,
        )
        if arguments.thresholds:
            continue
        for fitted, made in held_out(pairs) if kind == "faq" else judged:
            key = f"{kind} {script}: {made.task.name}" + (
                f" ({len(figures)})" if "banking" in made.task.name else ""
            )
            figures[key] = judge(fitted, made).figures()
            print(f"{key:48s}", figures[key], flush=True)
    if not arguments.thresholds:
        constants["provenance"] = {
            "script": "tests/benchmarks/fit_retrieval.py",
            "date": datetime.now(UTC).date().isoformat(),
            "encoder": _ENCODER.name,
            "sets": SETS,
            "cross_validated": figures,
        }
    if not arguments.check:
        CONSTANTS.write_text(json.dumps(constants, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()

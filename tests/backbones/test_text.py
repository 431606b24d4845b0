"""Sentence embeddings: against an own mean pooling, alone or in company, without a network."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
    ViTConfig,
    ViTModel,
)

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import hub
from audio_from_video.backbones.text import embed, locate, revision
from audio_from_video.meaning.similarity import closest, cosines
from audio_from_video.runtime.errors import UserError
from tests.support.text_models import MINILM, TEXTS, write_bert

LABELS = [label.display_name for label in load_labels()]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return write_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def label_vectors() -> np.ndarray:
    return embed(MINILM, LABELS)


def mean_pooled(directory: str, text: str) -> np.ndarray:
    """The reference: mean of all token outputs of one text, normalised."""
    tokens = AutoTokenizer.from_pretrained(directory)(text, return_tensors="pt")
    with torch.inference_mode():
        vector = (
            AutoModel.from_pretrained(directory)
            .eval()(**tokens)
            .last_hidden_state[0]
            .mean(0)
            .numpy()
        )
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("model", ["plain", MINILM])
def test_equals_mean_pooling_of_the_transformers_model(model, bert):
    directory = bert if model == "plain" else str(locate(MINILM))
    expected = np.stack([mean_pooled(directory, text) for text in TEXTS])
    np.testing.assert_allclose(
        embed(bert if model == "plain" else model, TEXTS), expected, atol=1e-5
    )


def test_normalised_float32_and_the_same_whatever_stands_beside(bert):
    for name, width in ((bert, 32), (MINILM, 384)):
        together = embed(name, TEXTS)
        assert together.shape == (len(TEXTS), width) and together.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
        assert np.array_equal(together, np.concatenate([embed(name, [text]) for text in TEXTS]))
        assert embed(name, []).shape == (0, width)
        assert torch.get_num_threads() == 1


def test_the_package_comes_before_the_hub_and_needs_no_network(monkeypatch):
    def no_network(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(hub, "locate", no_network)
    assert (locate(MINILM) / "model.safetensors").is_file()
    assert embed(MINILM, ["rain"]).shape == (1, 384)


def test_the_hub_is_asked_where_the_package_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr("audio_from_video.backbones.text.find_spec", lambda _: None)
    monkeypatch.setattr(hub, "locate", lambda name, offline: tmp_path / name)
    assert locate(MINILM) == tmp_path / MINILM


def test_a_sentence_transformers_directory_serves_as_it_is(tmp_path, bert):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    SentenceTransformer(modules=[Transformer(bert), Pooling(32, "cls")]).save(str(tmp_path / "cls"))
    first = embed(str(tmp_path / "cls"), TEXTS)
    assert abs(first - embed(bert, TEXTS)).max() > 1e-2  # its own pooling, not the mean
    assert revision(str(tmp_path / "cls")) and revision(MINILM) != revision(bert)


def test_what_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no-such/model.*local directory"):
        embed("no-such/model", ["rain"])
    vision = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=16,
    )
    ViTModel(vision).save_pretrained(tmp_path / "vit")
    for directory in (str(tmp_path / "vit"), write_bert(tmp_path / "pickle", "pickle")):
        with pytest.raises(UserError, match="cannot be loaded as a text model") as raised:
            embed(directory, ["rain"])
        assert "\n" not in str(raised.value)


def test_prints_nothing(bert, capfd, caplog):
    from audio_from_video.backbones import text as text_embedding

    text_embedding._load.cache_clear()
    embed(bert, ["rain"])
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_known_neighbours(label_vectors):
    """The research description's example of a caption, and an action with plain labels."""
    queries = ["a group of people in a crowd with their hands up", "applauding", "clapping", "rain"]
    top = [
        [LABELS[i] for i in row]
        for row in closest(cosines(embed(MINILM, queries), label_vectors), 3)
    ]
    assert top[0] == ["Crowd", "Hands", "Applause"]
    assert top[1][0] in ("Applause", "Clapping") and top[2][0] == "Clapping" and top[3][0] == "Rain"


def test_closest_breaks_ties_in_the_columns_order():
    similarity = np.array([[0.5, 0.9, 0.5, 0.9]], np.float32)
    assert closest(similarity, 3).tolist() == [[1, 3, 0]]
    np.testing.assert_allclose(
        cosines(np.eye(2, dtype=np.float32), np.array([[0.6, 0.8]], np.float32)), [[0.6], [0.8]]
    )


def test_wordllama_is_what_its_own_package_computes():
    import wordllama
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from wordllama.inference import WordLlamaInference

    folder = Path(wordllama.__file__).parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers/l2_supercat_tokenizer_config.json"))
    vectors = load_file(folder / "weights/l2_supercat_256.safetensors")["embedding.weight"]
    texts = ["a dog in the rain", "Applause", "a group of people in a crowd with their hands up"]
    reference = WordLlamaInference(tokenizer=tokenizer, embedding=vectors).embed(texts, norm=True)
    found = embed("dleemiller/wordllama-l2-supercat", texts)
    assert found.shape == (3, 256) and np.allclose(found, reference, atol=1e-6)
    assert revision("dleemiller/wordllama-l2-supercat") != revision(MINILM)

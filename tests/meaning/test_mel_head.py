"""The head `mel`: AST's input form and its scores against AST itself, and what the decoder does."""

from pathlib import Path

import numpy as np
import torch

from audio_from_video.learning.features import Features
from audio_from_video.meaning import mel_head
from audio_from_video.meaning.mel_head import MelAst, MelDecoder, MelHead
from audio_from_video.meaning.pooled_head import PooledHead
from audio_from_video.media import codecs
from audio_from_video.runtime import stage_run, vocabulary
from audio_from_video.storage.row_file import RowFile, scratch
from tests.support import synthetic
from tests.support.synthetic import POOLED, STEPS

RNG = np.random.default_rng(0)


def test_real_log_mel_gives_asts_own_scores(backbone, ast):
    """What a perfect decoder would write: the frames with sound, padded as AST's extractor does."""
    mel_ast = MelAst(str(ast))
    for row in synthetic.make_clips()[:3]:
        log_mel, (frames,) = backbone.log_mel([codecs.decode_flac(row["flac"])])
        mel_head.load_front_end(str(ast))
        assert np.array_equal(mel_head.real_log_mel(row["flac"]), log_mel[0])
        assert frames < log_mel.shape[1]
        scores = mel_ast.scores(log_mel[:, :frames])
        assert np.allclose(scores, backbone.encode(log_mel)[2], atol=1e-6)


def test_the_decoders_frames_come_from_their_step_and_its_neighbours():
    torch.manual_seed(0)
    model = MelDecoder(6, 5, 16, 24, 8).eval()  # 4 frames a step
    features = torch.randn(2, 6, 5)
    assert model(features).shape == (2, 24, 8)
    changed = features.clone()
    changed[:, 3] += 1
    same = (model(features) == model(changed)).all(-1).all(0)
    assert same.tolist() == [True] * 8 + [False] * 12 + [True] * 4
    assert MelDecoder(6, 5, 16, 97, 8)(features).shape == (2, 97, 8)


def test_the_decoder_can_learn_by_heart():
    torch.manual_seed(0)
    model = MelDecoder(6, 5, 64, 24, 8)
    features = torch.randn(3, 6, 5)
    mel = torch.randn(3, 24, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        loss = (model(features) - mel).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01 * mel.var().item()


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def test_asts_own_pooled_output_gives_asts_own_scores(workspace, in_process, ast, backbone):
    """Features whose mean over time is what AST's head expects, through a map that passes it on."""
    rows = [row for row in synthetic.make_clips() if row["split"] != "unlabelled"]
    synthetic.write_data(rows)
    ast_scores = {}
    for row in rows:
        log_mel, _ = backbone.log_mel([codecs.decode_flac(row["flac"])])
        _, pooled, scores = backbone.encode(log_mel)
        wiggle = RNG.normal(size=(STEPS, POOLED))
        row["audio"] = pooled[0] + wiggle - wiggle.mean(0)
        ast_scores[row["clip_id"]] = scores[0]
    audible = in_order([row | {"features": row["audio"]} for row in rows if row["audible"]])
    synthetic.write_shards(Path("data/audio_features"), {"features": (STEPS, POOLED)}, audible)

    with scratch() as folder:
        features = Features(folder, vocabulary.SPLITS)
        test = features.clip_indices("test")
        audio = [features.sound(test[i : i + 1])[0][0].numpy() for i in range(len(test))]
        # Two seeds that generated the real features; zeros for inaudible clips.
        file = RowFile(folder / "generated", (2, STEPS, POOLED))
        generated = {"semantic_validation": file.write(np.stack([one] * 2) for one in audio)}
        weights = torch.cat([torch.eye(POOLED), torch.zeros(POOLED + 1, POOLED)])
        decoder = MelDecoder(STEPS, POOLED, 4, 12, backbone.config.num_mel_bins)
        stage = stage_run.StageRun("label_predictor", None, 1)
        head = MelHead(decoder, str(ast))
        by_map = PooledHead(weights, str(ast)).predict(features, test, generated)
        by_mel = head.predict(stage, features, test, test, generated)
        of_two = head.predict(stage, features, test, test[[3, 8]], generated)
        has_audio = (features.audio_row[test] >= 0).numpy()
        clip_ids = features.clips.clip_id.to_numpy()[test]

    own = np.stack([ast_scores[clip_id] for clip_id in clip_ids])
    assert np.ptp(own[has_audio]) > 0.1
    assert np.allclose(by_map["real_path_features"][has_audio], own[has_audio], atol=2e-3)
    assert np.allclose(by_map["generated_features"][has_audio], own[has_audio], atol=2e-3)

    # Inaudible clips have no real path, but generated scores.
    assert (~has_audio).any()
    assert not by_map["real_path_features"][~has_audio].any()
    assert not by_mel["real_path_mel"][~has_audio].any()
    assert by_map["generated_features"][~has_audio].any()
    assert by_mel["generated_mel"][~has_audio].any()

    # Where two clips are scored, the scores stand in their places, zeros elsewhere.
    scored = np.isin(np.arange(len(test)), [3, 8])
    assert of_two.keys() == {"generated_mel", "real_path_mel"}
    assert of_two["generated_mel"][scored].all()
    for way, scores in of_two.items():
        assert np.allclose(scores[scored], by_mel[way][scored], atol=1e-6), way
        assert not scores[~scored].any(), way

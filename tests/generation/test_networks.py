"""Architecture 2: its network against plain loops, its conditioning, and its stage."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.clipset import folds
from audio_from_video.generation.conditioning import Conditioning
from audio_from_video.generation.generator import Inputs, make_generator
from audio_from_video.generation.networks import (
    Anchors,
    LabelAttention,
    MappedAudioGenerator,
    MappedGeneratorSizes,
    nearest_anchor,
    propagate,
)
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.features import Features
from audio_from_video.runtime import parallel, params, vocabulary
from audio_from_video.storage import shards
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.map_items import with_processes
from tests.support.synthetic import COMPONENTS, LABEL_NAMES, LABELS, NETWORK, STEPS, WIDTH

RNG = np.random.default_rng(0)


# How label audio is carried to neighbouring steps


def carried(values: np.ndarray, anchors: np.ndarray, length: float) -> np.ndarray:
    """The reference: of each step the mean over its nearest anchors, weakened by the distance."""
    made = np.zeros_like(values)
    for b, clip in enumerate(anchors):
        for t in range(len(clip)):
            distance = {s: abs(s - t) for s in range(len(clip)) if clip[s]}
            if distance:
                d = min(distance.values())
                strength = math.exp(-d / length) if length else float(d == 0)
                made[b, t] = strength * np.mean(
                    [values[b, s] for s in distance if distance[s] == d], axis=0
                )
    return made


@pytest.mark.parametrize("length", [0.0, 0.5, 2.0])
def test_propagation_against_a_double_loop(length):
    values = RNG.normal(size=(40, 9, 4)).astype(np.float32)
    anchors = RNG.random((40, 9)) < 0.2
    assert not anchors.any(1).all()  # a clip without anchors gets zeros
    made = propagate(torch.tensor(values), torch.tensor(anchors), length).numpy()
    np.testing.assert_allclose(made, carried(values, anchors, length), atol=1e-6)
    assert np.array_equal(made[anchors], values[anchors])  # full strength, to the bit
    assert (made[~anchors] == 0).all() if length == 0 else (made[anchors.any(1)] != 0).all()
    assert np.isfinite(made).all() and (made[~anchors.any(1)] == 0).all()


def test_propagation_gives_the_values_in_its_docstring():
    steps = "..A....A."
    anchors = torch.tensor([[step == "A" for step in steps]])
    made = propagate(torch.ones(1, len(steps), 1), anchors, 2.0)[0, :, 0].tolist()
    printed = " ".join(f"{value:.2f}".lstrip("0").replace("1.00", "1") for value in made)
    first, second = propagate.__doc__.rstrip().splitlines()[-2:]
    assert first.endswith(f"steps      {' '.join(steps)}") and second.endswith(
        f"strength   {printed}"
    )
    decay = " ".join(f"{math.exp(-d / 2):.2f}".lstrip("0").replace("1.00", "1") for d in range(5))
    assert " ".join(second.split("strength")[0].split()) == decay


def test_two_anchors_at_the_same_distance_are_averaged():
    anchors = torch.tensor([[True, False, True, False, False]])
    values = torch.tensor([[[2.0], [50.0], [6.0], [50.0], [50.0]]])
    made = propagate(values, anchors, 1.0)[0, :, 0]
    assert torch.allclose(made, torch.tensor([2, 4 / math.e, 6, 6 / math.e, 6 / math.e**2]))


def test_nearest_anchors():
    share, distance = nearest_anchor(
        torch.tensor([[False, True, False, True, False, False], [False] * 6])
    )
    expected = [
        [0, 1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0.5, 0, 0.5, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0],
    ]
    assert share[0].tolist() == expected and distance[0].tolist() == [1, 0, 1, 0, 1, 2]
    assert (share[1] == 0).all() and distance[1].isinf().all()


# Attention over the labels

B, T, K, D, V, A = 3, 6, 4, 16, 5, 7
LABELS_THAT_OCCUR = 30


def anchors_of(valid: torch.Tensor | None = None) -> Anchors:
    """Random anchors; the text embeddings are normalised, as the mapping's are."""
    made = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=made), dim=-1)

    valid = torch.rand(B, T, K, generator=made) < 0.35 if valid is None else valid
    return Anchors(
        valid.any(-1),
        unit(B, T, D),
        unit(LABELS_THAT_OCCUR, D),
        torch.randint(LABELS_THAT_OCCUR, (B, T, K), generator=made),
        torch.randn(B, T, K, A, generator=made),
        valid,
    )


def test_attention_begins_as_the_softmax_of_the_cosines():
    anchors = anchors_of()
    frame = torch.randn(B, T, V)
    weights = LabelAttention(D, V, 0.05).weights(anchors, frame).detach().numpy()
    some = 0
    for b, t in np.ndindex(B, T):
        valid = anchors.valid[b, t].numpy()
        cosine = (anchors.text[anchors.label[b, t]] @ anchors.caption[b, t]).numpy()[valid]
        expected = np.exp(cosine / 0.05) / np.exp(cosine / 0.05).sum() if len(cosine) else []
        np.testing.assert_allclose(weights[b, t][valid], expected, atol=1e-5)
        assert (weights[b, t][~valid] == 0).all()
        some += len(cosine) > 1
    assert some > 5
    value = LabelAttention(D, V, 0.05)(anchors, frame).detach().numpy()
    np.testing.assert_allclose(
        value, np.einsum("btk,btka->bta", weights, anchors.audio.numpy()), atol=1e-5
    )


def test_at_temperature_one_all_labels_weigh_nearly_the_same():
    torch.manual_seed(0)
    caption = torch.randn(B, T, D)
    text = torch.nn.functional.normalize(
        caption[..., None, :] + 0.5 * torch.randn(B, T, K, D), dim=-1
    )  # related, as chosen labels are
    anchors = replace(
        anchors_of(torch.ones(B, T, K, dtype=torch.bool)),
        caption=caption,
        text=text.flatten(0, 2),
        label=torch.arange(B * T * K).view(B, T, K),
    )
    frame = torch.randn(B, T, V)
    spread = {
        t: LabelAttention(D, V, t).weights(anchors, frame).std(-1).mean().item()
        for t in (0.05, 1.0)
    }
    assert spread[1.0] < 0.03 and spread[0.05] > 4 * spread[1.0]


@pytest.mark.parametrize("anchored", [True, False])
def test_without_labels_there_is_zero_and_no_nan_in_values_or_gradients(anchored):
    valid = torch.zeros(B, T, K, dtype=torch.bool)
    valid[0, 1, :2] = True
    for mask in (valid, torch.zeros_like(valid)):
        anchors = anchors_of(mask)
        model = network(anchored=anchored)
        made = model.label_audio(torch.randn(B, T, V), anchors)
        assert (made[1:] == 0).all() and (made[0] != 0).any() == mask.any()
        model(torch.randn(B, T, V), anchors, torch.randn(B, T, 2)).square().mean().backward()
        assert all(
            parameter.grad is None or parameter.grad.isfinite().all()
            for parameter in model.parameters()
        )
        assert (model.attention.query.weight.grad != 0).any() == mask.any()


def test_attention_learns_which_label_sounds_right():
    torch.manual_seed(0)
    anchors = anchors_of(torch.ones(B, T, K, dtype=torch.bool))
    attention = LabelAttention(D, V, 0.5)
    frame = torch.randn(B, T, V)
    target = anchors.audio[:, :, 2]
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        loss = (attention(anchors, frame) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0] and attention.weights(anchors, frame)[..., 2].mean() > 0.7


# The network


def network(
    length: float = 2.0,
    anchored: bool = True,
    visual: str = "step",
    noise: int = 2,
    bidirectional: bool = True,
):
    torch.manual_seed(0)
    sizes = MappedGeneratorSizes(
        video_width=V,
        audio_width=A,
        hidden=8,
        projection=8,
        dropout=0.0,
        bidirectional=bidirectional,
        text_width=D,
        noise=noise,
        propagation=length,
        anchors=anchored,
        visual=visual,
        temperature=0.05,
    )
    return MappedAudioGenerator(sizes).eval()


def silenced(model: MappedAudioGenerator) -> MappedAudioGenerator:
    """Nothing but the label audio reaches the output."""
    for part in (model.lstm, model.head):
        for parameter in part.parameters():
            torch.nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("noise", [0, 3])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_shapes(noise, bidirectional):
    model = network(noise=noise, bidirectional=bidirectional)
    assert model(torch.randn(B, T, V), anchors_of(), torch.randn(B, T, noise)).shape == (B, T, A)
    assert (
        model.project[1].in_features == V + A + noise
        and model.video_mean.shape == (V,) == model.video_std.shape
    )


def test_at_the_start_the_label_audio_enters_the_output_in_full_strength():
    model = silenced(network())
    anchors = anchors_of()
    model.set_scale("audio", torch.randn(A), 3 * torch.ones(A))
    made = model(torch.randn(B, T, V), anchors, torch.randn(B, T, 2)).detach()
    known = anchors.valid.any(-1).numpy()
    value = (
        model.attention(anchors, torch.randn(B, T, V)).detach().numpy() / 3
    )  # in the units of the targets
    np.testing.assert_allclose(made.numpy(), carried(value, known, 2.0), atol=1e-5)
    assert (
        np.allclose(made.numpy()[known], value[known], atol=1e-6)
        and known.any()
        and not known.all()
    )
    single = replace(
        anchors,
        present=torch.ones(B, T, dtype=torch.bool),
        valid=torch.arange(K).expand(B, T, K) == 1,
    )
    sound = model.unscale(model(torch.randn(B, T, V), single, torch.randn(B, T, 2)))
    assert torch.allclose(sound, single.audio[:, :, 1] + model.audio_mean, atol=1e-5)
    with torch.no_grad():
        model.injection.fill_(0.25)
    assert torch.allclose(
        model(torch.randn(B, T, V), anchors, torch.randn(B, T, 2)), 0.25 * made, atol=1e-6
    )


def test_not_anchored_the_clips_mean_stands_at_every_step():
    model = silenced(network(anchored=False))
    anchors = anchors_of()
    made = model(torch.randn(B, T, V), anchors, torch.randn(B, T, 2)).detach().numpy()
    value = model.attention(anchors, torch.randn(B, T, V)).detach().numpy()
    known = anchors.valid.any(-1).numpy()
    for b in range(B):
        np.testing.assert_allclose(
            made[b], np.repeat(value[b][known[b]].mean(0)[None], T, 0), atol=1e-5
        )


@pytest.mark.parametrize("visual", ["step", "representative"])
def test_representative_frames_are_all_that_is_seen_of_the_picture(visual):
    model = network(visual=visual)
    valid = torch.zeros(B, T, K, dtype=torch.bool)
    valid[:, [1, 4]] = True
    anchors = anchors_of(valid)
    video = torch.randn(B, T, V)
    noise = torch.randn(B, T, 2)
    before = model(video, anchors, noise)
    for frame, seen in ((0, False), (1, True), (2, False), (3, False), (4, True), (5, False)):
        changed = video.clone()
        changed[:, frame] += 1
        assert torch.equal(before, model(changed, anchors, noise)) == (
            visual == "representative" and not seen
        )


def test_a_step_sees_the_frame_of_its_own_nearest_anchor():
    model = network(visual="representative", length=0.0, bidirectional=False)
    valid = torch.zeros(B, T, K, dtype=torch.bool)
    valid[:, [1, 4]] = True
    anchors = anchors_of(valid)
    video = torch.randn(B, T, V)
    noise = torch.randn(B, T, 2)
    changed = video.clone()
    changed[:, 4] += 1
    same = (model(video, anchors, noise) == model(changed, anchors, noise)).all(-1).all(0)
    # Steps 3 to 5 are nearer to 4 than to 1.
    assert same.tolist() == [True] * 3 + [False] * 3


def test_noise_caption_and_label_audio_all_reach_the_answer():
    model = network()
    anchors = anchors_of()
    video = torch.randn(B, T, V)
    noise = torch.randn(B, T, 2)
    before = model(video, anchors, noise)
    others = {
        "noise": (anchors, noise + 1),
        "caption": (replace(anchors, caption=anchors.caption.roll(1, 0)), noise),
        "text": (replace(anchors, text=anchors.text.roll(1, 0)), noise),
        "audio": (replace(anchors, audio=anchors.audio + 1), noise),
    }
    for name, inputs in others.items():
        assert not torch.allclose(before, model(video, *inputs), atol=1e-4), name


# What it is conditioned on


@pytest.fixture
def data(workspace, bert, in_process):
    """Everything that architecture 2 reads; `rows`, and the labels' audio `whole` and `by_fold`."""
    workspace.set(
        frames={"count": STEPS},
        mapping={"model": bert, "min_similarity": 0.9},
        generator={"seeds": 1, "folds": 3, "repeats": 0, "lstm": NETWORK | {"epochs": 2}},
    )
    workspace.rows = synthetic.make_clips()
    synthetic.write_data(workspace.rows)
    synthetic.write_captions(workspace.rows)
    workspace.whole, workspace.by_fold = synthetic.write_label_audio()
    synthetic.write_predictions("video_only", workspace.rows)
    synthetic.map_captions()
    return workspace


@pytest.fixture
def inputs(data):
    with scratch() as folder:
        yield read_inputs(folder)


def read_inputs(folder: Path, mapped: bool = True) -> Inputs:
    features = Features(folder, vocabulary.SPLITS)
    fold = folds.of_clips(features.clips, 3)
    return Inputs(features, fold, Conditioning(folder, features, fold, mapped))


def network_params() -> GeneratorParams:
    return params.load("generator", GeneratorParams)


def test_conditioning_lines_up_with_the_features(data, tmp_path):
    synthetic.write_data(
        [row for i, row in enumerate(data.rows) if i % 6]
    )  # the mapping knows clips whose video could not be read
    inputs = read_inputs(tmp_path)
    clips = inputs.data.clips
    conditioning = inputs.conditioning
    assert len(clips) < len(data.rows)
    drawn = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0))
    mapped = conditioning.mapped_captions(drawn)
    caption = mapped.captions
    labels = mapped.labels
    anchors = conditioning.read(drawn)
    by_name = {row["clip_id"]: row for row in data.rows}
    stored = {
        row["clip_id"]: row["labels"] for row in shards.iter_rows(Path("data/mapping"), ["labels"])
    }
    assert (
        conditioning.labels == list(LABEL_NAMES)
        and conditioning.settings["top_k"] == labels.shape[-1] == 3
    )
    learned = 0
    for i, row in enumerate(drawn.tolist()):
        clip = clips.iloc[row]
        fold = inputs.fold[row]
        said = by_name[clip.clip_id]["captions"]
        texts = [
            conditioning.captions[number] if number >= 0 else None for number in caption[i].tolist()
        ]
        assert texts == [said.get(t) for t in range(STEPS)]
        assert np.array_equal(labels[i].numpy(), stored[clip.clip_id])
        assert anchors.present[i].tolist() == [t in said for t in range(STEPS)]
        assert torch.equal(anchors.valid[i], labels[i] >= 0)
        own = data.whole if clip.split in ("validation", "test") else data.by_fold[fold]
        for t in said:
            assert torch.equal(
                anchors.caption[i, t],
                conditioning.caption_text[conditioning.captions.index(said[t])],
            )
            for k, label in enumerate(labels[i, t].tolist()):
                if label >= 0:
                    assert np.array_equal(anchors.audio[i, t, k].numpy(), own[label])
                    assert torch.equal(
                        anchors.text[anchors.label[i, t, k]], conditioning.label_text[label]
                    )
                    learned += clip.split in ("training", "unlabelled")
    assert learned > 20 and (labels >= 0).any() and (labels[anchors.present] < 0).any()


def test_not_mapped_there_is_no_label_but_the_anchors_remain(data, inputs, tmp_path):
    bare = read_inputs(tmp_path, mapped=False).conditioning
    rows = torch.arange(len(inputs.data.clips))
    with_labels = inputs.conditioning
    assert not bare.read(rows).valid.any()
    assert (bare.mapped_captions(rows).labels == -1).all()
    assert torch.equal(bare.read(rows).present, with_labels.read(rows).present)
    captions = bare.mapped_captions(rows).captions
    assert torch.equal(captions, with_labels.mapped_captions(rows).captions)


# The noise


def test_noise_is_the_clips_and_the_seeds_own(data, inputs):
    rows = torch.tensor([4, 0, 9])
    shape = (STEPS, 8)
    drawn = inputs.data.noise
    noise = drawn(rows, shape, 0, 0)
    torch.manual_seed(99)
    assert noise.shape == (3, *shape) and torch.equal(noise, drawn(rows, shape, 0, 0))
    assert torch.equal(noise[[1]], drawn(torch.tensor([0]), shape, 0, 0))
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise, drawn(rows, shape, 1, 0))
    assert not torch.equal(noise, drawn(rows, shape, 0, 1))
    large = drawn(torch.arange(len(inputs.data.clips)), (STEPS, 60), 0, 0)
    assert abs(large.mean()) < 0.02 and abs(large.std() - 1) < 0.02


def test_noise_is_drawn_anew_in_training_alone(data, inputs):
    made = make_generator(inputs, 0, network_params())
    rows = torch.arange(10)
    made.model.train()
    assert not torch.equal(made(rows), made(rows))
    made.model.eval()
    assert torch.equal(made(rows), made(rows))
    assert torch.allclose(
        made(rows)[[7]], made(torch.tensor([7])), atol=1e-6
    )  # whatever stands beside it


# The stage


def bytes_of_outputs() -> dict[str, bytes]:
    folders = ("data/generated", "models/generator", "metrics")
    return {
        str(path): path.read_bytes() for folder in folders for path in Path(folder).rglob("*.*")
    }


def test_every_clip_has_features_and_the_metrics_say_what_was_learned(data):
    data.set(generator={"seeds": 2})
    metrics = synthetic.generate(architecture="caption_mapping")
    found = shards.read_columns(Path("data/generated/caption_mapping"), ["features"])
    assert set(found["clip_id"]) == {row["clip_id"] for row in data.rows}
    assert found["features"].shape == (len(data.rows), 2, STEPS, COMPONENTS)
    assert found["features"].dtype == np.float16 and np.isfinite(found["features"]).all()
    assert not np.array_equal(found["features"][:, 0], found["features"][:, 1])
    assert 0 < metrics["attention_entropy"] < math.log(3) and 0.03 < metrics["temperature"] < 0.08
    assert metrics["injection"] != 1 and metrics["spread_over_noise"] > 0
    plain = synthetic.generate()
    assert metrics.keys() - plain.keys() == {
        "attention_entropy",
        "temperature",
        "injection",
        "spread_over_noise",
    }
    wider = (
        NETWORK["projection"] * (COMPONENTS + 8) + 2 * 32 * 32 + 32 * 2 * WIDTH + 2
    )  # input; query and key; temperature and injection
    assert metrics["parameters"] - plain["parameters"] == wider
    assert not any(
        key.startswith("text.")
        for key in load_file("models/generator/caption_mapping/seed-0.safetensors")
    )


@pytest.mark.parametrize("visual", ["step", "representative"])
def test_the_saved_model_gives_the_test_clips_their_features(data, inputs, visual):
    data.set(generator={"caption_mapping": {"visual": visual}})
    synthetic.generate(architecture="caption_mapping")
    config = json.loads(Path("models/generator/caption_mapping/config.json").read_text())
    sizes = {field.name: config[field.name] for field in fields(MappedGeneratorSizes)}
    model = MappedAudioGenerator(MappedGeneratorSizes(**sizes)).eval()
    model.load_state_dict(load_file("models/generator/caption_mapping/seed-0.safetensors"))
    rows = inputs.data.clip_indices("test")
    noise = inputs.data.noise(rows, (STEPS, 8), 0, 0)
    with torch.inference_mode():
        made = model.unscale(
            model(inputs.data.video.read(rows.tolist()), inputs.conditioning.read(rows), noise)
        ).numpy()
    found = shards.read_columns(Path("data/generated/caption_mapping"), ["features"], ["test"])
    assert found["clip_id"] == inputs.data.clips.clip_id[rows.numpy()].tolist()
    assert np.allclose(found["features"][:, 0], made, atol=5e-3)


def test_a_training_clips_own_sound_reaches_its_features_by_no_model(data):
    synthetic.generate(architecture="caption_mapping")
    before = synthetic.generated_bytes("caption_mapping")
    row = [row for row in data.rows if row["split"] == "training" and row["audible"]][5]
    row["audio"] = 3 * RNG.normal(size=row["audio"].shape)
    synthetic.write_data(data.rows)
    synthetic.generate(architecture="caption_mapping")
    after = synthetic.generated_bytes("caption_mapping")
    with scratch() as folder:
        features = Features(folder, vocabulary.SPLITS)
        fold = dict(zip(features.clips.clip_id, folds.of_clips(features.clips, 3), strict=True))
    same = {
        r["clip_id"]
        for r in data.rows
        if r["split"] in ("training", "unlabelled") and fold[r["clip_id"]] == fold[row["clip_id"]]
    }
    assert (
        row["clip_id"] in same and {name for name in before if before[name] == after[name]} == same
    )


def test_label_audio_of_a_fold_answers_its_own_clips(data, inputs):
    """An untrained generator answers by what it is conditioned on alone."""
    made = make_generator(inputs, 0, network_params())
    rows = inputs.data.clip_indices("training", "validation")
    made.model.eval()
    before = made(rows)
    inputs.conditioning.label_audio[1] += 1  # fold 1's
    changed = (made(rows) != before).any(-1).any(-1)
    known = inputs.conditioning.read(rows).valid.any(-1).any(-1)
    assert torch.equal(changed, known & torch.from_numpy(inputs.fold[rows] == 1)) and changed.any()


@pytest.mark.slow
def test_same_bytes_whatever_the_number_of_workers(data, monkeypatch):
    data.set(generator={"folds": 2, "lstm": {"epochs": 1}})
    synthetic.write_label_audio(folds=2)
    synthetic.map_captions()
    synthetic.generate(1, "caption_mapping")
    first = bytes_of_outputs()
    monkeypatch.setattr(parallel, "map_items", with_processes)
    synthetic.generate(2, "caption_mapping")
    assert bytes_of_outputs() == first
    assert len(first) > 8


@pytest.mark.slow
def test_each_switch_runs_and_changes_the_answer(data):
    data.set(generator={"folds": 2, "lstm": {"epochs": 1}})
    synthetic.write_label_audio(folds=2)
    synthetic.map_captions()
    switches = (
        {},
        {"anchors": False},
        {"propagation": 0.0},
        {"noise": 0},
        {"visual": "representative"},
        {"condition": "none"},
    )
    made = []
    metrics = {}
    for switch in switches:
        default = {
            "anchors": True,
            "propagation": 2.0,
            "noise": 8,
            "visual": "step",
            "condition": "mapped",
        }
        data.set(generator={"caption_mapping": default | switch})
        metrics[str(switch)] = synthetic.generate(architecture="caption_mapping")
        made.append(synthetic.generated_bytes("caption_mapping"))
    assert all(
        made[i][name] != made[j][name]
        for i in range(len(made))
        for j in range(i)
        for name in made[0]
    )
    assert [name for name, found in metrics.items() if found["spread_over_noise"] == 0] == [
        "{'noise': 0}"
    ]
    assert [name for name, found in metrics.items() if found["attention_entropy"] == 0] == [
        "{'condition': 'none'}"
    ]


@pytest.mark.slow
def test_only_label_audio_can_say_what_a_picture_does_not(data):
    """A positive control: the video is noise, the captions name the sound."""
    rows = synthetic.make_clips(sizes={"training": 24, "validation": 8, "test": 12}, unlabelled=24)
    data.whole, _ = synthetic.write_label_audio(spread=0.1, folds=2)
    sounds = data.whole - data.whole.mean(0)
    for row in rows:
        label = RNG.integers(LABELS)
        row |= {name: RNG.normal(size=(STEPS, WIDTH)) for name in ("rgb", "flow")}
        row["audio"] = sounds[label] + 0.3 * RNG.normal(size=(STEPS, COMPONENTS))
        row["captions"] = {
            int(step): LABEL_NAMES[label] for step in RNG.choice(STEPS, 2, replace=False)
        }
    synthetic.write_data(rows)
    synthetic.write_captions(rows)
    synthetic.write_predictions("video_only", rows)
    data.set(mapping={"top_k": 1}, generator={"folds": 2, "lstm": {"epochs": 6}})
    metrics = synthetic.map_captions()["labels"]
    assert metrics["test"]["condition_cosine"]["mean"] > 0.8
    cosine = {
        "plain": synthetic.generate(),
        "mapped": synthetic.generate(architecture="caption_mapping"),
    }
    data.set(generator={"caption_mapping": {"condition": "none"}})
    cosine["none"] = synthetic.generate(architecture="caption_mapping")
    for split in ("test", "out_of_fold"):
        found = {
            name: metrics[split]["generated"]["centred_cosine"]["mean"]
            for name, metrics in cosine.items()
        }
        assert found["mapped"] > 0.8 and found["plain"] < 0.3 and found["none"] < 0.3, found
    assert (
        cosine["mapped"]["test"]["untrained"]["centred_cosine"]["mean"] > 0.3
    )  # injected from the first step on

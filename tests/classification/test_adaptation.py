"""Adaptation at test time: its loss by hand, its steps by torch.optim.SGD."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from audio_from_video.classification.adaptation import (
    adaptation_loss,
    adapted_parameters,
    mutual_information,
    stream_probabilities,
)
from audio_from_video.classification.audio_input import AudioInput
from audio_from_video.classification.missingness_settings import AdaptationParams
from audio_from_video.classification.networks import ActionClassifier, ClassifierSizes

STEPS = 5
CLIPS = 11
P = AdaptationParams(
    condition="",
    batch_size=4,
    learning_rate=0.2,
    momentum=0.9,
    information_weight=0.7,
    distillation_weight=0.4,
)


def test_answers_that_name_their_view_have_one_bit_and_equal_ones_none():
    near = 1e-6
    first = torch.tensor([[1 - near, near]])
    second = torch.tensor([[near, 1 - near]])
    apart = mutual_information(torch.stack([first, second]).log())
    assert apart.item() == pytest.approx(np.log(2), abs=1e-4)
    assert mutual_information(torch.stack([first, first]).log()).item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_loss_is_that_of_scipy():
    torch.manual_seed(0)
    with_sound, without_sound, original = torch.randn(3, 6, 4)
    loss = adaptation_loss(with_sound, without_sound, original, P)
    heard, unheard, before = (x.softmax(1).numpy() for x in (with_sound, without_sound, original))
    information = np.mean(jensenshannon(heard, unheard, axis=1) ** 2)
    kept = np.mean(entropy(before, heard, axis=1))
    assert loss.item() == pytest.approx(0.7 * information + 0.4 * kept, rel=1e-5)


@pytest.fixture
def trained() -> SimpleNamespace:
    """A network of random weights, with features of clips; two of them are inaudible."""
    torch.manual_seed(1)
    model = ActionClassifier(ClassifierSizes(6, 3, 4, 5, 8, 0.3)).eval()
    with torch.no_grad():
        model.token.normal_()
        for parameter in model.parameters():
            parameter.mul_(4)  # so that answers are no even ones
    video = torch.randn(CLIPS, STEPS, 6)
    audio = 2 * torch.randn(CLIPS, STEPS, 3)
    audible = torch.ones(CLIPS, dtype=torch.bool)
    audible[[2, 7]] = False
    nothing = torch.zeros(CLIPS, dtype=torch.bool)

    def sound(clips: torch.Tensor) -> AudioInput:
        return AudioInput(audio[clips], audible[clips], audible[clips])

    def filler(clips: torch.Tensor) -> AudioInput:
        return AudioInput(audio[clips], nothing[clips], nothing[clips])

    return SimpleNamespace(
        model=model,
        video=lambda clips: video[clips],
        own_sound=sound,
        filler=filler,
        features=(video, audio, audible),
    )


def test_steps_are_those_of_an_optimiser_on_the_clips_with_sound(trained):
    order = torch.tensor([3, 1, 4, 9, 2, 6, 5, 8, 7, 0, 10])
    missing = torch.zeros(CLIPS, dtype=torch.bool)
    missing[[1, 5, 8]] = True
    answers = stream_probabilities(trained, order, missing, P)

    video, audio, audible = trained.features
    model = deepcopy(trained.model)
    optimizer = torch.optim.SGD(adapted_parameters(model), lr=0.2, momentum=0.9)
    expected = []
    for start in range(0, CLIPS, 4):
        clips = order[start : start + 4]
        has_sound = audible[clips] & ~missing[start : start + 4]
        logits = model(video[clips], audio[clips], has_sound)
        expected.append(logits.softmax(1).detach())
        whole = clips[has_sound]
        everybody = torch.ones(len(whole), dtype=torch.bool)
        with_sound = model(video[whole], audio[whole], everybody)
        without_sound = model(video[whole], audio[whole], ~everybody)
        original = trained.model(video[whole], audio[whole], everybody).detach()
        optimizer.zero_grad()
        adaptation_loss(with_sound, without_sound, original, P).backward()
        optimizer.step()
    np.testing.assert_allclose(answers, torch.cat(expected).numpy(), atol=1e-5)

    unadapted = trained.model(video[order], audio[order], audible[order] & ~missing).softmax(1)
    unadapted = unadapted.detach().numpy()
    np.testing.assert_allclose(answers[:4], unadapted[:4], atol=1e-6)  # answered before any step
    assert np.abs(answers[4:] - unadapted[4:]).max() > 1e-3


def test_the_trained_network_stays_and_nothing_happens_without_sound(trained):
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    order = torch.arange(CLIPS)
    nobody = torch.zeros(CLIPS, dtype=torch.bool)
    first = stream_probabilities(trained, order, nobody, P)
    assert np.array_equal(stream_probabilities(trained, order, nobody, P), first)
    after = trained.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

    silent = stream_probabilities(trained, order, ~nobody, P)
    video, audio, _ = trained.features
    expected = trained.model(video, audio, nobody).softmax(1).detach().numpy()
    np.testing.assert_allclose(silent, expected, atol=1e-6)


def test_what_adapts_is_the_token_and_all_biases(trained):
    adapted = {id(parameter) for parameter in adapted_parameters(trained.model)}
    names = {name for name, value in trained.model.named_parameters() if id(value) in adapted}
    assert names == {
        "token",
        "project.0.bias",
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "head.2.bias",
    }

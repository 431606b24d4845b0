"""Audio models of every kind against the stock models of transformers."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import transformers
from scipy.signal import resample_poly

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import has_labels
from audio_from_video.backbones.audio_interface import AudioBackbone, Heard
from tests.support import conformance

RATE_HZ = 16_000
# What a kind is called, and where its labels come from.
NAMES = {
    "ast": ("AST", "its own head"),
    "clap": ("CLAP", "cosine with its text tower"),
    "clap fused": ("CLAP, fused", "cosine with its text tower"),
    "yamnet": ("YAMNet, with one channel and AudioSet's labels", "its own head"),
    "pe_audio": ("the audio tower of PE-AV", "sigmoid with its text tower"),
    "whisper": ("Whisper's encoder", "none"),
    "wav2vec2": ("wav2vec 2", "none without a head"),
    "hubert": ("HuBERT", "none without a head"),
    "wavlm": ("WavLM", "none without a head"),
    "wavlm with a head": ("WavLM with a head for AudioSet's labels", "its own head"),
}


def sounds(*seconds: float) -> list[np.ndarray]:
    """Return noise whose loudness changes twice a second, another one for each length."""
    random = np.random.default_rng(0)
    waves = []
    for length in seconds:
        t = np.arange(round(length * RATE_HZ)) / RATE_HZ
        loudness = 0.02 + 0.2 * (np.sin(4 * np.pi * t) > 0)
        waves.append((loudness * random.normal(size=len(t))).astype(np.float32))
    return waves


def hear(backbone: AudioBackbone, waves: list[np.ndarray]) -> Heard:
    """Return what a model makes of sounds."""
    return backbone.hear(backbone.prepare(waves))


def label_scores(heard: Heard) -> np.ndarray:
    """Return the label scores [527] of the first sound, of a model that knows labels."""
    assert heard.label_scores is not None
    return heard.label_scores[0]


# ---- against the stock models ----


class Compared(NamedTuple):
    """An output of ours, the stock model's, and how far they may be apart."""

    ours: np.ndarray
    stock: np.ndarray
    tolerance: float

    @property
    def alike(self) -> bool:
        return bool(np.allclose(self.ours, self.stock, atol=self.tolerance))


def ast_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    """The stock model has AudioSet's labels in another order."""
    (wave,) = sounds(1.0)
    log_mel, _ = backbone.log_mel([wave])  # type: ignore[attr-defined]
    model = transformers.ASTForAudioClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        scores = model(torch.from_numpy(log_mel)).logits.sigmoid()[0].numpy()
    return [Compared(label_scores(hear(backbone, [wave])), scores[::-1], 1e-5)]


def clap_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    """At 48 kHz, where a resampled sound is what the extractor expects."""
    (wave,) = sounds(1.5)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folder)
    model = transformers.ClapModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = extractor(resample_poly(wave, 3, 1), sampling_rate=48_000, return_tensors="pt")
    values = features["input_features"].float()
    longer = {}
    if model.config.audio_config.enable_fusion:
        # Not the extractor's, which calls one of short sounds longer, drawn at random.
        longer["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
    chosen = [0, 17, 526]
    texts = [f"This is a sound of {load_labels()[i].display_name.lower()}." for i in chosen]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        output = model(**tokens, input_features=values, **longer)
        last = model.audio_model(values, **longer).last_hidden_state
    heard = hear(backbone, [wave])
    cosines = (output.audio_embeds @ output.text_embeds.T)[0].clamp(min=0).numpy()
    return [
        Compared(heard.pooled[0], output.audio_embeds[0].numpy(), 1e-5),
        Compared(label_scores(heard)[chosen], cosines, 1e-5),
        Compared(heard.frames[0], last[0].mean(1).T.numpy(), 1e-4),
    ]


def whisper_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    (wave,) = sounds(1.5)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    model = transformers.WhisperModel.from_pretrained(folder).eval()
    features = extractor(wave, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
    with torch.no_grad():
        stock = model.encoder(features).last_hidden_state[0].numpy()
    heard = hear(backbone, [wave])
    return [
        Compared(heard.frames[0], stock, 1e-5),
        Compared(heard.pooled[0], stock[:75].mean(0), 1e-5),  # 1.5 s in frames of 20 ms
    ]


def wave_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    """The shorter sound of a batch, so that padding must not matter."""
    short, long = sounds(0.7, 1.5)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = extractor(short, sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
    heard = hear(backbone, [short, long])
    compared = []
    with torch.no_grad():
        model = transformers.AutoModel.from_pretrained(folder).eval()
        frames = model(values).last_hidden_state[0].numpy()
        compared.append(Compared(heard.frames[0, : heard.valid[0]], frames, 1e-4))
        if has_labels(folder):
            labeller = transformers.WavLMForSequenceClassification.from_pretrained(folder).eval()
            scores = labeller(values).logits.sigmoid()[0].numpy()
            # The model lacks the first six labels, and has the others in another order.
            expected = np.concatenate([np.zeros(6), scores[::-1]])
            compared.append(Compared(label_scores(heard), expected, 1e-5))
    return compared


def pe_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    (wave,) = sounds(1.2)
    extractor = transformers.PeAudioFeatureExtractor.from_pretrained(folder)
    model = transformers.PeAudioModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    louder = resample_poly(wave, 3, 1).astype(np.float32)
    features = extractor(louder, sampling_rate=48_000, return_tensors="pt")
    texts = [load_labels()[i].display_name.lower() for i in (0, 400)]
    with torch.no_grad():
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        output = model(**tokens, input_values=features["input_values"])
    scores = output.logits_audio_text[0].sigmoid().numpy()
    return [Compared(label_scores(hear(backbone, [wave]))[[0, 400]], scores, 1e-4)]


def yamnet_outputs(folder: str, backbone: AudioBackbone) -> list[Compared]:
    """Scores are the mean over patches; the model lacks the first six labels."""
    (wave,) = sounds(1.5)
    model = transformers.MobileNetV1ForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        patches = torch.from_numpy(yamnet_patches(wave)).float()[:, None]
        scores = model(patches).logits.sigmoid().mean(0).numpy()
    expected = np.concatenate([np.zeros(6), scores])
    return [Compared(label_scores(hear(backbone, [wave])), expected, 1e-3)]


def yamnet_patches(wave: np.ndarray) -> np.ndarray:
    """Log-mel patches of YAMNet's description: explicit triangles in HTK's mel scale."""

    def mel(hz):
        return 2595 * np.log10(1 + np.asarray(hz) / 700)

    corners = np.linspace(mel(125), mel(7500), 66)
    bins = mel(np.arange(257) * RATE_HZ / 512)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = []
    for start in range(0, len(wave) - 399, 160):
        spectrum = np.abs(np.fft.rfft(wave[start : start + 400] * hann, 512))
        bands = []
        for low, centre, high in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
            rising = (bins - low) / (centre - low)
            falling = (high - bins) / (high - centre)
            bands.append(spectrum @ np.maximum(0, np.minimum(rising, falling)))
        frames.append(np.log(np.array(bands) + 0.001))
    starts = range(0, len(frames) - 95, 48)
    return np.stack([frames[start : start + 96] for start in starts])


STOCK: dict[str, Callable[[str, AudioBackbone], list[Compared]]] = {
    "ast": ast_outputs,
    "clap": clap_outputs,
    "clap fused": clap_outputs,
    "yamnet": yamnet_outputs,
    "pe_audio": pe_outputs,
    "whisper": whisper_outputs,
    "wav2vec2": wave_outputs,
    "hubert": wave_outputs,
    "wavlm": wave_outputs,
    "wavlm with a head": wave_outputs,
}


# ---- what is found ----


class AudioFindings(NamedTuple):
    """What a model of a kind gives.

    frame_s: start and end of the first two frames [2, 2].  compared: with the stock model.
    alone: whether four sounds together give what each gives alone.  bfloat16_cosine: the smallest
    one of a sound's frames with those in float32.
    """

    frame_s: np.ndarray
    compared: list[Compared]
    alone: bool
    bfloat16_cosine: float

    @property
    def as_stock(self) -> bool:
        return all(each.alike for each in self.compared)

    @property
    def bfloat16_is_near(self) -> bool:
        return 0.97 < self.bfloat16_cosine < 1 - 1e-9  # near, and really of another precision


def findings(kind: str, folder: str, backbone: AudioBackbone) -> AudioFindings:
    """Return what the model of a kind in a folder gives."""
    waves = sounds(1.0, 1.0, 1.9, 0.4)
    together = hear(backbone, waves)
    alone = True
    for number, wave in enumerate(waves):
        alone = alone and is_alike(together, number, hear(backbone, [wave]))
    return AudioFindings(
        frame_s=backbone.frame_times_s(2),
        compared=STOCK[kind](folder, backbone),
        alone=alone,
        bfloat16_cosine=bfloat16_cosine(backbone, waves, together),
    )


def is_alike(together: Heard, number: int, alone: Heard) -> bool:
    """Return whether a sound of a batch gives what it gives alone."""
    count = alone.valid[0]
    same = together.valid[number] == count
    pairs = [
        (together.frames[number, :count], alone.frames[0, :count]),
        (together.pooled[number], alone.pooled[0]),
    ]
    if alone.label_scores is not None and together.label_scores is not None:
        pairs.append((together.label_scores[number], alone.label_scores[0]))
    return same and all(np.allclose(ours, theirs, atol=2e-4) for ours, theirs in pairs)


def bfloat16_cosine(backbone: AudioBackbone, waves: list[np.ndarray], exact: Heard) -> float:
    """Return the smallest cosine of a sound's frames in the autocast of a GPU with exact ones."""
    autocast = hub.autocast
    hub.autocast = lambda device: torch.autocast("cpu", torch.bfloat16)
    try:
        rounded = hear(backbone, waves)
    finally:
        hub.autocast = autocast
    cosines = []
    for number, count in enumerate(exact.valid):
        ours = rounded.frames[number, :count].ravel()
        theirs = exact.frames[number, :count].ravel()
        cosines.append(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
    return float(min(cosines))


def longest_s(kind: str, backbone: AudioBackbone) -> float:
    """Return the longest pass of a model of the published size, in seconds."""
    if kind == "ast":  # the small one hears 2 s
        return transformers.ASTConfig().max_length * backbone.HOP_S  # type: ignore[attr-defined]
    if kind == "whisper":  # the small one hears 4 s
        return transformers.WhisperFeatureExtractor().chunk_length
    return backbone.max_s


def audio_table(
    found: dict[str, AudioFindings], folders: dict[str, str], backbones: dict[str, AudioBackbone]
) -> str:
    """Return the page's table of audio models, by kind."""
    header = [
        "`model_type`",
        "models",
        "a frame",
        "longest pass",
        "labels",
        "as the stock model",
        "a batch of four as four alone",
        "bfloat16",
    ]
    rows = []
    for kind, of_kind in found.items():
        name, labels = NAMES[kind]
        (start, end), (second, _) = of_kind.frame_s
        every = "" if np.isclose(second, end) else f", every {second - start:g} s"
        rows.append(
            [
                f"`{hub.model_type_of(folders[kind])}`",
                name,
                f"{end - start:.3g} s{every}",
                f"{longest_s(kind, backbones[kind]):g} s",
                labels,
                conformance.yes(of_kind.as_stock),
                conformance.yes(of_kind.alone),
                conformance.yes(of_kind.bfloat16_is_near),
            ]
        )
    return conformance.table(header, rows)

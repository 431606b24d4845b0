"""Audio Spectrogram Transformer: Kaldi's log-mel in patches (Gong et al. 2021)."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from audio_from_video.backbones import audio_labels, hub
from audio_from_video.backbones.audio_interface import AudioInputs, Heard, to_numpy


@contextmanager
def published_bands() -> Iterator[None]:
    """Keep transformers from warning of what the published AST has: its lowest bands are empty."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filter has all zero values")
        yield


class FilterBank:
    """Kaldi's filter bank as ASTFeatureExtractor computes it without torchaudio, bit by bit.

    transformers (audio_utils.spectrogram) goes from frame to frame in Python; all frames of a sound
    at once take an eighth of the time.
    """

    FRAME = 400  # samples
    HOP = 160
    FFT = 512
    PRE_EMPHASIS = 0.97
    FLOOR = 1.192092955078125e-07  # the smallest step of float32, as in Kaldi

    def __init__(self, bands: int, rate_hz: int):
        """bands: of the mel scale, from 20 Hz to half of `rate_hz`."""
        from transformers.audio_utils import mel_filter_bank, window_function

        self._window = window_function(self.FRAME, "hann", periodic=False)
        with published_bands():
            self._filters = mel_filter_bank(
                num_frequency_bins=self.FFT // 2 + 1,
                num_mel_filters=bands,
                min_frequency=20,
                max_frequency=rate_hz // 2,
                sampling_rate=rate_hz,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )  # [frequencies, bands]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return the log-mel [frames, bands] float32 of a sound [samples >= FRAME]."""
        windows = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), self.FRAME)
        frames = windows[:: self.HOP]  # [frames, FRAME]
        frames = frames - frames.mean(1, keepdims=True)
        emphasised = frames.copy()
        emphasised[:, 1:] -= self.PRE_EMPHASIS * frames[:, :-1]
        emphasised[:, 0] *= 1 - self.PRE_EMPHASIS
        spectrum = np.fft.rfft(emphasised * self._window, self.FFT).astype(np.complex64)
        power = np.abs(spectrum, dtype=np.float64) ** 2  # [frames, frequencies]
        mel = np.maximum(self.FLOOR, self._filters.T @ power.T)
        return np.log(mel).T.astype(np.float32)


class AstFrontEnd:
    """AST's input form: the log-mel of a sound, padded to a fixed length and normalised."""

    # Kaldi's filter bank, as in ASTFeatureExtractor
    FRAME_S = 0.025
    HOP_S = 0.010

    def __init__(self, extractor, max_length: int):
        """extractor: an ASTFeatureExtractor.  max_length: frames of its log-mels."""
        self.extractor = extractor
        self.max_length = max_length
        self.rate_hz: int = extractor.sampling_rate
        self.mel_bins: int = extractor.num_mel_bins
        self._filter_bank = FilterBank(self.mel_bins, self.rate_hz)
        self._frame_samples = round(self.FRAME_S * self.rate_hz)
        self._hop_samples = round(self.HOP_S * self.rate_hz)

    def log_mel(self, waveforms: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Return normalised log-mel [N, max_length, mel bins] and the number of frames of each.

        waveforms: N of float32 at `rate_hz`.  The frames behind a sound are padding.
        """
        sounds = [self._of_whole(wave)[: self.max_length] for wave in waveforms]
        values = np.zeros((len(sounds), self.max_length, self.mel_bins), np.float32)
        for row, sound in zip(values, sounds, strict=True):
            row[: len(sound)] = sound
        return self._normalised(values), [len(sound) for sound in sounds]

    def windows(
        self, wave: np.ndarray, starts: list[int], length: int, fewest: int
    ) -> tuple[np.ndarray, int]:
        """Return normalised log-mel [N, frames, mel bins] of windows, and how many frames each has.

        Their frames are those of the whole sound, computed once: a window begins at the last frame
        that begins no later than `start`.  fewest: frames up to which shorter windows are padded.
        """
        sound = self._of_whole(wave)
        frames = self.frame_count(length)
        latest = len(sound) - frames  # matters where windows are shorter than a frame
        firsts = [min(start // self._hop_samples, latest) for start in starts]
        values = np.zeros((len(starts), max(frames, fewest), self.mel_bins), np.float32)
        for row, first in zip(values, firsts, strict=True):
            row[:frames] = sound[first : first + frames]
        return self._normalised(values), frames

    def frame_count(self, samples: int) -> int:
        """Return how many frames a sound of so many samples has, at least one."""
        return 1 + max(0, samples - self._frame_samples) // self._hop_samples

    def _of_whole(self, wave: np.ndarray) -> np.ndarray:
        """Return the log-mel [frames, mel bins] of a sound, which is padded to one frame."""
        missing = max(0, self._frame_samples - len(wave))
        return self._filter_bank(np.pad(wave, (0, missing)))

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        return self.extractor.normalize(values) if self.extractor.do_normalize else values


class AstBackbone:
    """Audio Spectrogram Transformer (Gong et al. 2021; transformers.ASTForAudioClassification).

    Its frames are time patches, the mean over frequency of its patch outputs; a sound's length is
    in spectrogram frames.  Its own head scores the labels (AudioBackbone in audio_interface.py).
    """

    HEARS = "an Audio Spectrogram Transformer (AST)"
    FRAME_S = AstFrontEnd.FRAME_S
    HOP_S = AstFrontEnd.HOP_S

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no such model.
        """
        from transformers import ASTFeatureExtractor, ASTForAudioClassification

        self.device = device or hub.device()
        self.model = hub.load_frozen_model(
            ASTForAudioClassification, name, "an Audio Spectrogram Transformer", self.device
        )
        with published_bands():
            self.extractor = hub.load_pretrained(ASTFeatureExtractor, name, "a feature extractor")
        self.config = self.model.config
        self.front_end = AstFrontEnd(self.extractor, self.config.max_length)
        self.width: int = self.config.hidden_size
        self.rate_hz: int = self.extractor.sampling_rate
        self.max_s = self.config.max_length * self.HOP_S
        self.fill_s = self.max_s
        self._places = label_places(hub.labels_of(name))
        # A short input replaces the model's positions meanwhile: threads take turns.
        self._positions_in_use = threading.Lock()

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return that it knows labels."""
        return True

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        return config.hidden_size, config.hidden_size

    def log_mel(self, waveforms: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """Return normalised log-mel [N, max_length, mel bins] and the number of frames of each."""
        return self.front_end.log_mel(waveforms)

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return sounds as log-mels; the lengths are spectrogram frames."""
        return AudioInputs(*self.log_mel(waveforms))

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows as log-mels that are no longer than their sound.

        Published ASTs hear 10.24 s: of a window of 1 s nine tenths would be padding.
        """
        fewest = self.config.patch_size
        values, frames = self.front_end.windows(wave, starts, length, fewest)
        return AudioInputs(values, [frames] * len(starts))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return patch outputs, pooled outputs and label scores of prepared sounds."""
        patches, pooled, scores = self.encode(inputs.values)
        valid = [self.valid_patches(frames) for frames in inputs.lengths]
        return Heard(patches, valid, pooled, scores)

    def encode(self, log_mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the model makes of log-mel [N, frames, mel bins], as float32.

        Patch outputs [N, time, D] (mean over frequency), pooled [N, D] (mean of the two special
        tokens, which the classification head expects) and label scores [N, L] (sigmoid).
        Fewer frames than max_length have the first positions, as Gong et al. (2021) cut them for
        shorter inputs.
        """
        import torch

        transformer = self.model.audio_spectrogram_transformer
        high, _ = transformer.embeddings.get_shape(self.config)
        wide = self.valid_patches(log_mel.shape[1])
        with self._positions_in_use, torch.inference_mode(), hub.autocast(self.device):
            values = torch.from_numpy(log_mel).to(self.device)
            if log_mel.shape[1] == self.config.max_length:
                output = transformer(values)
            else:
                positions = {"embeddings.position_embeddings": self._positions(high, wide)}
                output = torch.func.functional_call(transformer, positions, (values,))
            scores = self._label_scores(output.pooler_output)

            # Two special tokens come first, then the patches, frequency by frequency.
            patch_outputs = output.last_hidden_state[:, 2:]  # [N, high * wide, D]
            patches = patch_outputs.unflatten(1, (high, wide)).mean(1)
            return to_numpy(patches), to_numpy(output.pooler_output), scores

    def _positions(self, high: int, wide: int):
        """Return the position embeddings [1, 2 + high * wide, D] of the first `wide` patches."""
        import torch

        whole = self.model.audio_spectrogram_transformer.embeddings.position_embeddings
        patches = whole[:, 2:].unflatten(1, (high, -1))[:, :, :wide]
        return torch.cat([whole[:, :2], patches.flatten(1, 2)], dim=1)

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the label scores [n, L] of pooled outputs [n, D]."""
        import torch

        with torch.inference_mode():
            return self._label_scores(torch.from_numpy(pooled).to(self.device))

    def _label_scores(self, pooled) -> np.ndarray:
        scores = to_numpy(self.model.classifier(pooled).sigmoid())
        return scores if self._places is None else audio_labels.reorder(scores, self._places)

    def valid_patches(self, frames: int) -> int:
        """Return how many time patches lie within `frames` real frames, at least one.

        The others see padding.
        """
        return max(1, (frames - self.config.patch_size) // self.config.time_stride + 1)

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` time patches, in seconds."""
        start = np.arange(count) * self.config.time_stride * self.HOP_S
        end = start + (self.config.patch_size - 1) * self.HOP_S + self.FRAME_S
        return np.stack([start, end], axis=1)


def published_front_end() -> AstFrontEnd:
    """Return the input form of the AST that Gong et al. published for AudioSet."""
    from transformers import ASTFeatureExtractor

    with published_bands():
        extractor = ASTFeatureExtractor()
    return AstFrontEnd(extractor, extractor.max_length)


def label_places(names: list[str]) -> np.ndarray | None:
    """Return where a model has each of AudioSet's labels; None where its own order is kept.

    That is where the order is AudioSet's, and where the labels are others, which the stages that
    need AudioSet's refuse.
    """
    places = audio_labels.positions(names)
    in_order = np.array_equal(places, np.arange(len(places)))
    if len(names) != len(places) or in_order or not audio_labels.are_audioset(names):
        return None
    return places

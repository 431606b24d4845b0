"""YAMNet: a MobileNetV1 on log-mel patches, trained on AudioSet (Plakal & Ellis 2020)."""

import numpy as np

from audio_from_video.backbones import audio_labels, hub
from audio_from_video.backbones.audio_interface import RATE_HZ, AudioInputs, Heard, cut, to_numpy
from audio_from_video.runtime.errors import UserError


class YamnetFrontEnd:
    """YAMNet's log-mel patches, as tensorflow/models (research/audioset/yamnet) computes them.

    Magnitudes of a 512-point FFT of periodic Hann windows of 25 ms every 10 ms; 64 mel bands of
    HTK's scale from 125 to 7500 Hz; log(x + 0.001); patches of 96 frames every 48.  A sound shorter
    than a patch is padded with silence; what a last patch would lack is left out.
    """

    FRAME = 400  # samples
    HOP = 160
    FFT = 512
    BANDS = 64
    LOWEST_HZ = 125.0
    HIGHEST_HZ = 7500.0
    OFFSET = 0.001
    PATCH_FRAMES = 96
    PATCH_HOP = 48

    def __init__(self):
        from transformers.audio_utils import mel_filter_bank, window_function

        self._window = window_function(self.FRAME, "hann", periodic=True)
        self._filters = mel_filter_bank(
            num_frequency_bins=self.FFT // 2 + 1,
            num_mel_filters=self.BANDS,
            min_frequency=self.LOWEST_HZ,
            max_frequency=self.HIGHEST_HZ,
            sampling_rate=RATE_HZ,
            mel_scale="htk",
            triangularize_in_mel_space=True,
        )  # [frequencies, bands]

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return the patches [n, 96, 64] float32 of a sound [samples]."""
        shortest = self.FRAME + (self.PATCH_FRAMES - 1) * self.HOP
        padded = np.pad(wave.astype(np.float64), (0, max(0, shortest - len(wave))))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.FRAME)[:: self.HOP]
        magnitudes = np.abs(np.fft.rfft(windows * self._window, self.FFT))
        log_mel = np.log(magnitudes @ self._filters + self.OFFSET).astype(np.float32)
        patches = np.lib.stride_tricks.sliding_window_view(log_mel, self.PATCH_FRAMES, axis=0)
        return patches[:: self.PATCH_HOP].transpose(0, 2, 1)


class YamnetBackbone:
    """YAMNet as transformers.MobileNetV1ForImageClassification (audio_interface.AudioBackbone).

    A frame is a patch of 0.96 s, its vector the embedding before the head.  Label scores are the
    mean of the patches'; of pooled outputs they are the head's answer to the mean embedding.  The
    labels that it lacks of the 527 score 0.  Lengths are in patches.
    """

    HEARS = "YAMNet"

    def __init__(self, name: str, device: str | None = None):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found, or when it is a MobileNetV1 for pictures.
        """
        from transformers import MobileNetV1ForImageClassification

        self.device = device or hub.device()
        self.model = hub.load_frozen_model(
            MobileNetV1ForImageClassification, name, "YAMNet", self.device
        )
        names = hub.labels_of(name)
        if self.model.config.num_channels != 1 or not audio_labels.are_audioset(names):
            raise UserError(
                f"'{name}' is a MobileNetV1 for pictures, not YAMNet: as an audio model it needs "
                "one channel of log-mel patches and AudioSet's labels"
            )
        self._places = audio_labels.positions(names)
        self._front_end = YamnetFrontEnd()
        self.width, _ = self.widths(self.model.config)
        self.rate_hz = RATE_HZ
        self.max_s = 60.0  # patches are heard one by one: a bound of memory alone
        self.fill_s = 0.0

    @staticmethod
    def has_labels(name: str) -> bool:
        """Return that it knows labels."""
        return True

    @staticmethod
    def widths(config) -> tuple[int, int]:
        """Return D and P, the widths of frames and pooled outputs, from a model's config."""
        width = max(int(1024 * config.depth_multiplier), config.min_depth)
        return width, width

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return patches [N, patches, 96, 64]; zeros stand where a shorter sound has none."""
        sounds = [self._front_end(wave) for wave in waveforms]
        lengths = [len(patches) for patches in sounds]
        values = np.zeros((len(sounds), max(lengths), *sounds[0].shape[1:]), np.float32)
        for row, patches in zip(values, sounds, strict=True):
            row[: len(patches)] = patches
        return AudioInputs(values, lengths)

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the form of `prepare`."""
        return self.prepare(cut(wave, starts, length))

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return embeddings, their means and label scores of prepared sounds."""
        import torch

        count = inputs.values.shape[1]
        real = np.arange(count) < np.array(inputs.lengths)[:, None]  # [N, patches]
        with torch.inference_mode(), hub.autocast(self.device):
            values = torch.from_numpy(inputs.values[real][:, None]).to(self.device)
            embeddings = self.model.mobilenet_v1(values).pooler_output
            scores = self._label_scores(embeddings)
        frames = np.zeros((*real.shape, self.width), np.float32)
        frames[real] = to_numpy(embeddings)
        ends = np.cumsum(inputs.lengths)[:-1]
        pooled = [patches.mean(0) for patches in np.split(to_numpy(embeddings), ends)]
        of_sounds = [patches.mean(0) for patches in np.split(scores, ends)]
        return Heard(frames, inputs.lengths, np.stack(pooled), np.stack(of_sounds))

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` patches, in seconds."""
        start = np.arange(count) * YamnetFrontEnd.PATCH_HOP * YamnetFrontEnd.HOP
        hops = (YamnetFrontEnd.PATCH_FRAMES - 1) * YamnetFrontEnd.HOP
        return np.stack([start, start + hops + YamnetFrontEnd.FRAME], axis=1) / RATE_HZ

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the label scores [n, 527] of embeddings [n, P]."""
        import torch

        with torch.inference_mode():
            return self._label_scores(torch.from_numpy(pooled).to(self.device))

    def _label_scores(self, embeddings) -> np.ndarray:
        scores = to_numpy(self.model.classifier(embeddings).sigmoid())
        return audio_labels.reorder(scores, self._places)

"""What new clips are answered: per window the actions, the generated sound, and what to trust."""

from dataclasses import dataclass, field

import numpy as np
import torch

from audio_from_video.backbones import text as text_backbone
from audio_from_video.backbones.audio_steps import Projection
from audio_from_video.classification.settings import GENERATOR_OF
from audio_from_video.generation.networks import Anchors
from audio_from_video.meaning import similarity
from audio_from_video.meaning.action_fit import ActionFit, calibrate
from audio_from_video.meaning.label_ranking import LOWEST_ATTENDED, rank
from audio_from_video.meaning.recommended import CONDITION_OF, REAL_AUDIO, recommend
from audio_from_video.prediction.bundle import PROJECTION, Bundle, Meaning
from audio_from_video.prediction.networks import Classifiers, Generators, LabelHeads
from audio_from_video.prediction.perception import Percept
from audio_from_video.prediction.settings import BASELINE
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, SEMANTIC_VALIDATION


@dataclass(frozen=True)
class ActionAnswer:
    """The actions of a window under one condition.

    probabilities [actions] float32, 0..1: mean over seeds, in the order of the bundle's actions.
    by_seed [seeds, actions]: of each seed.  action: the most probable one.
    agreement: share of the seeds, 0..1, whose most probable action that is.
    """

    action: str
    probabilities: np.ndarray
    agreement: float
    by_seed: np.ndarray


@dataclass(frozen=True)
class GeneratedSound:
    """What an architecture generates for a window.

    features [seeds, T, A] float32: in the space of data/audio_features.
    label_scores [labels] float32, 0..1: what they sound like, mean over seeds.
    score: of the filter, a cosine (a percentile with `filter.calibration`); threshold: from which
    on it keeps; keep: whether it does.
    """

    features: np.ndarray
    label_scores: np.ndarray
    score: float
    threshold: float
    keep: bool


@dataclass(frozen=True)
class RealSound:
    """The window's own sound.

    level_dbfs: None without an audio track.  The rest is None where it is not audible.
    features [T, A] float32; label_scores [labels], by AST; score: of the filter on them.
    fits: whether the score reaches the threshold.
    """

    level_dbfs: float | None
    audible: bool
    features: np.ndarray | None = None
    label_scores: np.ndarray | None = None
    score: float | None = None
    fits: bool = False


@dataclass(frozen=True)
class WindowAnswer:
    """The answer to a window of a video.

    start_s, end_s: from the video's first shown frame.  answers: by condition.
    generated: by architecture.  captions: of representative frames, by step.
    recommended: real_audio, caption_mapping or video_only: whose answer to take.
    jpegs: its T frames.  samples [n] int16: its sound at 16 kHz, None without a track.
    """

    start_s: float
    end_s: float
    answers: dict[str, ActionAnswer]
    generated: dict[str, GeneratedSound]
    real: RealSound
    captions: dict[int, str]
    recommended: str
    jpegs: list[bytes] = field(repr=False)
    samples: np.ndarray | None = field(repr=False)

    @property
    def action(self) -> str:
        """The recommended answer."""
        return self.answers[CONDITION_OF[self.recommended]].action


class Answering:
    """The trained parts of a bundle at work on what is seen and heard in windows."""

    def __init__(self, bundle: Bundle):
        settings = bundle.settings
        self.settings = settings
        self.meaning = Meaning(bundle)
        self.text_model = str(bundle.models["text"])
        self.projection = Projection(**bundle.tensors(PROJECTION))
        self.fit = ActionFit(
            settings.actions,
            self.meaning.references,
            self.meaning.labels,
            settings.filter.centre,
        )
        self.generators = {name: Generators(bundle, name) for name in settings.generators}
        self.heads = LabelHeads(bundle)
        self.classifiers = {name: Classifiers(bundle, name) for name in settings.classifiers}
        self._embeddings: dict[str, np.ndarray] = {}

    def __call__(self, clip_ids: list[str], percepts: list[Percept]) -> list[dict]:
        """Return the fields of each window's WindowAnswer that come from its percept."""
        video = torch.from_numpy(np.stack([percept.video for percept in percepts])).float()
        generated = self.generate(clip_ids, video, percepts)
        real = self.real_features(percepts)
        everywhere = torch.ones(len(percepts), dtype=torch.bool)
        base = self.classifiers[BASELINE](video, None, everywhere, clip_ids)
        predicted = np.array(self.settings.actions)[base.mean(1).argmax(1)]
        sounds = self.judge(generated, predicted)
        real_sounds = self.judge_real(percepts, real, predicted)

        probabilities = {}
        for name, classifiers in self.classifiers.items():
            audio, present = self.audio_input(name, generated, real, sounds, real_sounds)
            probabilities[name] = classifiers(video, audio, present, clip_ids)

        real_fits = np.array([sound.fits for sound in real_sounds])
        words = self.recommended(real_fits, sounds)
        return [
            {
                "answers": {name: self._answer(each[i]) for name, each in probabilities.items()},
                "generated": {name: each[i] for name, each in sounds.items()},
                "real": real_sounds[i],
                "captions": percept.captions,
                "recommended": str(words[i]),
            }
            for i, percept in enumerate(percepts)
        ]

    def _answer(self, by_seed: np.ndarray) -> ActionAnswer:
        mean = by_seed.mean(0)
        best = int(mean.argmax())
        agreement = float((by_seed.argmax(1) == best).mean())
        return ActionAnswer(self.settings.actions[best], mean, agreement, by_seed)

    # ---- generated sound ----

    def generate(
        self, clip_ids: list[str], video: torch.Tensor, percepts: list[Percept]
    ) -> dict[str, torch.Tensor]:
        """Return what each architecture generates, [n, seeds, T, A]."""
        features = {}
        for name, generators in self.generators.items():
            anchors = None
            if generators.settings.mapping is not None:
                mapped = generators.settings.mapping.condition == "mapped"
                anchors = self.anchors(percepts, mapped)
            features[name] = generators(video, anchors, clip_ids)
        return features

    def anchors(self, percepts: list[Percept], mapped: bool) -> Anchors:
        """Return the captions of windows and the labels that they are mapped to."""
        n = len(percepts)
        steps = self.settings.frames.count
        top_k = min(self.settings.mapping.top_k, len(self.settings.labels))
        width = self.meaning.label_text.shape[1]
        present = np.zeros((n, steps), bool)
        caption = np.zeros((n, steps, width), np.float32)
        labels = np.full((n, steps, top_k), -1)
        for i, percept in enumerate(percepts):
            for step, text in percept.captions.items():
                present[i, step] = True
                caption[i, step] = self.embedding(text)
        if mapped:
            labels[present] = self.labels_of(caption[present])
        valid = labels >= 0
        some = labels.clip(0)
        occurring, places = np.unique(some, return_inverse=True)
        return Anchors(
            torch.from_numpy(present),
            torch.from_numpy(caption),
            torch.from_numpy(self.meaning.label_text[occurring]),
            torch.from_numpy(places.reshape(some.shape)),
            torch.from_numpy(self.meaning.label_audio[some]),
            torch.from_numpy(valid),
        )

    def embedding(self, text: str) -> np.ndarray:
        """Return the embedding [E] of a caption; each goes through the model once."""
        if text not in self._embeddings:
            self._embeddings[text] = text_backbone.embed(self.text_model, [text])[0]
        return self._embeddings[text]

    def labels_of(self, captions: np.ndarray) -> np.ndarray:
        """Return the labels [n, top_k] that captions [n, E] are mapped to, -1 for none."""
        p = self.settings.mapping
        top_k = min(p.top_k, len(self.settings.labels))
        if self.meaning.key_captions is None or self.meaning.key_labels is None:
            cosines = similarity.cosines(captions, self.meaning.label_text)
            return rank(cosines, top_k).best(top_k, p.min_similarity)
        cosines = similarity.cosines(captions, self.meaning.key_captions)
        nearest = rank(cosines, p.key_captions)
        weights = similarity.softmax(nearest.scores, p.temperature)
        attended = (weights[..., None] * self.meaning.key_labels[nearest.labels]).sum(1)
        return rank(attended, top_k).best(top_k, LOWEST_ATTENDED)

    def judge(
        self, generated: dict[str, torch.Tensor], predicted: np.ndarray
    ) -> dict[str, list[GeneratedSound]]:
        """Return the filter's decisions on generated sound, given the predicted actions [n].

        An architecture that the filter does not judge (`shuffled`) is not among them.
        """
        sounds = {}
        for name, features in generated.items():
            threshold = self.settings.generators[name].threshold
            if threshold is None:
                continue
            label_scores = self.heads.scores(features)
            scores = self.filter_scores(label_scores, predicted, name)
            sounds[name] = [
                GeneratedSound(
                    own.numpy(), labels, float(score), threshold, bool(score >= threshold)
                )
                for own, labels, score in zip(features, label_scores, scores, strict=True)
            ]
        return sounds

    def filter_scores(
        self, label_scores: np.ndarray, predicted: np.ndarray, audio: str
    ) -> np.ndarray:
        """Return how well label scores [n, L] fit the predicted actions [n]."""
        vectors = self.fit.of_scores(label_scores, self.settings.filter.labels)
        scores = self.fit.fit(vectors, predicted)
        background = self.meaning.background.get(audio)
        return scores if background is None else calibrate(scores, predicted, background)

    # ---- real sound ----

    def real_features(self, percepts: list[Percept]) -> torch.Tensor:
        """Return the features [n, 1, T, A] of windows' own sound, zeros where it is not audible."""
        steps = self.settings.frames.count
        features = torch.zeros(len(percepts), 1, steps, len(self.projection.components))
        for i, percept in enumerate(percepts):
            if percept.sound is not None:
                projected = self.projection.project(percept.sound.patches)
                features[i, 0] = torch.from_numpy(projected.astype(np.float16))
        return features

    def judge_real(
        self, percepts: list[Percept], features: torch.Tensor, predicted: np.ndarray
    ) -> list[RealSound]:
        """Return what is known of windows' own sound, given the predicted actions [n]."""
        generator = self.settings.generators.get(SEMANTIC_VALIDATION)
        threshold = generator.threshold if generator else None
        sounds = []
        for i, percept in enumerate(percepts):
            if percept.sound is None:
                sounds.append(RealSound(percept.level_dbfs, False))
                continue
            label_scores = percept.sound.label_scores.astype(np.float32)
            (score,) = self.filter_scores(label_scores[None], predicted[i : i + 1], "real")
            sound = RealSound(
                level_dbfs=percept.level_dbfs,
                audible=True,
                features=features[i, 0].numpy(),
                label_scores=label_scores,
                score=float(score),
                fits=threshold is not None and bool(score >= threshold),
            )
            sounds.append(sound)
        return sounds

    # ---- answers ----

    def audio_input(
        self,
        condition: str,
        generated: dict[str, torch.Tensor],
        real: torch.Tensor,
        sounds: dict[str, list[GeneratedSound]],
        real_sounds: list[RealSound],
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return the audio of a condition [n, seeds, T, A] and where it stands in the input [n]."""
        each = self.settings.classifiers[condition]
        if each.test_audio == "real":
            gated = each.gate == "keep_real"
            present = [sound.fits if gated else sound.audible for sound in real_sounds]
            return real, torch.tensor(present)
        if each.test_audio not in GENERATOR_OF:
            return None, torch.zeros(len(real_sounds), dtype=torch.bool)
        architecture = GENERATOR_OF[each.test_audio]
        present = [True] * len(real_sounds)
        if each.gate == "keep":
            present = [sound.keep for sound in sounds[architecture]]
        return generated[architecture], torch.tensor(present)

    def recommended(
        self, real_fits: np.ndarray, sounds: dict[str, list[GeneratedSound]]
    ) -> np.ndarray:
        """Return whose answer to take [n]; conditions that the bundle lacks are passed over."""
        kept = np.zeros_like(real_fits)
        if CAPTION_MAPPING in sounds and CONDITION_OF[CAPTION_MAPPING] in self.classifiers:
            kept = np.array([sound.keep for sound in sounds[CAPTION_MAPPING]])
        if REAL_AUDIO not in self.classifiers:
            real_fits = np.zeros_like(real_fits)
        return recommend(real_fits, kept)

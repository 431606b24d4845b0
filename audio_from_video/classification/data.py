"""What the classifiers of one condition are trained and tested on.

The labelled clips with the kinds of audio that the condition reads, the decisions of its gate, the
clips whose label is used, and the test clips that lack their audio at a missing rate.
"""

from pathlib import Path

import pandas as pd
import torch

from audio_from_video.audioset.label_cut import derived_cut
from audio_from_video.audioset.labels import load_labels
from audio_from_video.classification.settings import GENERATOR_OF, Condition
from audio_from_video.clipset import folds
from audio_from_video.learning import features
from audio_from_video.learning.features import Sound, VideoFeatures
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import LABELLED, UNLABELLED
from audio_from_video.storage import fit_on, layout, shards


class ActionData(VideoFeatures):
    """Features and labels of the clips that a condition can use.

    actions: names of the training clips' actions, sorted.
    labels [N]: the index of each clip's action, -1 where it is unlabelled.
    uses_label [N]: training clips whose labels are used.
    sounds: audio features by kind; audio that the filter's gate rejects counts as missing.
    deviations: how far the generated ones may be from the real ones, where their generator says so.
    passes_gate [N]: clips that the filter's gate keeps; all of them without such a gate.
    audio_belongs [N]: clips whose real audio belongs to their action by gate `dictionary`.
    audible_score: label score from which on it does; None without this gate.

    With `kept_only` rejected clips take no part in training and test. Where that leaves nothing in
    a split, the condition stands in the tables without clips.
    Raises UserError when there is nothing to learn from or to score.
    """

    def __init__(self, folder: Path, condition: Condition, labels_per_action: int = 0):
        splits: tuple[str, ...] = LABELLED
        if condition.uses_unlabelled_clips:
            splits = (*LABELLED, UNLABELLED)
        super().__init__(folder, splits)
        self.condition = condition

        self.sounds = {}
        self.deviations: Sound | None = None
        for kind in condition.audio_kinds:
            path = condition.audio_path(kind)
            self.sounds[kind] = self.load_sound(folder / kind, path)
            if kind in GENERATOR_OF and shards.has_column(path, "deviation"):
                self.deviations = self.load_sound(folder / "deviations", path, "deviation")
        # Retrieved audio is another clip's real audio: the same file, at another clip's place.
        if "retrieved" in self.sounds:
            self.sounds["retrieved"].row = self._most_alike_sound(self.sounds["real"])

        # A place of -1 means that a clip has no audio.
        self.passes_gate = torch.ones(len(self.clips), dtype=torch.bool)
        self.audio_belongs = torch.zeros(len(self.clips), dtype=torch.bool)
        self.audible_score: float | None = None
        if condition.gate == "dictionary":
            self.audio_belongs = self._audio_named_by_dictionary()
        elif condition.gate != "none":
            self.passes_gate = self._filter_decisions()
            self.sounds[condition.gated_audio].row[~self.passes_gate] = -1

        self._index_actions()
        self._draw_labels(labels_per_action)

    def participants(self, *splits: str) -> torch.Tensor:
        """Return the indices [n] of the clips of the given splits that take part."""
        indices = self.clip_indices(*splits)
        if self.condition.kept_only:
            indices = indices[self.passes_gate[indices]]
        return indices

    def parts(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return pairs of the clips [n] that a training learns from, and those [m] it predicts.

        First all training clips, and validation, test and, on demand, unlabelled clips; then for
        each of the condition's folds the other training clips, and those of the fold.
        """
        training = self.participants("training")
        scored_splits = ["validation", "test"]
        if self.condition.answers_pool:
            scored_splits.append(UNLABELLED)
        pairs = [(training, self.participants(*scored_splits))]
        fold = torch.from_numpy(folds.of_clips(self.clips, self.condition.out_of_fold or 1))
        for number in range(self.condition.out_of_fold):
            in_fold = fold[training] == number
            pairs.append((training[~in_fold], training[in_fold]))
        return pairs

    def generator_fold(self, count: int) -> torch.Tensor:
        """Return the fold [N] of each clip among `count`, as the generators have them.

        These are folds of all training and unlabelled clips, whether the condition reads the
        latter or not: features of a fold come from a generator of its own.
        """
        clips = pd.DataFrame(shards.ok_rows(layout.RGB_FEATURES))
        fitted = fit_on.fitted(clips.clip_id)
        fold = pd.Series(folds.of_clips(clips, count, fitted), index=clips.clip_id)
        return torch.tensor(fold[self.clips.clip_id].to_numpy())

    def without_label(self) -> torch.Tensor:
        """Return the indices [n] of unlabelled clips and of training clips without label."""
        indices = self.clip_indices("training", UNLABELLED)
        return indices[~self.uses_label[indices]]

    def key(self) -> str:
        """Return a digest of all that a training reads from here: part of a checkpoint's key."""
        sounds = {}
        for kind, sound in self.sounds.items():
            sounds[kind] = [sound.file.digest(), sound.row.tolist()]
        if self.deviations:
            sounds["deviations"] = [self.deviations.file.digest(), self.deviations.row.tolist()]
        return digest(
            self.video.digest(),
            sounds,
            self.audio_belongs.tolist(),
            self.labels.tolist(),
            self.passes_gate.tolist(),
            self.clips.clip_id.tolist(),
        )

    def missing_at(
        self, rates: list[float], clip_indices: torch.Tensor, seed: int
    ) -> dict[float, torch.Tensor]:
        """Return which of the given test clips [n] lack their audio at each rate, bool [n].

        The draw is that of data/missing_audio.parquet, which all conditions share.
        Raises UserError when the table does not hold all clips.
        """
        if not rates:
            return {}
        table = shards.read_table(layout.MISSING_AUDIO).to_pandas()
        # There are fewer draws than seeds may be.
        draw = seed % table.draw.nunique()
        order = table[table.draw == draw].set_index("clip_id").order
        names = self.clips.clip_id.to_numpy()[clip_indices]
        places = torch.tensor(order.reindex(names).to_numpy())  # in [0, 1)
        if places.isnan().any():
            raise UserError(
                f"{layout.MISSING_AUDIO} does not know all test clips: run `dvc repro clips`"
            )
        return {rate: places < rate for rate in rates}

    def _index_actions(self) -> None:
        """Set `actions` and `labels`, and check that every split has clips of them."""
        clip_actions = self.clips.action.to_numpy()
        self.actions = sorted(set(clip_actions[self.clip_indices("training")]))
        if len(self.actions) < 2:
            raise UserError(
                "the classifier needs training clips of at least two actions; "
                f"there are: {self.actions}"
            )
        for split in LABELLED:
            if not len(self.clip_indices(split)):
                raise UserError(
                    f"no {split} clip is left for the classifier; "
                    "metrics/clips.json, frames.json and filter.json say why"
                )
        scored_actions = set(clip_actions[self.clip_indices("validation", "test")])
        untrained = sorted(scored_actions - set(self.actions))
        if untrained:
            raise UserError(
                f"{', '.join(untrained)}: validation or test clips, but no training clip; "
                "add some, or leave them out by clips.actions"
            )
        index_of = {action: i for i, action in enumerate(self.actions)}
        labels = [index_of.get(action, -1) for action in clip_actions]
        self.labels = torch.tensor(labels)

    def _draw_labels(self, per_action: int) -> None:
        """Set `uses_label`: at most `per_action` training clips per action (0: all), by hash."""
        training = self.clip_indices("training")
        # By hash: a smaller budget is a part of a larger one, whatever other clips there are.
        self.uses_label = torch.zeros(len(self.clips), dtype=torch.bool)
        self.uses_label[training] = True
        if not per_action:
            return
        clips = self.clips.iloc[training.numpy()]
        order = clips.clip_id.map(lambda name: digest("label", name))
        ordered = clips.assign(order=order).sort_values("order")
        ranks = ordered.groupby("action").cumcount()
        surplus = ranks.index[ranks >= per_action].to_numpy()
        self.uses_label[torch.tensor(surplus)] = False

    def _filter_decisions(self) -> torch.Tensor:
        """Whether the gate's column of the filter's table keeps each clip [N]; False if unknown."""
        gate = self.condition.gate
        path = Path(self.condition.decisions)
        table = shards.read_table(path, ["clip_id", gate]).to_pandas()
        decisions = table.set_index("clip_id")[gate]
        # The filter knows no unlabelled clips and none whose audio could not be generated.
        keep = self.clips.clip_id.map(decisions).fillna(False)
        return torch.tensor(keep.to_numpy(bool))

    def _most_alike_sound(self, real: Sound) -> torch.Tensor:
        """Retrieve audio: for each clip the place in `real` of the one that looks most alike, [N].

        Candidates are the audible training and unlabelled clips, never one of the same source.
        """
        candidates = self.clip_indices("training", UNLABELLED)
        candidates = candidates[real.row[candidates] >= 0]
        if not len(candidates):
            raise UserError(
                "no training clip has audible sound to lend; "
                "metrics/audio.json says what became of it"
            )
        mean, std = self.video.moments(candidates.tolist())
        everything = torch.arange(len(self.clips))
        alike = features.nearest(self, candidates, everything, mean, std, other_sources=True)
        return real.row[alike]

    def _audio_named_by_dictionary(self) -> torch.Tensor:
        """Whether a clip's real audio holds a label that the dictionary has for its action, [N].

        It does from the score on that leaves training clips two labels on average.
        """
        label_index = {label.display_name: i for i, label in enumerate(load_labels())}
        path = Path(self.condition.decisions)
        table = shards.read_table(path, ["action", "audio_label"]).to_pandas()
        indices = table.audio_label.map(label_index)
        action_labels = indices.groupby(table.action).apply(list).to_dict()

        audio_path = self.condition.audio_path("real")
        stored = shards.read_columns(audio_path, ["label_scores"], LABELLED)
        scores_of = dict(zip(stored["clip_id"], stored["label_scores"], strict=True))
        training = self.clip_indices("training")
        learned = self.clips.clip_id[training[self.fitted[training]].numpy()]
        self.audible_score = derived_cut(scores_of[i] for i in learned if i in scores_of)
        belongs = []
        for clip in self.clips.itertuples():
            if clip.clip_id not in scores_of:  # no track, or a silent one
                belongs.append(False)
                continue
            scores = scores_of[clip.clip_id][action_labels[clip.action]]
            belongs.append(bool((scores >= self.audible_score).any()))
        return torch.tensor(belongs)

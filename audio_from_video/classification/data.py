"""What a row of the main table learns from and is asked: labelled clips with the kinds of audio it hears, what its gate
rejects, what a teacher says of the pool, and which test clips lack their audio at a missing rate."""

from pathlib import Path

import torch

from audio_from_video.audioset.labels import load_labels
from audio_from_video.classification.settings import SOURCES, Condition
from audio_from_video.learning import features
from audio_from_video.learning.features import AUDIO, Features, Sound
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import LABELLED, UNLABELLED
from audio_from_video.storage import layout, shards

HEARD = 0.1  # AST score from which on a dictionary label counts as heard in a clip's sound (learned_dropout)


class ActionData(Features):
    """Features of the labelled clips, where a condition needs it of the unlabelled ones, too, with their labels [N]: indices
    into the training clips' `actions`, -1 where unlabelled.

    sounds: by kind of audio (one that a gate rejects counts as having none).  relevant [N]: whether the dictionary finds a
    clip's real sound to belong to its action.  With `kept_only` rejected clips are left out of training and of scoring, and
    where that leaves nothing in a split the row stands in the tables without clips.
    """

    def __init__(self, folder: Path, condition: Condition, labels_per_action: int = 0):
        super().__init__(folder, (*LABELLED, UNLABELLED) if condition.reads_pool else LABELLED)
        self.sounds = {
            kind: self.load_sound(folder / kind, SOURCES[kind]) for kind in sorted(condition.kinds)
        }
        if "retrieved" in self.sounds:
            self.sounds["retrieved"].row = self.lent(self.sounds["real"])
        self.kept = torch.ones(len(self.clips), dtype=torch.bool)
        self.relevant: torch.Tensor | None = None
        if condition.gate == "dictionary":
            self.relevant = self.named_by_dictionary()
        elif condition.gate != "none":
            gated = (
                condition.test_audio if condition.test_audio in SOURCES else condition.train_audio
            )
            decided = (
                "data/filter/caption_mapping.parquet"
                if gated == "mapped"
                else "data/filter/semantic_validation.parquet"
            )
            decisions = (
                shards.read_table(decided, ["clip_id", condition.gate])
                .to_pandas()
                .set_index("clip_id")[condition.gate]
            )
            self.kept = torch.tensor(self.clips.clip_id.map(decisions).fillna(False).to_numpy(bool))
            self.sounds[gated].row[~self.kept] = -1
        self.all_kept = not condition.kept_only
        self.label(labels_per_action)

    def label(self, per_action: int) -> None:
        """Set `actions`, `labels` and `taught` [N]: the training clips whose labels are used, at most so many per action
        (0: all), drawn by hash."""
        actions = self.clips.action.to_numpy()
        training = super().rows("training")
        self.actions = sorted(set(actions[training]))
        if len(self.actions) < 2:
            raise UserError(
                f"the classifier needs training clips of at least two actions; there are: {self.actions}"
            )
        for split in LABELLED:
            if not len(super().rows(split)):
                raise UserError(
                    f"no {split} clip is left for the classifier; metrics/clips.json, frames.json and filter.json say why"
                )
        if strangers := sorted(
            set(actions[super().rows("validation", "test")]) - set(self.actions)
        ):
            names = ", ".join(strangers)
            raise UserError(
                f"{names}: validation or test clips, but no training clip; add some, or leave them out by clips.actions"
            )
        number = {action: i for i, action in enumerate(self.actions)}
        self.labels = torch.tensor([number.get(action, -1) for action in actions])
        self.taught = torch.zeros(len(self.clips), dtype=torch.bool)
        self.taught[training] = True
        if per_action:
            drawn = self.clips.iloc[training.numpy()].assign(
                order=lambda t: t.clip_id.map(lambda name: digest("label", name))
            )
            rank = drawn.sort_values("order").groupby("action").cumcount()
            self.taught[torch.tensor(rank.index[rank >= per_action].to_numpy())] = False

    def rows(self, *splits: str) -> torch.Tensor:
        """Indices of the clips of the given splits that take part."""
        rows = super().rows(*splits)
        return rows if self.all_kept else rows[self.kept[rows]]

    def pool(self) -> torch.Tensor:
        """Indices of training clips whose label is not used, and of unlabelled clips."""
        rows = super().rows("training", UNLABELLED)
        return rows[~self.taught[rows]]

    def key(self) -> str:
        """Digest of everything that a training reads from here: part of a checkpoint's key."""
        sounds = {
            kind: [sound.file.digest(), sound.row.tolist()] for kind, sound in self.sounds.items()
        }
        relevant = None if self.relevant is None else self.relevant.tolist()
        return digest(
            self.video.digest(),
            sounds,
            relevant,
            self.labels.tolist(),
            self.kept.tolist(),
            self.clips.clip_id.tolist(),
        )

    def lent(self, real: Sound) -> torch.Tensor:
        """Retrieval: for each clip [N] the place of the real audio of the training or unlabelled clip that looks most alike,
        never one of its own source."""
        donors = super().rows("training", UNLABELLED)
        donors = donors[real.row[donors] >= 0]
        if not len(donors):
            raise UserError(
                "no training clip has audible sound to lend; metrics/audio.json says what became of it"
            )
        mean, std = self.video.moments(donors.tolist())
        return real.row[
            features.nearest(
                self, donors, torch.arange(len(self.clips)), mean, std, other_sources=True
            )
        ]

    def named_by_dictionary(self) -> torch.Tensor:
        """Whether AST hears in a clip's real sound one of the labels that the dictionary has for its action [N]."""
        number = {label.display_name: i for i, label in enumerate(load_labels())}
        table = shards.read_table(layout.DICTIONARY, ["action", "audio_label"]).to_pandas()
        entries = table.audio_label.map(number).groupby(table.action).apply(list).to_dict()
        scores = shards.read_columns(AUDIO, ["label_scores"], LABELLED)
        heard = dict(zip(scores["clip_id"], scores["label_scores"], strict=True))
        clips = zip(self.clips.clip_id, self.clips.action, strict=True)
        return torch.tensor(
            [
                clip in heard and bool((heard[clip][entries[action]] >= HEARD).any())
                for clip, action in clips
            ]
        )

    def missing_at(
        self, rates: list[float], rows: torch.Tensor, seed: int
    ) -> dict[float, torch.Tensor]:
        """Which of `rows` (test clips) lack their audio at each missing rate [n]: data/missing_audio.parquet, shared by all
        conditions."""
        if not rates:
            return {}
        table = shards.read_table(layout.MISSING_AUDIO).to_pandas()
        draws = table.draw.nunique()
        order = table[table.draw == seed % draws].set_index("clip_id").order
        wanted = torch.tensor(order.reindex(self.clips.clip_id.to_numpy()[rows]).to_numpy())
        if wanted.isnan().any():
            raise UserError(
                "data/missing_audio.parquet does not know all test clips: run `dvc repro clips`"
            )
        return {rate: wanted < rate for rate in rates}

"""Caption the representative frames with BLIP, fine-tuned so that captions also name sounds.

Reads    data/representative_frames, data/frames; to fine-tune and to measure data/audio, data/audio_features and, with
         `self_critical`, data/label_audio
Writes   data/captions, a row per clip:
             steps      list<int32>    the representative frames' indices, ascending
             captions   list<string>   one each, in lower case
         models/captions: a Hugging Face directory of BLIP, fine-tuned on all training clips (as it is with `off`)
`finetune` (how: common/caption_tuning.py):
    off            captions of the model as it is
    tags           it learns its own captions of some frames of audible training clips, labelled or not, and, when prompted,
                   the same together with the labels that AST hears around the frame's time
    self_critical  after `tags`, by reward: how well the audio of the labels that a caption is mapped to meets the real one
                   (the labels' audio stands in for the generator, which comes later and itself depends on the captions)
Cross-fitting: a training clip's captions come from a model that has not met its source (generator.folds); validation and
test clips get those of the model fitted on all training clips.  An item's key names the weights that made it.
"""
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.numpy import load_file

from stages.common import backbones, caption_tuning, caption_words, captioning, folds, params, run, shards, text_embedding
from stages.common.caption_tuning import Example
from stages.common.captioning import AS_IT_IS, Captioner, Task
from stages.common.clip_items import ClipItems
from stages.common.errors import UserError
from stages.common.item_store import digest
from stages.common.label_attention import Reward
from stages.common.parallel import Failure, map_items
from stages.common.training import RowFile, TrainingParams, scratch

CODE_VERSION = 1  # of captions, of what is heard and of trained weights; raise it when one of them changes for the same input
SELECTED, FRAMES, SOUND = Path("data/representative_frames"), Path("data/frames"), Path("data/audio")
AUDIO, LABEL_AUDIO, OUTPUT = Path("data/audio_features"), Path("data/label_audio/features.safetensors"), Path("data/captions")
WHOLE = -1  # instead of a fold: the model fitted on all training clips
MEASURED = 300  # clips of a split behind the metrics
TOP_K, TEMPERATURE = 3, 0.05  # of the mapping in rewards and metrics: fixed, so that another `mapping` needs no new captions
CAPTIONS = pa.schema([("steps", pa.list_(pa.int32())), ("captions", pa.list_(pa.string()))])
HEARD = pa.schema([*CAPTIONS, ("labels", pa.list_(pa.list_(pa.int32())))])
WEIGHTS = pa.schema([("weights", pa.binary()), ("epochs", pa.int32()), ("reward", pa.list_(pa.float64()))])


class CaptionsParams(params.Section):
    model: str
    beams: int = Field(ge=1, le=32)
    max_tokens: int = Field(ge=1, le=512)
    frames_per_batch: int = Field(ge=1, le=65536)
    finetune: Literal["off", "tags", "self_critical"]
    finetune_frames: int = Field(ge=1, le=1000)
    tags: int = Field(ge=1, le=527)
    tag_score: float = Field(gt=0, lt=1)
    training: TrainingParams
    self_critical_steps: int = Field(ge=1)
    self_critical_learning_rate: float = Field(gt=0, le=1)

    @property
    def blip(self) -> tuple[str, int, int]:
        return self.model, self.beams, self.max_tokens


class Text(params.Section):
    model: str


class Folds(params.Section):
    folds: int


class Hearing(params.Section):
    model: str
    window_s: float


def some(steps: list[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly spread."""
    chosen = np.unique(np.floor((np.arange(count) + 0.5) * len(steps) / count).astype(int))
    return [steps[i] for i in chosen]


def frames_of(wanted: dict[str, list[int]]) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """JPEGs and times of the wanted steps by clip, in the shards' order."""
    for row in shards.iter_rows(FRAMES, ["jpegs", "times_s"]):
        if (steps := wanted.get(row["clip_id"])) is not None:
            yield [row["jpegs"][step] for step in steps], row["times_s"][steps]


def listen(stage: run.StageRun, p: CaptionsParams, clips: list[dict], version: str) -> list[dict]:
    """What can be learned from: of audible training, unlabelled and validation clips some representative steps, their captions
    by the model as it is, and the labels that AST hears around them, highest score first."""
    hearing = params.load("audio_features", Hearing, only=True)
    knobs = (backbones.revision(hearing.model), hearing.window_s, p.finetune_frames, p.tags, p.tag_score)
    sounds = {row["clip_id"]: row["item_key"] for row in shards.ok_rows(SOUND) if row["split"] != "test"}
    audible = [
        clip | {"input_key": digest(clip["input_key"], sounds[clip["clip_id"]], *knobs), "steps": some(clip["steps"], p.finetune_frames)}
        for clip in clips if clip["clip_id"] in sounds
    ]  # fmt: skip
    wanted = {clip["clip_id"]: clip["steps"] for clip in audible}
    flacs = (row["flac"] for row in shards.iter_rows(SOUND, ["flac"]) if row["clip_id"] in wanted)
    tasks = (
        Task(steps, jpegs, sound=(flac, times_s, hearing.window_s))
        for steps, (jpegs, times_s), flac in zip(wanted.values(), frames_of(wanted), flacs, strict=True)
    )

    def compute(todo: Iterator[Task]) -> Iterator[dict | Failure]:
        for row in captioning.answers(captioning.describe, todo, p.blip, p.frames_per_batch, stage.workers, hearing.model):
            if not isinstance(row, Failure):
                ranked = ((scores, np.argsort(-scores, kind="stable")[: p.tags].tolist()) for scores in row["scores"])
                row["labels"] = [[label for label in best if scores[label] >= p.tag_score] for scores, best in ranked]
            yield row

    with ClipItems("captions_heard", version, HEARD) as items:
        items.fill(stage, audible, tasks, compute)
        return [found for clip in audible if (found := clip | items.row(clip))["status"] == "ok"]


@dataclass
class Training:
    """One fine-tuning: frames to learn from and to stop by and, with `self_critical`, what the reward is made of."""

    p: CaptionsParams
    pictures: list[str]  # keys of what the examples were made from
    learned: list[Example]
    held_out: list[Example]
    sound: np.ndarray | None = None  # real audio features around every example's frame, centred [rows, A]
    reward: Reward | None = None

    def key(self) -> str:
        """Digest of all that the weights depend on beside the version."""
        parts: list = [self.p.training.model_dump(), self.pictures, self.learned, self.held_out]
        if self.reward and self.sound is not None:
            parts += [hashlib.blake2b(array.tobytes()).hexdigest() for array in (self.reward.labels, self.reward.label_audio, self.sound)]
            parts += [self.reward.top_k, self.reward.temperature, self.p.self_critical_steps, self.p.self_critical_learning_rate]
        return digest(*parts)

    def rewards(self, captions: list[str], rows: list[int]) -> np.ndarray:
        """[n] of captions of the frames in these rows."""
        if self.reward is None or self.sound is None:
            raise ValueError("this fine-tuning has no reward")
        return self.reward(captions, self.sound[rows])


def train(task: tuple[Training, RowFile]) -> dict:
    """Fine-tune the decoder (runs in a worker)."""
    job, outputs = task
    p = job.p
    rewards: list[float] = []
    torch.manual_seed(0)
    captioner = Captioner(*p.blip)
    decoder, curve = caption_tuning.fine_tune(captioner, outputs, job.learned, job.held_out, p.training)
    if job.reward:
        slower = p.training.model_copy(update={"learning_rate": p.self_critical_learning_rate})
        rewards = caption_tuning.self_critical(
            captioner, decoder, outputs, job.learned, job.held_out, job.rewards, p.self_critical_steps, slower,
        )  # fmt: skip
    return {"weights": captioning.dump_weights(decoder), "epochs": len(curve), "reward": rewards, "status": "ok", "reason": ""}


def trainings(p: CaptionsParams, heard: list[dict], fold: dict[str, int], count: int) -> dict[int, Training]:
    """Each fine-tuning by the fold that it leaves out."""
    names = labels_of(params.load("audio_features", Hearing, only=True).model)
    owners = [clip for clip in heard for _ in clip["steps"]]
    texts = [pair for clip in heard for pair in zip(clip["captions"], clip["labels"], strict=True)]
    examples = [Example(i, text, caption_words.tagged(text, [names[label] for label in labels])) for i, (text, labels) in enumerate(texts)]
    held_out = [i for i, clip in enumerate(owners) if clip["split"] == "validation"]
    found = {}
    for number in (WHOLE, *range(count)):
        learned = [i for i, clip in enumerate(owners) if clip["split"] != "validation" and fold[clip["clip_id"]] != number]
        if not learned or not held_out:
            raise UserError(
                f"captions.finetune: {p.finetune} needs audible validation clips and audible training clips of several sources; "
                "metrics/audio.json says what became of the sound; `off` needs none"
            )
        keys = [owners[i]["input_key"] for i in (*learned, *held_out)]
        found[number] = Training(p, keys, [examples[i] for i in learned], [examples[i] for i in held_out])
    return rewarded(found, heard, names) if p.finetune == "self_critical" else found


def rewarded(jobs: dict[int, Training], heard: list[dict], names: list[str]) -> dict[int, Training]:
    """The fine-tunings with label audio that was made without their fold, and real audio relative to what they learn from."""
    reader = params.load("label_audio", Text, only=True)
    if not LABEL_AUDIO.is_file():
        raise UserError(f"{LABEL_AUDIO} is missing: run `dvc repro` so that the stage label_audio writes it")
    label_audio = load_file(LABEL_AUDIO)
    features = {row["clip_id"]: row["features"].astype(np.float32) for row in shards.iter_rows(AUDIO, ["features"])}
    around = np.stack([features[clip["clip_id"]][max(0, step - 1) : step + 2].mean(0) for clip in heard for step in clip["steps"]])
    whole = np.stack([features[clip["clip_id"]].mean(0) for clip in heard for _ in clip["steps"]])
    found = {}
    for number, job in jobs.items():
        mean = whole[[example.row for example in job.learned]].mean(0)
        audio = label_audio["whole"] if number == WHOLE else label_audio["folds"][number]
        reward = Reward(reader.model, names, audio, TOP_K, TEMPERATURE)
        found[number] = replace(job, sound=around - mean, reward=reward)
    return found


def train_all(stage: run.StageRun, p: CaptionsParams, heard: list[dict], jobs: dict[int, Training], version: str,
              files: Path) -> dict[int, dict]:
    """The item of each fine-tuning (weights, epochs, reward)."""
    keys = [{"input_key": job.key()} for job in jobs.values()]

    def compute(todo: Iterator[Training]) -> Iterator[dict | Failure]:
        if missing := list(todo):
            outputs = store_outputs(stage, p, heard, files / "outputs")
            tasks = [(job, outputs) for job in missing]
            yield from map_items(train, tasks, stage.workers) if backbones.device() == "cpu" else map(train, tasks)

    with ClipItems("captions_weights", version, WEIGHTS) as items:
        items.fill(stage, keys, jobs.values(), compute)
        rows = [items.row(key) for key in keys]
    if failed := [row for row in rows if row["status"] != "ok"]:
        raise UserError(f"fine-tuning BLIP failed: {failed[0]['reason']}; the machine may lack memory, try --workers 1")
    return dict(zip(jobs, rows, strict=True))


def store_outputs(stage: run.StageRun, p: CaptionsParams, heard: list[dict], path: Path) -> RowFile:
    """Picture outputs of all examples' frames in a file: their encoder is frozen, so a frame passes through it once."""
    wanted = {clip["clip_id"]: clip["steps"] for clip in heard}
    tasks = (Task(steps, jpegs) for steps, (jpegs, _) in zip(wanted.values(), frames_of(wanted), strict=True))

    def encoded() -> Iterator[np.ndarray]:
        found = captioning.answers(captioning.encode_to_store, tasks, p.blip, p.frames_per_batch, stage.workers)
        for outputs in stage.timed("encoding_s", found):
            if isinstance(outputs, Failure):
                raise UserError(f"encoding frames for the fine-tuning of BLIP failed: {outputs.reason}; try --workers 1")
            yield from outputs

    frames = encoded()
    first = next(frames)
    return RowFile(path, first.shape).write(chain([first], frames))


def labels_of(model: str) -> list[str]:
    """The names of AST's labels."""
    names = backbones._config(model).id2label
    return [names[i] for i in range(len(names))]


def main(stage: run.StageRun) -> None:
    p = params.load("captions", CaptionsParams)
    count = params.load("generator", Folds, only=True).folds
    steps = {row["clip_id"]: row["steps"] for row in shards.iter_rows(SELECTED, ["steps"])}
    clips = [clip | {"steps": steps[clip["clip_id"]]} for clip in shards.inputs(SELECTED)]
    table = pd.DataFrame(shards.ok_rows(FRAMES))
    fold = dict(zip(table.clip_id, folds.of_clips(table, count).tolist(), strict=True))
    version = digest("captions", CODE_VERSION, backbones.revision(p.model), p.beams, p.max_tokens)
    heard: list[dict] = []
    tuned: dict[int, dict] = {}
    with scratch() as files, ClipItems("captions", version, CAPTIONS) as items:
        if p.finetune != "off":
            heard = listen(stage, p, clips, version)
            tuned = train_all(stage, p, heard, trainings(p, heard, fold, count), version, files)
        weights = {number: store_weights(row["weights"], files) for number, row in tuned.items()}
        used = [weights.get(fold[clip["clip_id"]], AS_IT_IS) for clip in clips]
        keyed = [clip | {"input_key": digest(clip["input_key"], Path(file).name)} for clip, file in zip(clips, used, strict=True)]
        tasks = (Task(chosen, jpegs, file) for chosen, (jpegs, _), file in zip(steps.values(), frames_of(steps), used, strict=True))
        items.fill(
            stage, keyed, tasks,
            lambda todo: captioning.answers(captioning.describe, todo, p.blip, p.frames_per_batch, stage.workers),
        )  # fmt: skip
        index = items.pack(OUTPUT, keyed)
        save_model(p, weights.get(WHOLE, AS_IT_IS))
    metrics = {"clips": run.status_counts(index), "finetune": p.finetune, **measure(p, heard)}
    if tuned:
        metrics["epochs"] = float(np.mean([row["epochs"] for row in tuned.values()]))
    if p.finetune == "self_critical":
        metrics["reward"] = dict(zip(("before", "after"), np.mean([row["reward"] for row in tuned.values()], axis=0).tolist(), strict=True))
    stage.write_metrics(metrics)


def store_weights(weights: bytes, folder: Path) -> str:
    """A file of these weights, whose name is their digest."""
    path = folder / hashlib.blake2b(weights, digest_size=16).hexdigest()
    path.write_bytes(weights)
    return str(path)


def save_model(p: CaptionsParams, weights: str) -> None:
    """models/captions, which appears at once."""
    folder, temporary = Path("models/captions"), Path("models/.captions.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    Captioner(*p.blip).save(temporary, weights)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def measure(p: CaptionsParams, heard: list[dict]) -> dict:
    """How many captions there are, and how well they name what AST hears in the clips' real sound; `before` are the original
    captions of the same frames."""
    names = labels_of(params.load("audio_features", Hearing, only=True).model)
    reader = params.load("label_audio", Text, only=True)
    meanings = text_embedding.embed(reader.model, names)
    scores = {row["clip_id"]: row["label_scores"] for row in shards.iter_rows(AUDIO, ["label_scores"], ["training", "validation"])}
    audible = {clip: set(np.flatnonzero(row >= p.tag_score).tolist()) for clip, row in scores.items() if (row >= p.tag_score).any()}
    written = {row["clip_id"]: captions_by_step(row) for row in shards.iter_rows(OUTPUT, CAPTIONS.names)}
    originals = {clip["clip_id"]: captions_by_step(clip) for clip in heard} or {
        clip: {step: row[step] for step in some([*row], p.finetune_frames)} for clip, row in written.items()
    }
    found: dict = {"before": {}, "after": {}}
    for name, split in (("validation", "validation"), ("out_of_fold", "training")):
        clips = [row for row in shards.ok_rows(OUTPUT) if row["split"] == split and row["clip_id"] in {*audible} & {*originals}]
        clips = clips[:: len(clips) // MEASURED + 1]
        frames = [(row["clip_id"], step) for row in clips for step in originals[row["clip_id"]]]
        counts = {"clips": len(clips), "sources": len({row["source_id"] for row in clips})}
        labels, before = [audible[clip] for clip, _ in frames], [originals[clip][step] for clip, step in frames]
        after = [written[clip][step] for clip, step in frames]
        if frames:
            for key, texts in (("before", before), ("after", after)):
                cosines = text_embedding.cosines(text_embedding.embed(reader.model, texts), meanings)
                mapped = text_embedding.closest(cosines, TOP_K).tolist()
                found[key][name] = caption_words.quality(texts, before, labels, names, mapped) | counts
    captions = [text for row in written.values() for text in row.values()]
    frames_per_clip = len(captions) / max(1, len(written))
    return {"frames": len(captions), "frames_per_clip": frames_per_clip, "distinct_captions": len(set(captions)), **found}


def captions_by_step(row: dict) -> dict[int, str]:
    return dict(zip(row["steps"], row["captions"], strict=True))


if __name__ == "__main__":
    run.main(main, __doc__, "captions")

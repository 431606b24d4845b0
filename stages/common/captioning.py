"""BLIP (Li et al. 2022; transformers.BlipForConditionalGeneration): captions of frames, and fine-tuning towards sounds.

Fine-tuning trains the text decoder on stored outputs of the picture encoder, which stays as it is.  The decoder learns a
second form of caption, for which a prompt asks (BLIP's own conditional captioning), beside the original one:

    original   [DEC] a mallet above a brown wooden board in a room
    tagged     [DEC] the sound of | knock, tap with a mallet above a brown wooden board in a room

Half of the frames of a batch are shown in either form; what follows the prompt is learned.  Without a prompt the two forms
would contradict each other, and a search for the likeliest caption would give the same one everywhere.  The prompt is no
part of a caption, and sounds come first, because the sentence embedding then stays closest to them: of 101 validation
frames with the labels that AST hears there, 100 % have one of these among their 3 closest labels; 93 % with the prompt as
part of the caption, 81 % with "a mallet ... with the sound of knock, tap", 8 % with the original caption.
"""
import copy
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from transformers import ASTForAudioClassification, BlipForConditionalGeneration  # noqa: F401  here, so that forked workers have them

from stages.common import backbones, media
from stages.common.backbones import AudioBackbone
from stages.common.checkpoints import Checkpoint
from stages.common.errors import UserError
from stages.common.item_store import digest
from stages.common.parallel import Failure, map_items, one_thread
from stages.common.training import RowFile, TrainingParams, fit

PROMPT = "the sound of"
PUBLISHED = "Salesforce/blip-image-captioning-base"
AS_IT_IS = ""  # instead of a file of weights: the decoder that the model came with
BATCH = 64  # captions at a time where nothing is learned
GREEDY: dict = {"num_beams": 1, "do_sample": False}
SAMPLED: dict = {"num_beams": 1, "do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}  # from the model's own distribution


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@lru_cache(maxsize=4096)
def spoken(label: str) -> str:
    """A label's name as it stands in captions: `Thump, thud` is `thump thud`, because commas separate labels."""
    return " ".join(words(label))


def tagged(caption: str, labels: list[str]) -> str:
    """A caption that also names sounds; itself where there are none."""
    return f"{', '.join(map(spoken, labels))} with {caption}" if labels else caption


def named(text: str, labels: list[str]) -> set[int]:
    """Numbers of the labels that a text names, each word in one label at most: the longest names are found first."""
    rest, found = f" {' '.join(words(text))} ", set()
    for number in sorted(range(len(labels)), key=lambda i: (-len(spoken(labels[i])), i)):
        phrase = f" {spoken(labels[number])} "
        if phrase in rest:
            found.add(number)
            rest = rest.replace(phrase, " | ")
    return found


def quality(texts: list[str], originals: list[str], heard: list[set[int]], labels: list[str], mapped: list[list[int]]) -> dict:
    """Captions against the numbers of the labels that are heard (at least one each), and against the original captions.
    mapped: the labels that each caption is mapped to."""
    names = [named(text, labels) for text in texts]
    right = sum(len(a & b) for a, b in zip(names, heard, strict=True))
    pairs = [(Counter(words(old)), Counter(words(new))) for old, new in zip(originals, texts, strict=True)]
    return {
        "captions": len(texts),
        "named_labels": sum(map(len, names)) / len(texts),  # per caption
        "named_precision": right / max(1, sum(map(len, names))),
        "named_recall": right / sum(map(len, heard)),
        "mapped_hits": float(np.mean([not b.isdisjoint(a) for a, b in zip(mapped, heard, strict=True)])),  # one of them is heard
        "kept_words": float(np.mean([(old & new).total() / max(1, old.total()) for old, new in pairs])),
    }


class Captioner:
    """A BLIP model with its processor; the weights are loaded when they are needed, not for resizing pictures alone."""

    def __init__(self, name: str, beams: int, max_tokens: int):
        if (kind := backbones._config_file(name).get("model_type", "blip")) != "blip":
            raise UserError(f"'{name}' is no BLIP model but of the kind '{kind}': captions.model takes {PUBLISHED} or a directory like it")
        self.name, self.beams, self.max_tokens, self.device = name, beams, max_tokens, backbones.device()
        self.processor = backbones._load(name, "BlipProcessor", "a BLIP processor")
        self._decoders: dict[str, torch.nn.Module] = {}

    @cached_property
    def model(self):
        if not any(backbones.locate(self.name).glob("*.safetensors")):
            raise UserError(
                f"'{self.name}' has no weights in safetensors form, and pickled ones are not loaded: where you trust them, convert them "
                "once by BlipForConditionalGeneration.from_pretrained(...).save_pretrained(directory), and the processor likewise, "
                "and give that directory in params.yaml"
            )
        return backbones._load_model(self.name, "BlipForConditionalGeneration", "a BLIP captioning model")

    @cached_property
    def _text(self):
        return self.model.config.text_config

    @cached_property
    def _scale(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gain and offset [3, 1, 1] of the processor's rescaling and normalisation."""
        images = self.processor.image_processor
        mean, std = (torch.tensor(getattr(images, key)).view(3, 1, 1) for key in ("image_mean", "image_std"))
        return (images.rescale_factor / std).to(self.device), (mean / std).to(self.device)

    def _autocast(self):
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda"))

    def resize(self, images: list[np.ndarray]) -> np.ndarray:
        """BGR images [H, W, 3] uint8 -> RGB [N, 3, h, w] uint8, resized by the model's own processor."""
        rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        pixels = self.processor.image_processor(rgb, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        return np.stack(pixels).astype(np.uint8)

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        """RGB [N, 3, h, w] uint8 -> what the decoder attends to [N, P, D] float32."""
        gain, offset = self._scale
        with torch.inference_mode(), self._autocast():
            values = torch.from_numpy(pixels).to(self.device).float() * gain - offset
            return self.model.vision_model(values).last_hidden_state.float()

    def decoder(self, weights: str = AS_IT_IS) -> torch.nn.Module:
        """The text decoder, or one with other weights from a file; kept for the next call."""
        if weights == AS_IT_IS:
            return self.model.text_decoder
        if weights not in self._decoders:
            self._decoders[weights] = copy.deepcopy(self.model.text_decoder)
            load_weights(self._decoders[weights], Path(weights).read_bytes())
        return self._decoders[weights]

    def caption(self, outputs: torch.Tensor, weights: str = AS_IT_IS) -> list[str]:
        """Captions of picture outputs [N, P, D]: original ones by the model as it is, tagged ones by fine-tuned weights."""
        prompt = "" if weights == AS_IT_IS else PROMPT
        return self.texts(self.generate(self.decoder(weights), outputs, prompt, num_beams=self.beams, do_sample=False), prompt)

    def prompt_ids(self, prompt: str) -> list[int]:
        """What a caption begins with: the start token and the prompt."""
        return [self._text.bos_token_id, *self.processor.tokenizer(prompt)["input_ids"][1:-1]]

    @torch.no_grad()
    def generate(self, decoder, outputs: torch.Tensor, prompt: str, **search) -> torch.Tensor:
        """Token ids [N, tokens] with the prompt, as BlipForConditionalGeneration.generate gives them for pictures."""
        start = self.prompt_ids(prompt)
        with self._autocast():
            return decoder.generate(
                input_ids=torch.tensor([start] * len(outputs), device=self.device),
                encoder_hidden_states=outputs, encoder_attention_mask=torch.ones(outputs.shape[:2], dtype=torch.long, device=self.device),
                eos_token_id=self._text.sep_token_id, pad_token_id=self._text.pad_token_id,
                max_new_tokens=min(self.max_tokens, self._text.max_position_embeddings - len(start)), **search,
            )  # fmt: skip

    def texts(self, ids: torch.Tensor, prompt: str) -> list[str]:
        """The captions without the prompt, in lower case."""
        decoded = self.processor.tokenizer.batch_decode(ids[:, len(self.prompt_ids(prompt)) :], skip_special_tokens=True)
        return [" ".join(text.lower().split()) for text in decoded]

    def loss(self, decoder, outputs: torch.Tensor, texts: list[str], prompt: str) -> torch.Tensor:
        """Cross-entropy of captions given picture outputs [N, P, D], mean over the tokens after the prompt."""
        whole, longest = [f"{prompt} {text}".strip() for text in texts], self._text.max_position_embeddings
        tokens = self.processor.tokenizer(whole, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(self.device)
        tokens["input_ids"][:, 0] = self._text.bos_token_id
        return self.loss_of_ids(decoder, outputs, tokens["input_ids"], tokens["attention_mask"], prompt)

    def loss_of_ids(self, decoder, outputs: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, prompt: str,
                    reduction: str = "mean") -> torch.Tensor:
        """The same of token ids [N, tokens]; with reduction `none` each caption's sum over its tokens [N]."""
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, : len(self.prompt_ids(prompt))] = -100
        seen = {"encoder_hidden_states": outputs.to(self.device)}
        with self._autocast():
            return decoder(input_ids=ids, attention_mask=mask, labels=labels, reduction=reduction, **seen).loss

    def save(self, folder: Path, weights: str = AS_IT_IS) -> None:
        """A Hugging Face directory of the model with these decoder weights."""
        load_weights(self.model.text_decoder, dump_weights(self.decoder(weights)))
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def dump_weights(decoder: torch.nn.Module) -> bytes:
    """A decoder's weights as safetensors; those tied to the word embeddings stand there once."""
    return safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in decoder.named_parameters()})


def load_weights(decoder: torch.nn.Module, weights: bytes) -> None:
    decoder.load_state_dict(safetensors.torch.load(weights), strict=False)  # not strict: tied names are missing


@dataclass
class Task:
    """Frames of one clip, and what is wanted of them; `decode` turns JPEGs and sound into arrays."""

    steps: list[int]
    jpegs: list[bytes]
    weights: str = AS_IT_IS  # the decoder's
    sound: tuple[bytes, np.ndarray, float] | None = None  # FLAC, the frames' times and the length of the windows around them, s
    pixels: np.ndarray | None = None  # [n, 3, h, w] uint8
    log_mel: np.ndarray | None = None  # [n, time, mel bins]


_captioner: Captioner  # one per worker process
_ast: AudioBackbone | None  # there is one where a task has sound


def load_models(blip: tuple[str, int, int], ast: str) -> None:
    global _captioner, _ast
    one_thread()
    _captioner = Captioner(*blip)
    _ast = AudioBackbone(ast) if ast else None


def load_on_cpu(blip: tuple[str, int, int], ast: str) -> None:
    """For workers that only decode: they must not take the device's memory."""
    os.environ["DEVICE"] = "cpu"
    load_models(blip, ast)


def decode(task: Task) -> Task:
    pixels, log_mel = _captioner.resize([media.decode_jpeg(jpeg) for jpeg in task.jpegs]), None
    if _ast and task.sound:
        flac, times_s, window_s = task.sound
        log_mel = _ast.log_mel(windows(media.decode_flac(flac), times_s, window_s, _ast.rate_hz, _ast.max_s))[0]
    return Task(task.steps, [], task.weights, None, pixels, log_mel)


def windows(wave: np.ndarray, times_s: np.ndarray, window_s: float, rate_hz: int, length_s: float) -> list[np.ndarray]:
    """The sound around each time, repeated until it fills what the model hears in one pass.

    Padding instead makes AST hear an end: of what the embedded one reports in padded windows of 1 s (validation clips,
    scores of 0.3 or more) 39 % is also heard in the whole clip, of what it reports in repeated ones 98 %.
    """
    size = min(len(wave), round(window_s * rate_hz))
    starts = np.clip(np.round(times_s * rate_hz - size / 2), 0, len(wave) - size).astype(int)
    return [np.resize(wave[start : start + size], round(length_s * rate_hz)) for start in starts]


def encode(tasks: list[Task]) -> list[torch.Tensor]:
    """Picture outputs [n, P, D] of each clip's frames."""
    outputs = _captioner.encode(np.concatenate([task.pixels for task in tasks if task.pixels is not None]))
    return list(outputs.split([len(task.steps) for task in tasks]))


def encode_to_store(tasks: list[Task]) -> list[np.ndarray]:
    return [outputs.cpu().numpy().astype(np.float16) for outputs in encode(tasks)]


def describe(tasks: list[Task]) -> list[dict]:
    """Captions of each clip's frames and, where there is sound, AST's `scores` [n, labels] around them."""
    rows: list[dict] = [{"steps": task.steps, "status": "ok", "reason": ""} for task in tasks]
    outputs = encode(tasks)
    for weights in dict.fromkeys(task.weights for task in tasks):
        group = [i for i, task in enumerate(tasks) if task.weights == weights]
        texts = iter(_captioner.caption(torch.cat([outputs[i] for i in group]), weights))
        for i in group:
            rows[i]["captions"] = list(islice(texts, len(tasks[i].steps)))
    if _ast:
        scores = iter(_ast.encode(np.concatenate([task.log_mel for task in tasks if task.log_mel is not None]))[2])
        for row in rows:
            row["scores"] = np.stack(list(islice(scores, len(row["steps"]))))
    return rows


def decode_and_answer(job: tuple[Callable, Task]) -> Any:
    answer, task = job
    return answer([decode(task)])[0]


def answers(answer: Callable, tasks: Iterable[Task], blip: tuple[str, int, int], frames_per_batch: int, workers: int,
            ast: str = "") -> Iterator[Any]:
    """`answer` (encode_to_store or describe) of each task.

    On CPU a clip at a time in each worker: the composition of a batch, and so every bit, does not depend on the other clips.
    On GPU workers decode while the device answers batches of at least `frames_per_batch` frames.
    """
    if backbones.device() == "cpu":
        jobs = ((answer, task) for task in tasks)
        yield from map_items(decode_and_answer, jobs, workers, initializer=load_models, initargs=(blip, ast))
        return
    load_models(blip, ast)
    batch: list[Task | Failure] = []

    def flush() -> Iterator[Any]:
        good = [task for task in batch if not isinstance(task, Failure)]
        found = iter(answer(good) if good else [])
        yield from (task if isinstance(task, Failure) else next(found) for task in batch)
        batch.clear()

    for task in map_items(decode, tasks, workers, initializer=load_on_cpu, initargs=(blip, ast)):
        batch.append(task)
        if sum(len(task.steps) for task in batch if not isinstance(task, Failure)) >= frames_per_batch:
            yield from flush()
    yield from flush()


class Example(NamedTuple):
    """A frame to learn from."""

    row: int  # in the file of picture outputs
    caption: str  # the original one
    tagged: str  # with the sounds heard


def fine_tune(captioner: Captioner, outputs: RowFile, learned: list[Example], held_out: list[Example],
              p: TrainingParams) -> tuple[torch.nn.Module, list[dict]]:
    """A decoder that also names sounds, and its loss curve; `held_out`, in both forms, decides when to stop."""
    decoder = copy.deepcopy(captioner.model.text_decoder).requires_grad_(True)

    def form(examples: list[Example], name: str) -> torch.Tensor:
        texts = [getattr(example, name) for example in examples]
        return captioner.loss(decoder, outputs.read(example.row for example in examples), texts, PROMPT if name == "tagged" else "")

    def loss(rows: torch.Tensor) -> torch.Tensor:
        batch = [learned[row] for row in rows.tolist()]
        halves = [(batch[::2], "tagged"), (batch[1::2], "caption")]
        return torch.stack([form(half, name) for half, name in halves if half]).mean()

    def validate() -> float:
        parts = [held_out[i : i + BATCH] for i in range(0, len(held_out), BATCH)]
        losses = [(form(part, "tagged").item() + form(part, "caption").item()) / 2 for part in parts]
        return float(np.average(losses, weights=[len(part) for part in parts]))

    checkpoint = Checkpoint(digest(outputs.digest(), learned, held_out))
    return decoder, fit(decoder, loss, torch.arange(len(learned)), validate, p, 0, "captions", checkpoint=checkpoint)


def self_critical(captioner: Captioner, decoder: torch.nn.Module, outputs: RowFile, learned: list[Example], held_out: list[Example],
                  reward: Callable[[list[str], list[int]], np.ndarray], steps: int, p: TrainingParams) -> list[float]:
    """Train a decoder further by reward (Rennie et al. 2017): REINFORCE on a sampled caption, with the reward of the greedy one
    as baseline.  reward: captions and their frames' rows -> [n].

    Returns the mean reward on `held_out` before and after; where it would be no better after, the decoder stays as it was.
    """
    start, before = copy.deepcopy(decoder.state_dict()), mean_reward(captioner, decoder, outputs, held_out, reward)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=p.learning_rate, weight_decay=p.weight_decay)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = [learned[i].row for i in torch.randperm(len(learned), generator=draw)[: p.batch_size].tolist()]
        seen = outputs.read(rows).to(captioner.device)
        sampled, greedy = (captioner.generate(decoder, seen, PROMPT, **search) for search in (SAMPLED, GREEDY))
        gain = reward(captioner.texts(sampled, PROMPT), rows) - reward(captioner.texts(greedy, PROMPT), rows)
        mask = (sampled != captioner.model.config.text_config.pad_token_id).long()
        surprise = captioner.loss_of_ids(decoder, seen, sampled, mask, PROMPT, "none")  # -log p of each caption
        optimizer.zero_grad()
        (torch.from_numpy(gain).to(surprise) * surprise).mean().backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    after = mean_reward(captioner, decoder, outputs, held_out, reward)
    if after <= before:
        decoder.load_state_dict(start)
    return [before, max(before, after)]


def mean_reward(captioner: Captioner, decoder: torch.nn.Module, outputs: RowFile, examples: list[Example],
                reward: Callable[[list[str], list[int]], np.ndarray]) -> float:
    """Of the greedy captions."""
    values: list[float] = []
    for start in range(0, len(examples), BATCH):
        rows = [example.row for example in examples[start : start + BATCH]]
        ids = captioner.generate(decoder, outputs.read(rows).to(captioner.device), PROMPT, **GREEDY)
        values += reward(captioner.texts(ids, PROMPT), rows).tolist()
    return float(np.mean(values))

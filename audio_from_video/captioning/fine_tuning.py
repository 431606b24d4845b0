"""Fine-tune BLIP's text decoder on stored outputs of the picture encoder, towards captions that name sounds.

The decoder learns a second form of caption, for which a prompt asks (BLIP's own conditional captioning), beside the original one:

    original   [DEC] a mallet above a brown wooden board in a room
    tagged     [DEC] the sound of | knock, tap with a mallet above a brown wooden board in a room

Half of the frames of a batch are shown in either form; what follows the prompt is learned.  Without a prompt the two forms
would contradict each other, and a search for the likeliest caption would give the same one everywhere.  The prompt is no
part of a caption, and sounds come first, because the sentence embedding then stays closest to them: of 101 validation
frames with the labels that AST hears there, 100 % have one of these among their 3 closest labels; 93 % with the prompt as
part of the caption, 81 % with "a mallet ... with the sound of knock, tap", 8 % with the original caption.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from audio_from_video.backbones.blip import PROMPT, Captioner
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.loop import TrainingParams, fit
from audio_from_video.runtime.digests import digest
from audio_from_video.storage.row_file import RowFile

BATCH = 64  # captions at a time where nothing is learned
GREEDY: dict = {"num_beams": 1, "do_sample": False}
SAMPLED: dict = {
    "num_beams": 1,
    "do_sample": True,
    "top_k": 0,
    "top_p": 1.0,
    "temperature": 1.0,
}  # from the model's own distribution


class Example(NamedTuple):
    """A frame to learn from."""

    row: int  # in the file of picture outputs
    caption: str  # the original one
    tagged: str  # with the sounds heard


def fine_tune(
    captioner: Captioner,
    outputs: RowFile,
    learned: list[Example],
    held_out: list[Example],
    p: TrainingParams,
) -> tuple[torch.nn.Module, list[dict]]:
    """A decoder that also names sounds, and its loss curve; `held_out`, in both forms, decides when to stop."""
    decoder = copy.deepcopy(captioner.model.text_decoder).requires_grad_(True)

    def form(examples: list[Example], name: str) -> torch.Tensor:
        texts = [getattr(example, name) for example in examples]
        return captioner.loss(
            decoder,
            outputs.read(example.row for example in examples),
            texts,
            PROMPT if name == "tagged" else "",
        )

    def loss(rows: torch.Tensor) -> torch.Tensor:
        batch = [learned[row] for row in rows.tolist()]
        halves = [(batch[::2], "tagged"), (batch[1::2], "caption")]
        return torch.stack([form(half, name) for half, name in halves if half]).mean()

    def validate() -> float:
        parts = [held_out[i : i + BATCH] for i in range(0, len(held_out), BATCH)]
        losses = [
            (form(part, "tagged").item() + form(part, "caption").item()) / 2 for part in parts
        ]
        return float(np.average(losses, weights=[len(part) for part in parts]))

    checkpoint = Checkpoint(digest(outputs.digest(), learned, held_out))
    return decoder, fit(
        decoder, loss, torch.arange(len(learned)), validate, p, 0, "captions", checkpoint=checkpoint
    )


def self_critical(
    captioner: Captioner,
    decoder: torch.nn.Module,
    outputs: RowFile,
    learned: list[Example],
    held_out: list[Example],
    reward: Callable[[list[str], list[int]], np.ndarray],
    steps: int,
    p: TrainingParams,
) -> list[float]:
    """Train a decoder further by reward (Rennie et al. 2017): REINFORCE on a sampled caption, with the reward of the greedy one
    as baseline.  reward: captions and their frames' rows -> [n].

    Returns the mean reward on `held_out` before and after; where it would be no better after, the decoder stays as it was.
    """
    start, before = (
        copy.deepcopy(decoder.state_dict()),
        mean_reward(captioner, decoder, outputs, held_out, reward),
    )
    optimizer = torch.optim.AdamW(
        decoder.parameters(), lr=p.learning_rate, weight_decay=p.weight_decay
    )
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = [
            learned[i].row
            for i in torch.randperm(len(learned), generator=draw)[: p.batch_size].tolist()
        ]
        seen = outputs.read(rows).to(captioner.device)
        sampled, greedy = (
            captioner.generate(decoder, seen, PROMPT, **search) for search in (SAMPLED, GREEDY)
        )
        gain = reward(captioner.texts(sampled, PROMPT), rows) - reward(
            captioner.texts(greedy, PROMPT), rows
        )
        mask = (sampled != captioner.model.config.text_config.pad_token_id).long()
        surprise = captioner.loss_of_ids(
            decoder, seen, sampled, mask, PROMPT, "none"
        )  # -log p of each caption
        optimizer.zero_grad()
        (torch.from_numpy(gain).to(surprise) * surprise).mean().backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    after = mean_reward(captioner, decoder, outputs, held_out, reward)
    if after <= before:
        decoder.load_state_dict(start)
    return [before, max(before, after)]


def mean_reward(
    captioner: Captioner,
    decoder: torch.nn.Module,
    outputs: RowFile,
    examples: list[Example],
    reward: Callable[[list[str], list[int]], np.ndarray],
) -> float:
    """Of the greedy captions."""
    values: list[float] = []
    for start in range(0, len(examples), BATCH):
        rows = [example.row for example in examples[start : start + BATCH]]
        ids = captioner.generate(decoder, outputs.read(rows).to(captioner.device), PROMPT, **GREEDY)
        values += reward(captioner.texts(ids, PROMPT), rows).tolist()
    return float(np.mean(values))

"""Train the small embedded backbones on rendered scenes: the sample then runs without a download.

Writes   models/tiny/vit     ViTModel: what each patch shows, for pictures and for flow images
         models/tiny/blip    BlipForConditionalGeneration: one line on objects, materials, colours
                             and place
         models/tiny/ast     ASTForAudioClassification: the 527 AudioSet labels
         metrics/pretrain.json    quality on held-out rendered scenes and sounds

The scenes are drawn from other seeds than the sample's and before backgrounds of other hues; three
actions (HELD_OUT in audio_from_video/world/actions.py) never occur.  No model ever meets an
action's name: the ViT learns to segment and to name variants of objects, BLIP captions without
words of actions or sounds, the AST audio labels.  The models are kept in git, and this stage need
not run on a fresh clone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout
from audio_from_video.world import tiny_models
from audio_from_video.world.pretraining_data import (
    PICTURES,
    VARIANTS,
    Scenes,
    draw_scenes,
    draw_sounds,
)
from audio_from_video.world.props import CLASSES
from audio_from_video.world.scenes import rng_of
from audio_from_video.world.settings import PretrainParams
from audio_from_video.world.sounds import RATE_HZ

ROOT = layout.TINY_MODELS
FLOW_FRACTION_OF_BATCH = 0.35
WEIGHT_DECAY = 0.02
RARE_LABEL_LOGIT = -5.0  # the AST's first answer to every label
IGNORED = -100  # the id that BLIP's loss leaves out


def train(
    parameters: list[nn.Parameter],
    steps: int,
    learning_rate: float,
    loss_of_batch: Callable[[], torch.Tensor],
) -> None:
    """Train parameters by AdamW with a warm-up and a cosine decay of the learning rate.

    loss_of_batch: draws a batch and returns its loss.
    """
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=WEIGHT_DECAY)
    warm_up = max(1, steps // 20)

    def rate_factor(step: int) -> float:
        progress = max(0, step - warm_up) / max(1, steps - warm_up)
        return min((step + 1) / warm_up, 0.5 * (1 + np.cos(np.pi * progress)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate_factor)
    for _ in range(steps):
        loss = loss_of_batch()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()


def pixels(images: np.ndarray) -> torch.Tensor:
    """Return images [B, H, W, 3] uint8 as [B, 3, H, W] in -1..1, as the image processors do."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vit(p: PretrainParams, data: Scenes, test: Scenes) -> tuple[nn.Module, dict]:
    """Train the ViT on pictures and flow images; return it and its figures on `test`.

    It learns a segmentation per patch and, from the mean patch, the objects' variant and the
    movement's moment.
    """
    model, processor = tiny_models.new_vit()
    heads = nn.ModuleDict(
        {
            "patches": nn.Linear(tiny_models.HIDDEN, len(CLASSES)),
            "variant": nn.Linear(tiny_models.HIDDEN, len(VARIANTS)),
            "moment": nn.Linear(tiny_models.HIDDEN, 2),
        }
    )
    rng = rng_of("pretrain", p.seed, "vit batches")

    def loss_of_batch() -> torch.Tensor:
        scene = rng.integers(len(data.pictures), size=p.batch_size)
        image = rng.integers(PICTURES, size=p.batch_size)
        image[: int(FLOW_FRACTION_OF_BATCH * p.batch_size)] = PICTURES  # the flow image
        hidden = _patch_states(model, data.pictures[scene, image])  # [B, 36, D]
        mean = hidden.mean(1)
        patches = torch.from_numpy(data.patches[scene, image].astype(np.float32))
        patch_logits = heads["patches"](hidden)
        patch_loss = nn.functional.cross_entropy(patch_logits.flatten(0, 1), patches.flatten(0, 1))
        variants = torch.from_numpy(data.variants[scene])
        variant_loss = nn.functional.cross_entropy(heads["variant"](mean), variants)
        moments = torch.from_numpy(data.moments[scene, image])
        moment_loss = nn.functional.mse_loss(heads["moment"](mean), moments)
        return 2 * patch_loss + 0.5 * variant_loss + moment_loss

    model.train()
    parameters = [*model.parameters(), *heads.parameters()]
    train(parameters, p.vit_steps, p.learning_rate, loss_of_batch)
    model.eval()
    figures = {
        **_vit_figures(model, heads, test, 0, "rgb"),
        **_vit_figures(model, heads, test, PICTURES, "flow"),
    }
    _save("vit", model, processor)
    return model, figures


def _patch_states(model: nn.Module, images: np.ndarray) -> torch.Tensor:
    """Return a ViT's last hidden states of the patches, [B, 36, D], without the class token."""
    return model(pixels(images)).last_hidden_state[:, 1:]


@torch.no_grad()
def _vit_figures(
    model: nn.Module, heads: nn.ModuleDict, test: Scenes, image: int, kind: str
) -> dict[str, float]:
    """Return accuracies of patches and variants on one image of every test scene."""
    hidden = _patch_states(model, test.pictures[:, image])
    predicted = heads["patches"](hidden).argmax(-1).numpy()
    classes = test.patches[:, image].argmax(-1)
    right = predicted == classes
    variants = heads["variant"](hidden.mean(1)).argmax(-1).numpy()
    return {
        f"patch_accuracy_{kind}": float(right.mean()),
        f"object_patch_accuracy_{kind}": float(right[classes > 0].mean()),
        f"variant_accuracy_{kind}": float((variants == test.variants).mean()),
    }


def train_blip(p: PretrainParams, vit: nn.Module, data: Scenes, test: Scenes) -> dict:
    """Train BLIP on captions, its picture encoder from the ViT's; return its figures on `test`."""
    model, processor = tiny_models.new_blip(set(data.captions) | set(test.captions))
    tiny_models.copy_vit_to_blip(vit, model)
    tokens = processor.tokenizer(data.captions, padding=True, return_tensors="pt")
    # BLIP's captions begin with its own token, where the tokenizer puts BERT's [CLS].
    tokens["input_ids"][:, 0] = model.config.text_config.bos_token_id
    rng = rng_of("pretrain", p.seed, "blip batches")

    def loss_of_batch() -> torch.Tensor:
        scene = rng.integers(len(data.pictures), size=p.batch_size)
        image = rng.integers(PICTURES, size=p.batch_size)
        ids = tokens["input_ids"][scene]
        mask = tokens["attention_mask"][scene]
        labels = ids.masked_fill(mask == 0, IGNORED)
        return model(pixels(data.pictures[scene, image]), ids, mask, labels=labels).loss

    model.train()
    train(list(model.parameters()), p.blip_steps, p.learning_rate, loss_of_batch)
    model.eval()
    with torch.no_grad():
        output = model.generate(
            pixel_values=pixels(test.pictures[:, 0]),
            max_new_tokens=16,
            num_beams=1,
            do_sample=False,
        )
    captions = processor.batch_decode(output, skip_special_tokens=True)
    _save("blip", model, processor)
    return caption_figures(captions, test.captions)


def caption_figures(captions: list[str], references: list[str]) -> dict[str, float]:
    """Return the share of words that stand where the reference has them, and of equal lines."""
    right_words = 0
    words = 0
    right_captions = 0
    for caption, reference in zip(captions, references, strict=True):
        caption_words = caption.split()
        reference_words = reference.split()
        pairs = zip(caption_words, reference_words, strict=False)
        right_words += sum(word == other for word, other in pairs)
        words += max(len(caption_words), len(reference_words))
        right_captions += caption_words == reference_words
    return {
        "word_accuracy": right_words / words,
        "caption_accuracy": right_captions / len(captions),
    }


def train_ast(p: PretrainParams) -> dict:
    """Train the AST on the audio labels of sounds; return its figures on other sounds."""
    waves, labels = draw_sounds(p.seed, "training", p.sounds)
    _, unscaled = tiny_models.new_ast(0.0, 0.5)  # (x - 0) / (2 * 0.5): plain log-mel values
    some = unscaled(list(waves[:100]), sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    mean = round(float(some.mean()), 2)
    std = round(float(some.std()), 2)
    model, extractor = tiny_models.new_ast(mean, std)
    spectra = _spectra(extractor, waves)
    targets = torch.from_numpy(labels)
    rng = rng_of("pretrain", p.seed, "ast batches")
    # Else the first steps would only unlearn that half of the labels are present.
    nn.init.constant_(model.classifier.dense.bias, RARE_LABEL_LOGIT)

    def loss_of_batch() -> torch.Tensor:
        sound = rng.integers(len(spectra), size=p.batch_size // 2)
        shift = int(rng.integers(-40, 40))  # in time, by steps of 10 ms
        logits = model(spectra[sound].roll(shift, 1)).logits
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, targets[sound], reduction="sum"
        )
        return loss / len(sound)

    model.train()
    train(list(model.parameters()), p.ast_steps, p.learning_rate / 2, loss_of_batch)
    model.eval()
    waves, labels = draw_sounds(p.seed, "test", p.test_items)
    with torch.no_grad():
        scores = model(_spectra(extractor, waves)).logits.numpy()
    occurring = labels.sum(0) > 0
    precision = average_precision_score(labels[:, occurring], scores[:, occurring], average="macro")
    _save("ast", model, extractor)
    return {"tagging_map": float(precision), "labels": int(occurring.sum())}


def _spectra(extractor: Any, waves: np.ndarray) -> torch.Tensor:
    """Return scaled log-mel spectra [n, 320, 64] of waveforms [n, SAMPLES]."""
    return extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]


def _save(name: str, model: Any, processor: Any) -> None:
    """Write a model and what goes with it as a Hugging Face directory."""
    with replace_directory(ROOT / name) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def train_sense(task: tuple[str, PretrainParams]) -> dict[str, dict]:
    """Train the models of `sight` or `hearing` (runs in a worker); return figures by model."""
    sense, p = task
    # One thread, so that sums and weights do not depend on the machine's cores.
    torch.set_num_threads(1)
    torch.manual_seed(p.seed)
    if sense == "hearing":
        return {"ast": train_ast(p)}
    data = draw_scenes(p.seed, "training", p.scenes)
    test = draw_scenes(p.seed, "test", p.test_items)
    vit, vit_figures = train_vit(p, data, test)
    return {"vit": vit_figures, "blip": train_blip(p, vit, data, test)}


def main(stage: stage_run.StageRun) -> None:
    p = params.load("pretrain", PretrainParams)
    ROOT.mkdir(parents=True, exist_ok=True)
    tasks = [("sight", p), ("hearing", p)]
    results = parallel.map_items(train_sense, tasks, min(len(tasks), stage.workers))
    figures: dict[str, Any] = {}
    for result in stage.progress(results, total=len(tasks), unit="sense"):
        figures |= require_result(result, "training the embedded backbones")
    stage.log["computed"] = len(tasks)
    sizes = [path.stat().st_size for path in ROOT.rglob("*") if path.is_file()]
    figures["megabytes"] = sum(sizes) / 1e6
    stage.write_metrics(figures)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "pretrain")

"""Train the small embedded backbones on rendered scenes, so that the sample runs without any
download.

Writes
    models/tiny/vit     ViTModel: what each patch shows, for pictures and for flow images
    models/tiny/blip    BlipForConditionalGeneration: one line on objects, materials, colours and
    place models/tiny/ast     ASTForAudioClassification: the 527 AudioSet labels
    metrics/pretrain.json   quality on held-out rendered scenes

The scenes are drawn from other seeds than the sample's and before backgrounds of other hues; three
actions (`audio_from_video.world.actions.HELD_OUT`) never occur.  No model ever meets an action's
name: the ViT learns to segment and to name variants of objects, BLIP captions without words of
actions or sounds, the AST audio labels.  The models are kept in git and this stage need not run on
a fresh clone.
"""


import numpy as np
import torch
from pydantic import Field
from sklearn.metrics import average_precision_score
from torch import nn

from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.stage_run import StageRun, main
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout
from audio_from_video.world import tiny_models
from audio_from_video.world.pretraining_data import PICTURES, VARIANTS, scenes, sounds
from audio_from_video.world.props import CLASSES
from audio_from_video.world.scenes import rng_of
from audio_from_video.world.sounds import RATE_HZ

ROOT = layout.TINY_MODELS
FLOW_SHARE = 0.35  # of a batch


class PretrainParams(params.Section):
    """Section `pretrain` of params.yaml."""

    seed: int = Field(ge=0)
    scenes: int = Field(ge=64)
    sounds: int = Field(ge=64)
    test_items: int = Field(ge=8)
    batch_size: int = Field(ge=1)
    vit_steps: int = Field(ge=1)
    blip_steps: int = Field(ge=1)
    ast_steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


def fit(parameters: list[nn.Parameter], steps: int, learning_rate: float, loss_of) -> None:
    """AdamW with a warm-up of a twentieth and a cosine decay; `loss_of(step)` gives the loss of one batch."""
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(
            (s + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, s - warm) / max(1, steps - warm)))
        ),
    )
    for step in range(steps):
        loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()


def pixels(images: np.ndarray) -> torch.Tensor:
    """Pictures [B, H, W, 3] uint8 -> [B, 3, H, W] in -1..1, as the image processors do it."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vit(p: PretrainParams, data: dict, test: dict) -> tuple[nn.Module, dict]:
    """Segmentation per patch, the objects' variant and the movement's moment from the mean patch (for pictures and flow)."""
    model, processor = tiny_models.vit()
    heads = nn.ModuleDict(
        {
            "patches": nn.Linear(tiny_models.HIDDEN, len(CLASSES)),
            "variant": nn.Linear(tiny_models.HIDDEN, len(VARIANTS)),
            "moment": nn.Linear(tiny_models.HIDDEN, 2),
        }
    )
    rng = rng_of("pretrain", p.seed, "vit batches")

    def loss_of(_: int) -> torch.Tensor:
        i, k = (
            rng.integers(len(data["pictures"]), size=p.batch_size),
            rng.integers(PICTURES, size=p.batch_size),
        )
        k[: int(FLOW_SHARE * p.batch_size)] = PICTURES
        hidden = model(pixels(data["pictures"][i, k])).last_hidden_state[:, 1:]  # [B, 36, D]
        target = torch.from_numpy(data["patches"][i, k].astype(np.float32))
        mean = hidden.mean(1)
        return (
            2
            * nn.functional.cross_entropy(
                heads["patches"](hidden).flatten(0, 1), target.flatten(0, 1)
            )
            + 0.5
            * nn.functional.cross_entropy(
                heads["variant"](mean), torch.from_numpy(data["variants"][i])
            )
            + nn.functional.mse_loss(heads["moment"](mean), torch.from_numpy(data["moments"][i, k]))
        )

    model.train()
    fit([*model.parameters(), *heads.parameters()], p.vit_steps, p.learning_rate, loss_of)
    model.eval()
    figures = {}
    with torch.no_grad():
        for name, k in (("rgb", 0), ("flow", PICTURES)):
            hidden = model(pixels(test["pictures"][:, k])).last_hidden_state[:, 1:]
            found, true = (
                heads["patches"](hidden).argmax(-1).numpy(),
                test["patches"][:, k].argmax(-1),
            )
            figures[f"patch_accuracy_{name}"] = float((found == true).mean())
            figures[f"object_patch_accuracy_{name}"] = float((found == true)[true > 0].mean())
            variant = heads["variant"](hidden.mean(1)).argmax(-1).numpy()
            figures[f"variant_accuracy_{name}"] = float((variant == test["variants"]).mean())
    _save("vit", model, processor)
    return model, figures


def train_blip(p: PretrainParams, vit: nn.Module, data: dict, test: dict) -> dict:
    """Captions; the picture encoder starts from the ViT."""
    model, processor = tiny_models.blip(set(data["captions"]) | set(test["captions"]))
    tiny_models.copy_vit_to_blip(vit, model)
    tokens = processor.tokenizer(data["captions"], padding=True, return_tensors="pt")
    tokens["input_ids"][:, 0] = model.config.text_config.bos_token_id
    rng = rng_of("pretrain", p.seed, "blip batches")

    def loss_of(_: int) -> torch.Tensor:
        i, k = (
            rng.integers(len(data["pictures"]), size=p.batch_size),
            rng.integers(PICTURES, size=p.batch_size),
        )
        ids, mask = tokens["input_ids"][i], tokens["attention_mask"][i]
        labels = ids.masked_fill(mask == 0, -100)
        return model(pixels(data["pictures"][i, k]), ids, mask, labels=labels).loss

    model.train()
    fit(list(model.parameters()), p.blip_steps, p.learning_rate, loss_of)
    model.eval()
    with torch.no_grad():
        output = model.generate(
            pixel_values=pixels(test["pictures"][:, 0]),
            max_new_tokens=16,
            num_beams=1,
            do_sample=False,
        )
    said = [text.split() for text in processor.batch_decode(output, skip_special_tokens=True)]
    pairs = list(zip(said, (text.split() for text in test["captions"]), strict=True))
    right = sum(a == b for one, true in pairs for a, b in zip(one, true, strict=False))
    _save("blip", model, processor)
    return {
        "word_accuracy": right / sum(max(len(one), len(true)) for one, true in pairs),
        "caption_accuracy": float(np.mean([one == true for one, true in pairs])),
    }


def train_ast(p: PretrainParams) -> dict:
    """The audio labels of each sound."""
    waves, labels = sounds(p.seed, "training", p.sounds)
    _, raw = tiny_models.ast(0.0, 0.5)  # (x - 0) / (2 * 0.5): plain log-mel values
    sample = raw(list(waves[:100]), sampling_rate=RATE_HZ, return_tensors="np")["input_values"]
    model, extractor = tiny_models.ast(
        round(float(sample.mean()), 2), round(float(sample.std()), 2)
    )
    spectra = extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")[
        "input_values"
    ]  # [n, 320, 64]
    targets = torch.from_numpy(labels)
    rng = rng_of("pretrain", p.seed, "ast batches")
    nn.init.constant_(model.classifier.dense.bias, -5.0)  # a label is rare

    def loss_of(_: int) -> torch.Tensor:
        i = rng.integers(len(spectra), size=p.batch_size // 2)
        logits = model(spectra[i].roll(int(rng.integers(-40, 40)), 1)).logits
        return nn.functional.binary_cross_entropy_with_logits(
            logits, targets[i], reduction="sum"
        ) / len(i)

    model.train()
    fit(list(model.parameters()), p.ast_steps, p.learning_rate / 2, loss_of)
    model.eval()
    waves, labels = sounds(p.seed, "test", p.test_items)
    with torch.no_grad():
        scores = model(
            extractor(list(waves), sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
        ).logits.numpy()
    occurring = labels.sum(0) > 0
    _save("ast", model, extractor)
    return {
        "tagging_map": float(
            average_precision_score(labels[:, occurring], scores[:, occurring], average="macro")
        ),
        "labels": int(occurring.sum()),
    }


def _save(name: str, model: nn.Module, processor) -> None:
    """Write a Hugging Face directory aside, then put it in place."""
    with replace_directory(ROOT / name) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def train(task: tuple[str, PretrainParams]) -> dict:
    """Train the models of one sense; its own process, one thread."""
    sense, p = task
    torch.set_num_threads(1)
    torch.manual_seed(p.seed)
    if sense == "hearing":
        return {"ast": train_ast(p)}
    data, test = scenes(p.seed, "training", p.scenes), scenes(p.seed, "test", p.test_items)
    vit, figures = train_vit(p, data, test)
    return {"vit": figures, "blip": train_blip(p, vit, data, test)}


def pretrain(run: StageRun) -> None:
    p = params.load("pretrain", PretrainParams)
    ROOT.mkdir(parents=True, exist_ok=True)
    figures: dict = {}
    tasks = [("sight", p), ("hearing", p)]
    for found in run.progress(
        parallel.map_items(train, tasks, min(2, run.workers)), total=2, unit="sense"
    ):
        if isinstance(found, Failure):
            raise RuntimeError(f"training did not finish: {found.reason}")
        figures |= found
    run.log["computed"] = len(tasks)
    figures["megabytes"] = sum(f.stat().st_size for f in ROOT.rglob("*") if f.is_file()) / 1e6
    run.write_metrics(figures)


if __name__ == "__main__":
    main(pretrain, __doc__, "pretrain")

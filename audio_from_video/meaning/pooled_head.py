"""Labels of features by way of AST's pooled output: a ridge map, then AST's head."""

import numpy as np
import torch

from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.learning.features import Features
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage.row_file import RowFile


def summarise(audio: torch.Tensor) -> torch.Tensor:
    """[n, T, A] -> mean and deviation over time, and 1: [n, 2A + 1]."""
    return torch.cat([audio.mean(1), audio.std(1), torch.ones(len(audio), 1)], dim=1)


def fit_map(
    data: Features,
    pooled: dict[int, np.ndarray],
    learned: torch.Tensor,
    held_out: torch.Tensor,
    penalties: list[float],
) -> torch.Tensor:
    """Ridge weights [2A + 1, D] to AST's pooled output, the penalty chosen on validation."""

    def parts(rows: torch.Tensor):
        for part in rows.split(256):
            yield (
                summarise(data.sound(part)[0]).double(),
                torch.from_numpy(np.stack([pooled[row] for row in part.tolist()])).double(),
            )

    products = sum(x.T @ x for x, _ in parts(learned))
    targets = sum(x.T @ y for x, y in parts(learned))
    candidates = [
        torch.linalg.solve(
            products + penalty * torch.eye(len(products), dtype=torch.float64), targets
        )
        for penalty in penalties
    ]
    return (
        min(
            candidates,
            key=lambda weights: sum(
                ((x @ weights - y) ** 2).sum().item() for x, y in parts(held_out)
            ),
        )
        .float()
        .contiguous()
    )


def predict_by_map(
    data: Features,
    rows: torch.Tensor,
    generated: dict[str, RowFile],
    weights: torch.Tensor,
    model: str,
) -> dict[str, np.ndarray]:
    """Label scores [clips, labels] by the head `features`: of what each architecture generated (mean over seeds) and of the
    real features (0 where there is no sound)."""
    ast = AudioBackbone(model)

    def scores(audio: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return (
                ast.model.classifier((summarise(audio) @ weights).to(ast.device))
                .sigmoid()
                .cpu()
                .numpy()
            )

    found = {
        f"{ARCHITECTURES[name].generated}_features": np.concatenate(
            [
                scores(file.read(part.tolist()).flatten(0, 1))
                .reshape(len(part), file.shape[0], -1)
                .mean(1)
                for part in torch.arange(len(rows)).split(256)
            ]
        )
        for name, file in generated.items()
    }
    heard = (data.audio_row[rows] >= 0).numpy()[:, None]
    return found | {
        "real_path_features": np.concatenate(
            [scores(data.sound(part)[0]) for part in rows.split(256)]
        )
        * heard
    }

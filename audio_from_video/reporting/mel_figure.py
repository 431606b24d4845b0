"""The figure of log-mel spectrograms: real, decoded, generated."""

from pathlib import Path

import numpy as np
import torch


def draw_mels(
    path: Path,
    data,
    rows: torch.Tensor,
    generated,
    decoder,
    mel,
    mel_row: torch.Tensor,
    count: int = 4,
) -> None:
    """A figure: real log-mel, the real features decoded, the generated features (seed 0) decoded, of some test clips."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    split = data.clips.split.to_numpy()
    test = [i for i, row in enumerate(rows.tolist()) if split[row] == "test" and mel_row[row] >= 0]
    chosen = [test[i] for i in np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)]
    figure, axes = pyplot.subplots(
        3, len(chosen), figsize=(3 * len(chosen), 5.4), sharex=True, sharey=True, squeeze=False
    )
    for column, position in enumerate(chosen):
        row = int(rows[position])
        with torch.inference_mode():
            decoded = decoder(data.sound(torch.tensor([row]))[0])[0]
            made = decoder(generated.read([position])[0][:1])[0]
        panels = {
            "real": mel.read([int(mel_row[row])])[0],
            "real features, decoded": decoded,
            "generated, decoded": made,
        }
        for line, (title, values) in enumerate(panels.items()):
            axis = axes[line, column]
            extent = (0, len(values) / 100, 0, values.shape[1])  # s, mel bins
            axis.imshow(
                values.numpy().T, origin="lower", aspect="auto", vmin=-1.2, vmax=1.2, extent=extent
            )
            axis.set_title(f"{data.clips.action[row]}: {title}" if line == 0 else title, fontsize=8)
            if column == 0:
                axis.set_ylabel("mel bin", fontsize=8)
            if line == 2:
                axis.set_xlabel("time (s)", fontsize=8)
            axis.tick_params(labelsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)

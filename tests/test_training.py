"""Rows on disk against NumPy, and the training loop: the best epoch, early stopping, seeds, and a loss that explodes."""

import numpy as np
import pytest
import torch

from stages.common import training
from stages.common.errors import UserError
from stages.common.training import RowFile, TrainingParams, fit, scratch


def parameters(**changes) -> TrainingParams:
    return TrainingParams(**{"learning_rate": 0.05, "weight_decay": 0.0, "batch_size": 8, "epochs": 40, "patience": 40, **changes})


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_numpys(tmp_path, dtype):
    values = np.random.default_rng(0).normal(2, 3, (20, 4, 5)).astype(dtype)
    values[..., 3] = 1.5
    rows = RowFile(tmp_path / "rows", (4, 5), dtype).write(iter(values))
    assert len(rows) == 20
    order = [7, 0, 19, 7]
    assert rows.read(order).dtype == torch.float32
    assert np.array_equal(rows.read(order).numpy(), values[order].astype(np.float32))
    assert rows.read([]).shape == (0, 4, 5)
    mean, std = rows.moments(range(3, 17), batch=4)
    chosen = values[3:17].astype(np.float64).reshape(-1, 5)
    assert np.allclose(mean, chosen.mean(0), atol=1e-5)
    assert np.allclose(std[[0, 1, 2, 4]], chosen.std(0)[[0, 1, 2, 4]], rtol=1e-4)
    assert std[3] == 1  # a constant feature is left as it is


def test_a_row_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a row of shape \(4, 4\) in a file of \(4, 5\)"):
        RowFile(tmp_path / "rows", (4, 5)).write([np.zeros((4, 4))])


def test_scratch_is_gone_afterwards(workspace):
    with scratch() as folder:
        (folder / "rows").write_bytes(b"x")
        assert str(folder).startswith(str(workspace.folder / "items"))
    assert not folder.exists()


X = torch.linspace(-1, 1, 32)[:, None]


def line(seed: int = 0, **changes):
    """A straight line fitted to 3 x + 1: model and curve."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(1, 1)
    loss = lambda rows: (model(X[rows]) - 3 * X[rows] - 1).square().mean()  # noqa: E731
    return model, fit(model, loss, torch.arange(32), lambda: float(loss(torch.arange(32))), parameters(**changes), seed, "test/line")


def test_it_learns():
    model, curve = line(epochs=100)
    assert model.weight.item() == pytest.approx(3, abs=0.05) and model.bias.item() == pytest.approx(1, abs=0.05)
    assert [row["epoch"] for row in curve] == list(range(1, len(curve) + 1))
    assert curve[-1]["validation_loss"] < curve[0]["validation_loss"] and curve[-1]["training_loss"] < 0.01


def scripted(scores: list[float], patience: int):
    """A model whose only weight counts the steps, one step an epoch, while validation follows a script."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    weights, remaining = [], iter(scores)

    def validate() -> float:
        assert not model.training
        weights.append(model.weight.item())
        return next(remaining)

    curve = fit(
        model,
        lambda rows: -model.weight.sum(),
        torch.arange(4),
        validate,
        parameters(epochs=len(scores), patience=patience),
        0,
        "test/script",
    )
    return model, curve, weights


def test_the_best_epoch_is_restored_and_training_ends_after_its_patience():
    model, curve, weights = scripted([5, 3, 4, 2, 6, 7, 8, 1], patience=3)
    assert len(curve) == 7 and len(set(weights)) == 7
    assert model.weight.item() == weights[3] and not model.training
    assert [row["validation_loss"] for row in curve] == [5, 3, 4, 2, 6, 7, 8]


def test_equal_losses_keep_the_earlier_epoch():
    model, curve, weights = scripted([2, 2, 2, 2], patience=2)
    assert len(curve) == 3 and model.weight.item() == weights[0]


def test_same_seed_same_weights_and_other_seed_other_order():
    (one, first), (two, second), (three, third) = (line(seed=s, epochs=3) for s in (1, 1, 2))
    assert torch.equal(one.weight, two.weight) and first == second
    assert first != third


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_stage_and_epoch(value):
    model, calls = torch.nn.Linear(1, 1), []

    def loss(rows):
        calls.append(1)
        return model(X[rows]).sum() * (value if len(calls) > 8 else 1)

    with pytest.raises(UserError, match=f"the loss of test/nan became -?{value} in epoch 3: the learning rate 0.05"):
        fit(model, loss, torch.arange(32), lambda: 0.0, parameters(), 0, "test/nan")


def test_a_validation_loss_that_is_no_number_is_told_too():
    with pytest.raises(UserError, match="the validation loss of test/script became nan in epoch 2"):
        scripted([1, float("nan"), 1], patience=3)


def test_gradients_are_clipped(monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda p, limit: norms.append(limit) or real(p, limit))
    line(epochs=1)
    assert norms == [1.0] * 4 and training.fit is fit

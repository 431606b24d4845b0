"""Rows on disk against NumPy; the training loop: best epoch, early stopping, seeds, explosions."""

import copy
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.learning import loop
from audio_from_video.learning.loop import average_decay, fit, parameter_groups, rate_factor
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.row_file import RowFile, scratch
from tests.support.closure import ROOT


def parameters(**changes) -> TrainingParams:
    return TrainingParams(
        **{
            "learning_rate": 0.05,
            "weight_decay": 0.0,
            "batch_size": 8,
            "epochs": 40,
            "patience": 40,
            **changes,
        }
    )


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


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_whole_numbers_stay_whole(tmp_path, dtype):
    largest = np.iinfo(dtype).max
    values = np.random.default_rng(0).integers(-100, 100, (20, 4, 5)).astype(dtype)
    values[3] = largest  # float32 would round it
    rows = RowFile(tmp_path / "rows", (4, 5), dtype).write(iter(values))
    order = [7, 3, 19, 7]
    found = rows.read(order)
    assert (
        found.dtype == torch.int64
        and np.array_equal(found.numpy(), values[order])
        and found[1, 0, 0].item() == largest
    )
    assert rows.read([]).shape == (0, 4, 5) and rows.read([]).dtype == torch.int64
    assert torch.arange(200)[found[0].clamp(min=0)].shape == (4, 5)  # they serve as indices
    assert (
        len(rows) == 20 and (tmp_path / "rows").stat().st_size == 20 * 20 * np.dtype(dtype).itemsize
    )


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

    def loss(rows):
        return (model(X[rows]) - 3 * X[rows] - 1).square().mean()

    return model, fit(
        model,
        loss,
        torch.arange(32),
        lambda: float(loss(torch.arange(32))),
        parameters(**changes),
        seed,
        "test/line",
    )


def test_it_learns():
    model, curve = line(epochs=100)
    assert model.weight.item() == pytest.approx(3, abs=0.05) and model.bias.item() == pytest.approx(
        1, abs=0.05
    )
    assert [row["epoch"] for row in curve] == list(range(1, len(curve) + 1))
    assert (
        curve[-1]["validation_loss"] < curve[0]["validation_loss"]
        and curve[-1]["training_loss"] < 0.01
    )


def scripted(scores: list[float], patience: int):
    """A model whose only weight counts the epochs, while validation follows a script."""
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


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        ({"epochs": 3}, 3),
        ({"epochs": 3, "min_steps": 19}, 5),  # of 4 steps
        ({"epochs": 7, "min_steps": 19}, 7),
        ({"epochs": 20, "patience": 2}, 3),
        ({"epochs": 20, "patience": 2, "patience_steps": 22}, 7),
        ({"epochs": 20, "patience": 9, "patience_steps": 22}, 10),
    ],
)
def test_epochs_and_patience_count_in_steps_too(steps, epochs):
    model = torch.nn.Linear(1, 1)
    curve = fit(
        model,
        lambda rows: model(X[rows]).square().mean(),
        torch.arange(32),
        lambda: 1.0,  # never lower than after the first epoch
        parameters(**steps),
        0,
        "test/steps",
    )
    assert len(curve) == epochs


def test_the_average_spans_a_sixth_of_the_steps_at_most():
    assert average_decay(0.99, 600) == pytest.approx(0.99)
    assert average_decay(0.99, 6000) == 0.99
    assert 1 / (1 - average_decay(0.99, 180)) == pytest.approx(30)
    assert average_decay(0.0, 600) == average_decay(0.99, 6) == 0.0


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

    with pytest.raises(
        UserError, match=f"the loss of test/nan became -?{value} in epoch 3: the learning rate 0.05"
    ):
        fit(model, loss, torch.arange(32), lambda: 0.0, parameters(), 0, "test/nan")


def test_a_validation_loss_that_is_no_number_is_told_too():
    with pytest.raises(UserError, match="the validation loss of test/script became nan in epoch 2"):
        scripted([1, float("nan"), 1], patience=3)


def test_gradients_are_clipped(monkeypatch):
    norms = []
    real = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, limit: norms.append(limit) or real(p, limit)
    )
    line(epochs=1)
    assert norms == [1.0] * 4 and loop.fit is fit


# Parts that learn at a rate of their own


def parts() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict(
        {
            "text": torch.nn.Linear(3, 2),
            "head": torch.nn.Linear(2, 1),
            "context": torch.nn.Linear(1, 1),
        }
    )


def rates_and_decay(
    model: torch.nn.Module, slower: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """Rate and weight decay of each parameter, as AdamW takes them from the groups."""
    p = parameters(weight_decay=0.1)
    groups = parameter_groups(model, p, slower)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(one)], (group["learning_rate"], group["weight_decay"]))
        for group in groups
        for one in group["params"]
    ]
    assert sorted(name for name, _ in found) == sorted(names.values())  # every parameter, once
    return dict(found)


def test_a_prefix_has_its_own_rate_and_no_weight_decay():
    model = parts()
    assert rates_and_decay(model, {"text.": 0.001}) == {
        "text.weight": (0.001, 0.0),
        "text.bias": (0.001, 0.0),
        "head.weight": (0.05, 0.1),
        "head.bias": (0.05, 0.1),
        "context.weight": (0.05, 0.1),
        "context.bias": (0.05, 0.1),
    }
    two = rates_and_decay(model, {"text.": 0.001, "head.bias": 0.002})
    assert (two["text.bias"], two["head.bias"], two["head.weight"]) == (
        (0.001, 0.0),
        (0.002, 0.0),
        (0.05, 0.1),
    )
    same = rates_and_decay(model, {"text.": 0.001, "head.": 0.001})
    assert set(same.values()) == {(0.001, 0.0), (0.05, 0.1)} and same["head.weight"] == (0.001, 0.0)


@pytest.mark.parametrize("slower", [{}, {"nothing": 0.001}])
def test_without_such_parts_all_parameters_learn_alike(slower):
    assert set(rates_and_decay(parts(), slower).values()) == {(0.05, 0.1)}
    assert set(rates_and_decay(torch.nn.Linear(2, 2), slower)) == {"weight", "bias"}


def test_all_of_a_model_may_have_its_own_rate():
    assert set(rates_and_decay(parts(), {"": 0.001}).values()) == {(0.001, 0.0)}


def test_fit_moves_slower_parts_by_their_rate():
    """One step of Adam moves a weight by its rate; with weight decay in the others alone."""
    model = torch.nn.ModuleDict(
        {"text": torch.nn.Linear(1, 1, bias=False), "head": torch.nn.Linear(1, 1, bias=False)}
    )
    for part in model.values():
        torch.nn.init.constant_(part.weight, 2.0)
    fit(
        model,
        lambda rows: -sum(part.weight.sum() for part in model.values()),
        torch.arange(4),
        lambda: 0.0,
        parameters(epochs=1, weight_decay=0.1),
        0,
        "test/slower",
        {"text.": 0.001},
    )
    assert model["text"].weight.item() == pytest.approx(2 + 0.001, abs=1e-6)
    assert model["head"].weight.item() == pytest.approx(2 * (1 - 0.05 * 0.1) + 0.05, abs=1e-6)


def test_without_slower_parts_fit_is_as_before():
    (one, first), (two, second) = line(epochs=3), line(epochs=3)
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)

    def loss(rows):
        return (model(X[rows]) - 3 * X[rows] - 1).square().mean()

    third = fit(
        model,
        loss,
        torch.arange(32),
        lambda: float(loss(torch.arange(32))),
        parameters(epochs=3),
        0,
        "test/line",
        {},
    )
    assert (
        first == second == third
        and torch.equal(one.weight, two.weight)
        and torch.equal(one.weight, model.weight)
    )


# The schedule of the learning rate


def test_a_constant_rate_stays():
    assert {rate_factor("constant", taken, 50) for taken in range(50)} == {1.0}


def test_a_cosine_rises_for_a_tenth_of_the_steps_and_falls_to_0():
    factors = [rate_factor("cosine", taken, 200) for taken in range(200)]
    assert factors[0] == pytest.approx(1 / 20)
    assert np.argmax(factors) == 19
    assert factors[100] == pytest.approx(0.5)
    # PyTorch's own schedule, without the rise.
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for taken in range(200):
        if taken >= 19:
            assert factors[taken] == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        reference.step()
    assert factors[-1] < 0.001


def test_fit_moves_weights_as_the_schedule_says():
    """A step of Adam under a constant gradient moves a weight by its learning rate."""
    ends = []
    for schedule in ("constant", "cosine"):
        weight = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(weight.weight, 2.0)
        fit(
            weight,
            lambda rows, weight=weight: weight.weight.sum(),
            torch.arange(16),
            iter(range(100, 0, -1)).__next__,
            parameters(epochs=5, schedule=schedule, learning_rate=0.01, averaging=0.0),
            0,
            "test/schedule",
        )
        ends.append(2.0 - weight.weight.item())
    expected = sum(rate_factor("cosine", taken, 10) for taken in range(10))
    assert ends[0] == pytest.approx(10 * 0.01, rel=1e-4)
    assert ends[1] == pytest.approx(expected * 0.01, rel=1e-4)


# Checkpoints


X2 = torch.linspace(-1, 1, 64).view(32, 2)


class Network(torch.nn.Module):
    """Dropout draws from PyTorch's own generator; two names of one tensor, as tied weights have."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.drop = (
            torch.nn.Linear(2, 2),
            torch.nn.Linear(2, 2),
            torch.nn.Dropout(0.3),
        )
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.drop(self.one(x)))


class Killed(BaseException):
    pass


def die():
    raise Killed


def die_by_kill_9():
    os.kill(os.getpid(), signal.SIGKILL)


def trained(
    kill_at: int | None = None,
    key: str = "data",
    target: float = 3.0,
    seed: int = 0,
    die=die,
    **changes,
):
    """Weights and curve of a training with dropout, noise, averages; killed in step `kill_at`."""
    torch.manual_seed(seed)
    model, own, steps = Network(), torch.Generator().manual_seed(7), 0

    def loss(rows):
        nonlocal steps
        steps += model.training
        if steps == kill_at:
            die()
        noise = torch.randn(len(rows), 2, generator=own) * model.training
        return (model(X2[rows] + 0.1 * noise) - target * X2[rows]).square().mean()

    def validate() -> float:
        return loss(torch.arange(32)).item()

    p = parameters(
        **{"epochs": 12, "patience": 12, "averaging": 0.9, "weight_decay": 0.1, **changes}
    )
    checkpoint = loop.Checkpoint(key, (own,), every_s=0)
    curve = fit(
        model, loss, torch.arange(32), validate, p, seed, "test/resumed", {"two.": 0.01}, checkpoint
    )
    return model.state_dict(), curve, steps


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def store(workspace, monkeypatch):
    monkeypatch.setattr("audio_from_video.learning.checkpoints.MAX_SHARE", float("inf"))
    return workspace.folder / "items/checkpoints"


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("kill_at", [1, 6, 27, 48])  # of 48 steps
def test_a_killed_training_ends_with_the_same_weights(store, kill_at, schedule):
    weights, curve, _ = trained(key="undisturbed", schedule=schedule)
    assert list(store.iterdir()) == []
    with pytest.raises(Killed):
        trained(kill_at, schedule=schedule)
    torch.rand(17)  # whatever else the process drew
    resumed, again, steps = trained(schedule=schedule)
    assert same(weights, resumed) and curve == again
    assert steps == 48 - (kill_at - 1) // 4 * 4
    assert list(store.iterdir()) == []


@pytest.mark.slow
def test_kill_9_in_a_training_leaves_what_another_process_goes_on_from(store):
    weights, curve, _ = trained(key="undisturbed")
    program = (
        "from audio_from_video.learning import checkpoints\n"
        "from tests.learning.test_loop import die_by_kill_9, trained\n"
        "checkpoints.MAX_SHARE = float('inf')\ntrained({}, die=die_by_kill_9)"
    )
    for step in (27, 6):  # in the seventh epoch of twelve, and, in another process, in the eighth
        done = subprocess.run(
            [sys.executable, "-c", program.format(step)], env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert done.returncode == -signal.SIGKILL
    resumed, again, steps = trained()
    assert steps == 5 * 4 and same(weights, resumed) and curve == again
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"key": "other data"},
        {"seed": 1},
        {"learning_rate": 0.04},
        {"batch_size": 4},
        {"epochs": 13},
    ],
)
def test_other_data_seed_or_parameters_begin_anew(store, changes):
    with pytest.raises(Killed):
        trained(30)
    _, curve, steps = trained(**changes)
    assert steps == len(curve) * 32 // changes.get("batch_size", 8)
    assert len(list(store.iterdir())) == 1  # the other's is left to it


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_damaged_checkpoint_is_told_and_not_used(store, capsys, part):
    with pytest.raises(Killed):
        trained(30)
    (path,) = store.iterdir()
    data = bytearray(path.read_bytes())
    data[int(len(data) * part)] ^= 255
    path.write_bytes(data)
    resumed, curve, steps = trained()
    assert steps == 48 and "is damaged" in capsys.readouterr().err
    assert same(trained(key="undisturbed")[0], resumed)


def test_checkpoints_wait_for_their_time(store):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    checkpoint = loop.Checkpoint("k", every_s=3600)
    fit(
        model,
        lambda rows: model(X[rows]).mean(),
        torch.arange(32),
        lambda: 0.0,
        parameters(epochs=2),
        0,
        "n",
        None,
        checkpoint,
    )
    assert not store.exists()


def test_a_training_that_explodes_keeps_its_best_weights(store):
    model, epochs = torch.nn.Linear(1, 1), []

    def loss(rows):
        return model(X[rows]).square().sum() * (float("nan") if len(epochs) == 2 else 1)

    def validate() -> float:
        epochs.append(copy.deepcopy(model.state_dict()))
        return [2.0, 1.0][len(epochs) - 1]

    with pytest.raises(
        UserError,
        match=r"test/nan became nan in epoch 3: .*the weights of epoch 2 in .*-best.safetensors",
    ):
        fit(
            model,
            loss,
            torch.arange(32),
            validate,
            parameters(),
            0,
            "test/nan",
            None,
            loop.Checkpoint("k", every_s=0),
        )
    (best,) = store.glob("*-best.safetensors")
    assert same(epochs[1], load_file(best))

"""AdamW against PyTorch's own class."""

import subprocess
import sys

import pytest
import torch

from audio_from_video.learning.optimizer import AdamW
from tests.support.closure import ROOT

RATES = (0.01, 0.001)
DECAYS = (0.1, 0.0)


def network() -> torch.nn.ModuleList:
    torch.manual_seed(0)
    return torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)])


def loss(model: torch.nn.ModuleList, step: int) -> torch.Tensor:
    torch.manual_seed(step)
    hidden = model[0](torch.randn(8, 3)).tanh()
    return model[1](hidden).square().mean()


def test_weights_and_moments_are_those_of_pytorchs_class():
    ours = network()
    theirs = network()
    frozen = torch.nn.Parameter(torch.ones(2))  # it never has a gradient
    groups = []
    reference_groups = []
    for part, reference, rate, decay in zip(ours, theirs, RATES, DECAYS, strict=True):
        groups.append(
            {
                "params": [frozen, *part.parameters()],
                "learning_rate": rate,
                "weight_decay": decay,
            }
        )
        reference_groups.append(
            {"params": list(reference.parameters()), "lr": rate, "weight_decay": decay}
        )
    optimizer = AdamW(groups)
    reference_optimizer = torch.optim.AdamW(reference_groups, foreach=False, fused=False)

    for step in range(5):
        reference_optimizer.zero_grad()
        loss(theirs, step).backward()
        reference_optimizer.step()
        optimizer.zero_grad()
        loss(ours, step).backward()
        optimizer.step()

    torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()))
    assert sorted(optimizer.moments) == [1, 2, 4, 5]
    assert frozen.tolist() == [1, 1]
    state = reference_optimizer.state_dict()["state"]
    torch.testing.assert_close(optimizer.moments[5]["exp_avg_sq"], state[3]["exp_avg_sq"])
    assert optimizer.moments[5]["step"] == 5


def test_a_step_at_half_the_rate_moves_half_as_far():
    ends = []
    for rate in (1.0, 0.5):
        weight = torch.nn.Parameter(torch.tensor([2.0]))
        optimizer = AdamW([{"params": [weight], "learning_rate": 0.1, "weight_decay": 0.0}])
        weight.sum().backward()
        optimizer.step(rate)
        ends.append(weight.item())
    # The first step of Adam has the length of its learning rate.
    torch.testing.assert_close(ends, [1.9, 1.95])


@pytest.mark.slow
def test_a_training_does_not_import_the_compiler():
    script = (
        "import sys, torch\n"
        "from audio_from_video.learning.loop import fit\n"
        "from audio_from_video.learning.settings import TrainingParams\n"
        "model = torch.nn.Linear(1, 1)\n"
        "p = TrainingParams(learning_rate=0.1, weight_decay=0.1, batch_size=2, epochs=1,"
        " patience=1, averaging=0.5)\n"
        "loss = lambda rows: model(torch.ones(len(rows), 1)).square().mean()\n"
        "fit(model, loss, torch.arange(4), lambda: 0.0, p, 0, 'test')\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

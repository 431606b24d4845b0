"""Dropout against what it is defined to be."""

import pytest
import torch

from audio_from_video.learning.dropout import Dropout


@pytest.mark.parametrize("rate", [0.2, 0.75])
def test_a_share_of_values_is_dropped_and_the_mean_stays(rate):
    torch.manual_seed(0)
    values = torch.full((200, 500), 3.0)
    found = Dropout(rate)(values)
    dropped = found == 0
    assert dropped.float().mean().item() == pytest.approx(rate, abs=0.005)
    torch.testing.assert_close(found[~dropped], values[~dropped] / (1 - rate))
    # Each row and each column alike, and no row like another.
    assert (dropped.float().mean(0) - rate).abs().max() < 0.15
    assert not torch.equal(dropped[0], dropped[1])


def test_gradients_pass_where_values_were_kept():
    torch.manual_seed(0)
    values = torch.ones(50, requires_grad=True)
    found = Dropout(0.5)(values)
    found.sum().backward()
    torch.testing.assert_close(values.grad, found.detach())


def test_the_same_seed_drops_the_same_values():
    values = torch.ones(100)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(Dropout(0.5)(values))
    assert torch.equal(*results)


def test_nothing_is_dropped_in_evaluation_or_at_rate_0():
    values = torch.randn(10)
    assert Dropout(0.0)(values) is values
    assert Dropout(0.5).eval()(values) is values

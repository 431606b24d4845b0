"""AdamW by PyTorch's function of that name.

The class torch.optim.AdamW imports torch._dynamo, which takes every process of a stage 1.2 CPU
seconds: as long as a short training.
"""

import torch
from torch.optim.adamw import adamw

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) over groups of parameters, fused.

    groups: dicts with the group's parameters `params`, its `learning_rate` and its `weight_decay`.
    moments: by the parameter's number its `step`, `exp_avg` and `exp_avg_sq`; a parameter that has
    had no gradient yet has none.
    """

    def __init__(self, groups: list[dict]):
        self.groups = groups
        self.moments: dict[int, dict[str, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float = 1.0) -> None:
        """Move all parameters that have a gradient.

        rate: what learning rates are multiplied by.
        """
        first = 0
        for group in self.groups:
            numbered = list(enumerate(group["params"], start=first))
            first += len(numbered)
            moved = [(number, one) for number, one in numbered if one.grad is not None]
            if not moved:
                continue
            parameters = [parameter for _, parameter in moved]
            moments = [self._moments_of(number, parameter) for number, parameter in moved]
            adamw(
                parameters,
                [parameter.grad for parameter in parameters],
                [own["exp_avg"] for own in moments],
                [own["exp_avg_sq"] for own in moments],
                [],
                [own["step"] for own in moments],
                fused=True,
                amsgrad=False,
                beta1=BETA_1,
                beta2=BETA_2,
                lr=rate * group["learning_rate"],
                weight_decay=group["weight_decay"],
                eps=EPSILON,
                maximize=False,
            )

    def _moments_of(self, number: int, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameter's moments; zeros before its first step."""
        if number not in self.moments:
            self.moments[number] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.moments[number]

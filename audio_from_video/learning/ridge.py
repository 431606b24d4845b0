"""Ridge regression from normal equations, which can be summed over parts of the data."""

import torch


def ridge_weights(products: torch.Tensor, targets: torch.Tensor, penalty: float) -> torch.Tensor:
    """Return the weights [D, A] that minimise |x w - y|^2 + penalty |w|^2.

    products: x^T x, [D, D]; targets: x^T y, [D, A]; both float64.
    """
    identity = torch.eye(len(products), dtype=torch.float64)
    return torch.linalg.solve(products + penalty * identity, targets)

"""One step of Synergy-of-Experts as usually released: experts in a list, an optimizer for each, every source attacked
by `pgd`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.reference.attacks import Noise, pgd

STEPS = 10


class ChoosingModel(nn.Module):
    """The output of each image's most confident expert; an expert's `heads` gives logits and the evaluator's raw
    output.
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, x: Tensor) -> Tensor:
        outputs, confidences = [], []
        for expert in self.experts:
            logits, raw = expert.heads(x)  # type: ignore[operator]
            outputs.append(logits)
            confidences.append(F.softmax(logits, dim=1).max(dim=1)[0] * torch.sigmoid(raw).squeeze(1))
        chosen = torch.stack(confidences, dim=1).argmax(dim=1).detach()
        return torch.stack(outputs, dim=1)[torch.arange(len(x)), chosen]


class SynergyTrainer:
    """Both phases (Cui et al. 2022, Algorithms 1 and 2): smooth minimum with sigma 1, rectified confidence, lambda 1,
    clean term.
    """

    def __init__(self, experts: Sequence[nn.Module], learning_rate: float) -> None:
        self.experts = list(experts)
        self.whole = ChoosingModel(self.experts)
        self.optimizers = [
            torch.optim.SGD(expert.parameters(), learning_rate, 0.9, weight_decay=1e-4) for expert in self.experts
        ]

    def step(
        self, x: Tensor, y: Tensor, noises: Sequence[Noise], epsilon: float, step_size: float, phase: int
    ) -> float:
        """noises: the start's displacement for each source."""
        attacked = self.experts if phase == 1 else [self.whole]
        x_adv = torch.cat(
            [pgd(model, x, y, noise, epsilon, step_size, STEPS) for model, noise in zip(attacked, noises, strict=True)]
        )
        self.whole.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss = self.loss(x, y) + self.loss(x_adv, y.repeat(len(attacked)))
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.item()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        losses, confidence_losses = [], []
        for expert in self.experts:
            logits, raw = expert.heads(x)  # type: ignore[operator]
            losses.append(F.cross_entropy(logits, y, reduction="none"))
            probabilities = F.softmax(logits, dim=1)
            largest, predicted = probabilities.max(dim=1)
            right = (predicted == y).to(x.dtype)
            largest = largest * (1 - right) + largest.detach() * right
            confidence = largest * torch.sigmoid(raw).squeeze(1)
            true = probabilities.gather(1, y.unsqueeze(1)).squeeze(1).detach()
            confidence_losses.append(F.binary_cross_entropy(confidence, true))
        surrogate = -torch.log(torch.exp(-torch.stack(losses, dim=1)).sum(dim=1))
        return surrogate.mean() + torch.stack(confidence_losses).mean()

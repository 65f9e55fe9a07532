"""A substitute: a small network trained on nothing but the answers of the one under inspection (Papernot et al.
2017).
"""

from __future__ import annotations

import torch
from torch import nn

from poise.core.modes import training
from poise.core.seeds import Draw, everyone, key_of
from poise.evaluation.sanity.subject import Subject
from poise.losses import cross_entropy
from poise.models import DigitsCNN

_BATCH = 64


def substitute_of(subject: Subject) -> nn.Module:
    """A DigitsCNN in evaluating mode that imitates the predicted labels on the images and on random images around them.

    Its weights and its queries depend on the subject's seed only.
    """
    x, steps = subject.x, subject.effort.substitute_steps
    channels, height, width = x.shape[1:]
    network = DigitsCNN().build((channels, height, width), subject.classes, subject.seed).to(x.device, x.dtype)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    where = everyone(subject.seed, "sanity", "substitute", count=min(_BATCH, len(x)), device=x.device)
    with training(network):
        for step in range(steps):
            draw = Draw(key_of(where.key, step), where.index)
            rows = draw.integers(len(x), 1)[:, 0]
            z = subject.threat.random_start(x[rows], draw) if step % 2 else x[rows]
            loss = cross_entropy(network(z), subject.logits(z).argmax(1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()

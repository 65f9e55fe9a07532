"""What tells networks and images apart from all others, for records, journals and sets of adversarial images."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from poise.data.dataset import Split


def digest_of(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and bytes of all weights and buffers, those that no checkpoint keeps too."""
    digest = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_buffers()), **model.state_dict()}.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def digest_of_images(split: Split) -> str:
    """SHA-256 over shapes, pixels, labels and numbers of the images."""
    digest = hashlib.sha256(str([len(split), *split.shape]).encode())
    for tensor in (*split.parts(), split.labels, split.ids):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()

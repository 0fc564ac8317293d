"""Where tensors live: the ``device`` argument that every estimator and transformer takes."""

from __future__ import annotations

import torch

__all__ = ["resolve_device"]


def resolve_device(device: str | torch.device) -> torch.device:
    """The torch device of the ``device`` argument; "auto" is CUDA where there is one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'auto' or a torch device, got {device!r}") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}, but this torch sees no CUDA device; use device='cpu'")
    if resolved.type != "cpu":
        _require_usable(resolved)
    return resolved


def _require_usable(device: torch.device) -> None:
    """Raises ValueError where no number can be taken to the device and back: one that this torch or machine lacks."""
    try:
        torch.zeros(1, device=device).cpu()
    except torch.OutOfMemoryError:  # it is there, and full
        raise
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".!")  # torch goes on for pages
        raise ValueError(
            f"device='{device}' cannot be used with this torch on this machine ({reason}); use device='cpu'"
        ) from error

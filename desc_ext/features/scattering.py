"""The wavelet scattering transform of images: its filters and its paths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from desc_ext.fixed_shapes import row_linear

__all__ = ["Scattering"]

_PERIODS = 2  # copies of a filter added on either side, so that it is periodic on the grid


class Scattering:
    """Wavelet scattering of images [n, H, W]: x ⋆ φ, |x ⋆ ψ_λ| ⋆ φ and ||x ⋆ ψ_λ| ⋆ ψ_μ| ⋆ φ.

    ψ_λ are Morlet wavelets at J scales 2^j and L angles, φ is a Gaussian of scale 2^J, and j_μ > j_λ (Bruna and
    Mallat, Invariant scattering convolution networks, 2013; the filters are those of kymatio, which rounds them to
    single precision). Images are padded to the next power of two in height and width, at least 2^J, by reflection
    without repeating the edge, half on each side and the odd pixel at the end; convolutions are periodic on that
    grid, and results are taken every 2^J pixels of it: 28×28 gives 4×4.

    Args:
        height, width: H and W.
        J: scales.
        L: angles.
        dtype, device: of the filters and so of the images.

    Attributes:
        padded_shape: height and width of the padded images.
        n_paths: P = 1 + L·J + L²·J(J − 1)/2.
        map_shape: height and width of a path's map.
    """

    @staticmethod
    def sizes(height: int, width: int, J: int, L: int) -> tuple[tuple[int, int], tuple[int, int], int]:
        """``padded_shape``, ``map_shape`` and ``n_paths``, without the filters."""
        padded = max(2**J, 1 << (height - 1).bit_length()), max(2**J, 1 << (width - 1).bit_length())
        return padded, (padded[0] >> J, padded[1] >> J), 1 + L * J + L * L * J * (J - 1) // 2

    def __init__(
        self,
        height: int,
        width: int,
        J: int = 3,
        L: int = 8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.J, self.L = J, L
        self.padded_shape, self.map_shape, self.n_paths = self.sizes(height, width, J, L)
        sizes = self.padded_shape
        self._pad = [
            _reflection(size, padded).to(device) for size, padded in zip((height, width), sizes, strict=True)
        ]
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        psi = [
            torch.stack([_morlet(sizes[0], sizes[1], j, angle, L) for angle in range(L)]) for j in range(J)
        ]
        # for maps at every resolution 2^-r; folding adds 4^(j − r) aliases, of which the mean is wanted
        self._psi = {
            (j, r): (_crop(psi[j], r) / 4 ** (j - r)).to(**place) for j in range(J) for r in range(max(j, 1))
        }
        self._phi = [tuple(_averages(size, J, r).to(**place) for size in sizes) for r in range(J)]

    def __call__(self, x: Tensor) -> Tensor:
        """Paths [n, P, H', W'] of images ``x`` [n, H, W]: order 0, order 1 by (j, angle), order 2 by (λ, μ)."""
        rows, columns = self._pad
        x = x[:, rows[:, None], columns]
        paths = [self._average(x, 0)[:, None]]
        spectrum = torch.fft.fft2(x)
        second = []
        for j in range(self.J):
            first = self._modulus(spectrum, j, 0)
            paths.append(self._average(first, j))
            if j == self.J - 1:
                break  # no coarser scale is left for order 2
            spectra = torch.fft.fft2(first)
            parts = [
                self._average(self._modulus(spectra, i, j), i).view(len(x), self.L, self.L, *self.map_shape)
                for i in range(j + 1, self.J)
            ]
            second.append(torch.cat(parts, 2).flatten(1, 2))
        return torch.cat(paths + second, 1)

    def _average(self, maps: Tensor, r: int) -> Tensor:
        """maps ⋆ φ every 2^J pixels, of maps at resolution 2^-r."""
        (*batch, height, width), (rows, columns) = maps.shape, self._phi[r]
        lines = row_linear(maps.reshape(-1, width), columns).view(-1, height, len(columns)).mT
        averages = row_linear(lines.reshape(-1, height), rows).view(*batch, len(columns), len(rows))
        return averages.mT

    def _modulus(self, spectrum: Tensor, j: int, r: int) -> Tensor:
        """|maps ⋆ ψ_j| [.., L, h, w] at resolution 2^-j, from the spectrum of maps at resolution 2^-r."""
        psi, spectrum = self._psi[j, r], spectrum.unsqueeze(-3)
        height, width = (size >> (j - r) for size in psi.shape[-2:])
        folded = None
        for top in range(0, psi.shape[-2], height):
            for left in range(0, psi.shape[-1], width):
                block = (..., slice(top, top + height), slice(left, left + width))
                if folded is None:
                    folded = spectrum[block] * psi[block]
                else:
                    folded.addcmul_(spectrum[block], psi[block])
        maps = torch.fft.ifft2(folded)
        # abs guards against overflow at four times the cost
        return torch.addcmul(maps.real.square(), maps.imag, maps.imag).sqrt_()


def _reflection(size: int, padded: int) -> Tensor:
    """The number of the pixel at each position of a padded line."""
    before = (padded - size) // 2
    return torch.from_numpy(np.pad(np.arange(size), (before, padded - size - before), mode="reflect"))


def _gabor(height: int, width: int, sigma: float, angle: float, frequency: float, slant: float) -> Tensor:
    """An oriented Gaussian envelope times a wave, made periodic, complex128 [height, width]."""
    x, y = (torch.arange(-_PERIODS * n, (_PERIODS + 1) * n, dtype=torch.float64) for n in (height, width))
    along = math.cos(angle) * x[:, None] + math.sin(angle) * y
    across = slant * (math.cos(angle) * y - math.sin(angle) * x[:, None])
    wave = torch.exp(torch.complex(-(along**2 + across**2) / (2 * sigma**2), frequency * along))
    wave *= slant / (2 * math.pi * sigma**2)
    return wave.view(2 * _PERIODS + 1, height, 2 * _PERIODS + 1, width).sum((0, 2))


def _morlet(height: int, width: int, j: int, number: int, L: int) -> Tensor:
    """Spectrum (real) of the wavelet of scale 2^j and the given angle; its mean is zero."""
    angle, slant = (int(L - L / 2 - 1) - number) * math.pi / L, 4 / L
    wave = _gabor(height, width, 0.8 * 2**j, angle, 0.75 * math.pi / 2**j, slant)
    envelope = _gabor(height, width, 0.8 * 2**j, angle, 0.0, slant)
    return torch.fft.fft2(wave - wave.sum() / envelope.sum() * envelope).real


def _crop(spectrum: Tensor, r: int) -> Tensor:
    """The low frequencies of a spectrum: what is left of it at resolution 2^-r."""
    if not r:
        return spectrum
    for dim in (-2, -1):
        size, half = spectrum.shape[dim], spectrum.shape[dim] >> (r + 1)
        ends = [spectrum.narrow(dim, 0, half), spectrum.narrow(dim, size - half, half)]
        spectrum = torch.cat(ends, dim)
    return spectrum


def _averages(size: int, J: int, r: int) -> Tensor:
    """φ along one axis [size/2^J, size/2^r]: from a line at resolution 2^-r to its averages every 2^J pixels."""
    sigma = 0.8 * 2 ** (J - 1)
    x = torch.arange(-_PERIODS * size, (_PERIODS + 1) * size, dtype=torch.float64)
    line = torch.exp(-(x**2) / (2 * sigma**2)).view(-1, size).sum(0) / (math.sqrt(2 * math.pi) * sigma)
    spectrum, half = torch.fft.fft(line).real, size >> (r + 1)
    if r:
        spectrum = torch.cat([spectrum[:half], spectrum[size - half :]])
    line = torch.fft.ifft(spectrum).real
    centres = torch.arange(size >> J)[:, None] << (J - r)
    return line[(centres - torch.arange(size >> r)) % (size >> r)]

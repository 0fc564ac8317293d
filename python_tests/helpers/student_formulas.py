"""Assignments and targets of DEC and its kin in NumPy, from the papers' formulas."""

from __future__ import annotations


def student_t(z, centroids):
    q = 1 / (1 + ((z[:, None] - centroids) ** 2).sum(2))
    return q / q.sum(1, keepdims=True)


def sharpened(q, frequency):
    p = q**2 / frequency
    return p / p.sum(1, keepdims=True)

"""Operators: fast kernels for subspace clustering, as differentiable torch functions.

Every function has a kernel of the same name under ``torch.ops.desc_ext`` and a definition in plain torch under
:mod:`desc_ext.reference`. All work under ``torch.compile(fullgraph=True)`` and autocast (float16 and bfloat16 rows
meet float32 bases; arithmetic and results are float32), take non-contiguous and empty input, and give the same bits from
run to run and for any number of threads. Values are not scanned: a row with NaN or infinity spoils its own results
and the sums it enters, nothing else. First derivatives only; a second one raises.
"""

from desc_ext import library_path  # noqa: F401  (loads the operators that the modules below register gradients for)
from desc_ext.ops.assignment import student_t_assignment, subspace_soft_assignment, target_distribution
from desc_ext.ops.orthogonality import block_orthogonality_penalty
from desc_ext.ops.pairwise import (
    CollaborativeLoss,
    collaborative_loss,
    info_nce,
    laplacian_energy,
    squared_l12_norm,
)
from desc_ext.ops.projection import (
    nearest_subspace,
    projection_energy,
    projection_residual,
    weighted_projection_loss,
)
from desc_ext.ops.segments import segment_gram
from desc_ext.ops.self_expression import (
    affinity_row_max,
    coefficient_topk,
    dense_coefficients,
    ridge_self_expression,
    self_expression_residual,
)

__all__ = [
    "CollaborativeLoss",
    "affinity_row_max",
    "block_orthogonality_penalty",
    "coefficient_topk",
    "collaborative_loss",
    "dense_coefficients",
    "info_nce",
    "laplacian_energy",
    "nearest_subspace",
    "projection_energy",
    "projection_residual",
    "ridge_self_expression",
    "segment_gram",
    "self_expression_residual",
    "squared_l12_norm",
    "student_t_assignment",
    "subspace_soft_assignment",
    "target_distribution",
    "weighted_projection_loss",
]

"""Self-expression beside the closed form of LSR: every row by few others, as the methods of the literature find them.

Each function returns the largest coefficients of every row, (indices int64 [n, k], values [n, k]), and stores no n×n array.
"""

from desc_ext.algorithms.expression.elastic_net import elastic_net_coefficients
from desc_ext.algorithms.expression.low_rank import low_rank_coefficients, low_rank_factor
from desc_ext.algorithms.expression.matching_pursuit import orthogonal_matching_pursuit

__all__ = [
    "elastic_net_coefficients",
    "low_rank_coefficients",
    "low_rank_factor",
    "orthogonal_matching_pursuit",
]

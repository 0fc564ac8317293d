"""Pictures of a clustering, as matplotlib figures that touch none of matplotlib's global state."""

from desc_ext.plots.clusters import affinity_figure, examples_figure, rows_by_cluster, sizes_figure
from desc_ext.plots.curves import curves_figure
from desc_ext.plots.embedding import embedding_figure
from desc_ext.plots.projection import Projection, project_to_plane
from desc_ext.plots.saving import save_pictures
from desc_ext.plots.spectrum import spectrum_figure
from desc_ext.plots.speed import speed_figure
from desc_ext.plots.style import cluster_colors, save_figure

__all__ = [
    "Projection",
    "affinity_figure",
    "cluster_colors",
    "curves_figure",
    "embedding_figure",
    "examples_figure",
    "project_to_plane",
    "rows_by_cluster",
    "save_figure",
    "save_pictures",
    "sizes_figure",
    "spectrum_figure",
    "speed_figure",
]

"""Mathematics without estimators: k-means, k-subspaces, spectral clustering, self-expression, losses of single methods."""

"""Mathematics without estimators: k-means, k-subspaces, spectral clustering, the closed form, losses of single methods."""

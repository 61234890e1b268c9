"""Data at rest outside the catalog: sealed arrays on TensorStore (zarr v3), raw sources as content-addressed blobs."""

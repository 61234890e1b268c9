"""Teaching: corpora, synthetic recall text, windows, optimisers and the loop that the recipes run."""

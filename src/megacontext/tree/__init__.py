"""Pure arithmetic of levels, spans, parents, covers and cuts. No input or output, no torch."""

"""What makes gists without training: one technique, one file. Importing this room does not load torch."""

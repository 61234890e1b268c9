"""What is measured: one task per file, each a generator of histories with questions or continuations."""

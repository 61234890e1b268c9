"""What is learned: the native core, GistNet and LensNet. Pure torch, no I/O; shapes are known without."""

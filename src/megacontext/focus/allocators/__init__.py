"""From scores to cuts within budget, one allocator per file; ``registry`` names them."""

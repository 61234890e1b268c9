"""Where detail pays, one lens per file; ``registry`` names them."""

"""Teaching: corpora, synthetic recall text, windows, optimisers and the loop that the recipes run."""

from megacontext.bases.quantization import quiet_quantization

quiet_quantization()  # recipes import transformers, and they have nothing to do with what it says of torchao

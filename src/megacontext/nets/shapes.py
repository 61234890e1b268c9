"""The shapes of the nets, and of every weight in them: what a folder says of its model can be held against this.

They stand apart from the nets because nothing here needs torch, as memories are made without it.

Shape legend: D width, H query heads, G key-value heads, E head dimension, M hidden width, V vocabulary, P pooling heads
times their dimension, F features, W word heads, Q query tokens, L levels, T words and features that are told.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.errors import InvalidValueError
from megacontext.values import flag, number, shown, texts, whole_number

__all__ = [
    "FEATURES",
    "NUM_LEVEL_KINDS",
    "NUM_SHIFTS",
    "QUERY_TOKENS",
    "STAKE_LEVELS",
    "TOKENS_BEFORE",
    "WORD_KINDS",
    "CoreConfig",
    "GistNetConfig",
    "LensNetConfig",
    "WeightShapes",
]

WeightShapes = dict[str, tuple[int, ...]]
"""Shapes of weights by name, as a safetensors file has them."""

MOST_LAYERS = 1000  # each is built on its own, so that a wrong number would take hours
MOST_HEADS = 1000
NUM_SHIFTS = 2  # entries before each that a core's embeddings see
NUM_LEVEL_KINDS = 2  # of gists: made of tokens; made of gists
# What a lens may know of an entry beside its vectors, scaled to about [0, 1] by who fills it in. Level and width are
# those of one block wherever a lens is taught or asked today, and residency is 0.
FEATURES = (
    "level",
    "log2_width",
    "log2_distance",
    "lexical",
    "residency",
    "continues",
    "lexical_8",
    "lexical_32",
)
QUERY_TOKENS = 64  # last tokens of the window whose states ask, in training and in sessions
WORD_KINDS = 4  # a token, a token with the one before it, and both right before the span
TOKENS_BEFORE = 16  # right before a span that are compared, too
STAKE_LEVELS = 2  # of the gist that stands for a span: its own, or one of level 2 and above


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """The shape of a core. head_dim is independent of width; mlp_width is that of one SwiGLU branch."""

    vocab_size: int = 4096
    width: int = 256
    num_layers: int = 5
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    mlp_width: int = 704
    rotary_dims: int = 32  # of each head; the rest is free of position
    rotary_base: float = 1e4
    num_slow_bands: int = 0  # rotary pairs that tell places in histories of up to 2^40 tokens apart
    max_positions: int = 4096  # the longest window it is trained for
    learns_sigma: bool = False  # a learned factor on every sigma

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "head_dim", "mlp_width", "max_positions"):
            whole_number(name, getattr(self, name), least=1)
        whole_number("num_layers", self.num_layers, least=1, most=MOST_LAYERS)
        for name in ("num_heads", "num_kv_heads"):
            whole_number(name, getattr(self, name), least=1, most=MOST_HEADS)
        number("rotary_base", self.rotary_base, above=1)
        flag("learns_sigma", self.learns_sigma)
        if self.num_heads % self.num_kv_heads:
            raise InvalidValueError(
                f"num_heads is {self.num_heads}; it must be a multiple of num_kv_heads ({self.num_kv_heads})"
            )
        whole_number("rotary_dims", self.rotary_dims, least=None)
        if self.rotary_dims % 2 or not 0 < self.rotary_dims < self.head_dim:
            raise InvalidValueError(
                f"rotary_dims is {self.rotary_dims}; it must be even and between 2 and {self.head_dim - 1}"
            )
        whole_number("num_slow_bands", self.num_slow_bands, least=None)
        if not 0 <= self.num_slow_bands <= self.rotary_dims // 2:
            raise InvalidValueError(
                f"num_slow_bands is {self.num_slow_bands}; it must be between 0 and {self.rotary_dims // 2}"
            )

    @property
    def weights(self) -> WeightShapes:
        """Those of a ``Core``."""
        width, mlp_width, head_dim, num_kv_heads = self.width, self.mlp_width, self.head_dim, self.num_kv_heads
        asked, kept = (self.num_heads * head_dim, width), (num_kv_heads * head_dim, width)
        of_layer: WeightShapes = {
            "attention_norm.weight": (width,),
            "attention.q_proj.weight": asked,
            "attention.k_proj.weight": kept,
            "attention.v_proj.weight": kept,
            "attention.o_proj.weight": asked[::-1],
            "attention.q_gain": (head_dim,),
            "attention.k_gain": (head_dim,),
            "attention.gist_bias": (num_kv_heads,),
            "mlp_norm.weight": (width,),
            "mlp.gate.weight": (mlp_width, width),
            "mlp.up.weight": (mlp_width, width),
            "mlp.down.weight": (width, mlp_width),
        }
        return {
            "embed_tokens.weight": (self.vocab_size, width),
            **{f"shifts.{number}.weight": (width, width) for number in range(NUM_SHIFTS)},
            **_of_each_layer(of_layer, self.num_layers),
            "norm.weight": (width,),
            "head.weight": (self.vocab_size, width),
            "log_sigma_scale": (),
        }


@dataclass(frozen=True, kw_only=True)
class GistNetConfig:
    """width: that of the core's embeddings. num_features: sines and cosines that tell places inside a span apart."""

    width: int = 256
    num_layers: int = 2
    num_heads: int = 4
    mlp_width: int = 384
    num_pool_heads: int = 16
    pool_head_dim: int = 32
    num_features: int = 64

    def __post_init__(self) -> None:
        for name in ("width", "mlp_width", "pool_head_dim"):
            whole_number(name, getattr(self, name), least=1)
        whole_number("num_layers", self.num_layers, least=1, most=MOST_LAYERS)
        for name in ("num_heads", "num_pool_heads"):
            whole_number(name, getattr(self, name), least=1, most=MOST_HEADS)
        if whole_number("num_features", self.num_features, least=2) % 2:
            raise InvalidValueError(f"num_features is {self.num_features}; choose an even number")
        if self.width % self.num_heads:
            raise InvalidValueError(f"width is {self.width}; it must be a multiple of num_heads ({self.num_heads})")

    @property
    def weights(self) -> WeightShapes:
        """Those of a ``GistNet``."""
        width, pooled = self.width, (self.num_pool_heads * self.pool_head_dim, self.width)
        mlp: WeightShapes = {"up.weight": (self.mlp_width, width), "down.weight": (width, self.mlp_width)}
        of_layer: WeightShapes = {"qkv.weight": (3 * width, width), "out.weight": (width, width), **mlp}
        return {
            "place.weight": (width, self.num_features),
            **_of_each_layer(of_layer, self.num_layers),
            "slot_query.weight": (pooled[0], self.num_features + 1),
            "slot_query.bias": pooled[:1],
            "pool_key.weight": pooled,
            "pool_value.weight": pooled,
            "pool_out.weight": pooled[::-1],
            **mlp,
            **dict.fromkeys(("level_scale", "mean_gain", "level_shift"), (NUM_LEVEL_KINDS, width)),
        }


@dataclass(frozen=True, kw_only=True)
class LensNetConfig:
    """width: that of the core; query_tokens: the most that ask, the last ones of the window; num_word_heads: ways to
    weigh them where words are compared, for each kind of word; features: those of ``FEATURES`` that it is told;
    word_kinds, tokens_before: as it was taught to be told (``WORD_KINDS``, ``TOKENS_BEFORE``); direct: whether words
    and features count as much as what is asked makes them, and for themselves, beside what the MLP makes of them."""

    width: int = 256
    num_heads: int = 4
    key_dim: int = 64
    mlp_width: int = 64
    query_tokens: int = QUERY_TOKENS
    num_word_heads: int = 4
    features: tuple[str, ...] = FEATURES
    word_kinds: int = WORD_KINDS
    tokens_before: int = TOKENS_BEFORE
    direct: bool = True

    def __post_init__(self) -> None:
        for name in ("width", "key_dim", "mlp_width", "query_tokens"):
            whole_number(name, getattr(self, name), least=1)
        for name in ("num_heads", "num_word_heads"):
            whole_number(name, getattr(self, name), least=1, most=MOST_HEADS)
        flag("direct", self.direct)
        object.__setattr__(self, "features", texts("features", self.features))
        strange = [name for name in self.features if name not in FEATURES]
        if strange or len(set(self.features)) < len(self.features):
            raise InvalidValueError(
                f"this lens is told the features {', '.join(self.features)}, of which each has to be one of "
                f"{', '.join(FEATURES)}, once; make a new lens with recipes/core/lens.py"
            )
        if (self.word_kinds, self.tokens_before) != (WORD_KINDS, TOKENS_BEFORE):
            raise InvalidValueError(
                f"this lens was taught with {shown(self.word_kinds)} kinds of words and {shown(self.tokens_before)} "
                f"tokens before a block, but this version tells it {WORD_KINDS} and {TOKENS_BEFORE}; make a new lens "
                "with recipes/core/lens.py"
            )

    @property
    def columns(self) -> list[int]:
        """The place of each of its features among ``FEATURES``."""
        return [FEATURES.index(name) for name in self.features]

    @property
    def weights(self) -> WeightShapes:
        """Those of a ``LensNet``."""
        width, num_heads, keys = self.width, self.num_heads, (self.num_heads * self.key_dim, self.width)
        num_words = WORD_KINDS * self.num_word_heads
        num_told = num_words + len(self.features)
        direct: WeightShapes = {
            "told_weight": (num_told,),
            "trust.weight": (num_told, width),
            "trust.bias": (num_told,),
        }
        return {
            "query.weight": keys,
            "salience.weight": (num_heads, width),
            "key.weight": keys,
            "sharpness": (num_heads,),
            "word_salience.weight": (num_words, width),
            "word_places": (num_words, self.query_tokens),
            "up.weight": (self.mlp_width, num_heads + num_told),
            "up.bias": (self.mlp_width,),
            "down.weight": (1, self.mlp_width),
            "down.bias": (1,),
            "need_salience.weight": (1, width),
            "need_places": (1, self.query_tokens),
            "need.weight": (1 + STAKE_LEVELS, width),
            "need.bias": (1 + STAKE_LEVELS,),
            "match_weight": (num_heads,),
            **(direct if self.direct else {}),
        }


def _of_each_layer(of_layer: WeightShapes, num_layers: int) -> WeightShapes:
    return {f"layers.{layer}.{name}": shape for layer in range(num_layers) for name, shape in of_layer.items()}

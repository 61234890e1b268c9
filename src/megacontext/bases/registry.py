"""Base models by name, folder or Hugging Face id, and what can be known of one while it stays on disk.

``BaseHandle`` is how the rest of the program holds a base: its facts, codec and embedding rows come from small files
without torch; only ``load`` reads the model.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megacontext.bases.adapted_table import AdaptedTable, adapted_table
from megacontext.bases.adapter import Adapter, find_adapter, tokenizer_folder
from megacontext.bases.core_config import check_core_config, shape_of
from megacontext.bases.embedding_table import EmbeddingTable
from megacontext.bases.model_config import check_model_config, check_stored_shapes, check_window
from megacontext.bases.model_files import read_json
from megacontext.bases.plugins import is_brought, load_brought
from megacontext.bases.profiles import PROFILE_FILE, BaseProfile, find_profile, read_profile
from megacontext.bases.prompting import Prompting, read_prompting
from megacontext.bases.quantization import (
    QUANTIZED_DTYPES,
    check_quantization,
    quantization_method,
    quiet_quantization,
)
from megacontext.bases.remote.address import scheme_of
from megacontext.bases.tokenizer_files import read_codec
from megacontext.bases.tokenizers_codec import TokenizersCodec
from megacontext.bases.traits import CORE_TYPE, check_config, embedding_scale, longest_window, text_config
from megacontext.bases.weight_files import check_tensors, check_there, check_weights
from megacontext.errors import BaseModelError, InvalidValueError, MegaContextError, UnknownNameError
from megacontext.ports.base import Base, BaseDefaults, BaseInfo
from megacontext.values import reason_of, shown

__all__ = ["BUNDLED", "BUNDLED_FOLDER", "BaseHandle", "base_info", "check_placement", "load_base", "load_codec"]

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
# Names that need no download, and the bundled folder that each one means today.
BUNDLED = {"reference": "reference-core", "reference-core": "reference-core", "reference-plain": "reference-plain"}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "chat_template.jinja"]
DTYPES = ("auto", "bfloat16", "float16", "float32", *QUANTIZED_DTYPES)
# How far rows of the table may be from what the model reads: the rounding of its precision.
EMBEDDINGS_TOLERANCE = 0.02
NUM_COMPARED = 64


class BaseHandle:
    """A base model that is read as far as it is needed, each part once.

    id_or_path: a name in ``BUNDLED``, a folder, or a Hugging Face id; device: auto (CUDA if there is one), cpu, cuda,
    cuda:N; dtype: bfloat16, float16, float32, auto (bfloat16 where the device has units for it, see
    ``bases/precision.py``), or int8, int4: computed as auto, with linear layers quantised while they are read; profile:
    a config of the base, in place of the one that is found (``bases/profiles.py``); own_profile: whether one in its
    folder counts, which it does not for who writes another.
    Raises UnknownNameError, BaseModelError, InvalidValueError; each names what is missing.
    """

    def __init__(
        self,
        id_or_path: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        profile: Path | None = None,
        own_profile: bool = True,
    ) -> None:
        check_placement(dtype, device)
        self._dtype, self._device = dtype, device
        self._profile_path = profile
        self._own_profile = own_profile
        self._loading = threading.Lock()
        self._loaded: Base | None = None
        self._is_refused = False  # by our own adapter
        self.name, self.revision, self.folder = _locate(id_or_path)
        self._adapter = find_adapter(self.folder)
        if self._adapter is not None:
            self.folder = _folder_of_base(self._adapter)

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``, of a vision model what describes the part that reads text."""
        file = self.folder / "config.json"
        config = read_json(file)
        if not config:
            raise BaseModelError(f"{self.folder}: has no config.json; give a folder that save_pretrained wrote")
        if _is_core(config):
            check_core_config(config, file)
        else:
            config = _completed(text_config(config))
        try:
            check_config(config, self.name)
        except BaseModelError:
            if not is_brought(self._model_type):
                raise
            self._is_refused = True
        if self._is_of_transformers:
            check_model_config(self.published_config, file)
        if not _is_core(config):
            check_window(config, file)
        return config

    @property
    def published_config(self) -> dict[str, Any]:
        """``config.json`` as it is, what looks at images included."""
        return read_json(self.folder / "config.json")

    @functools.cached_property
    def codec(self) -> TokenizersCodec:
        """Text to ids and back, with the model's tokenizer."""
        return read_codec(self.folder if self._adapter is None else tokenizer_folder(self._adapter, self.folder))

    @functools.cached_property
    def prompting(self) -> Prompting:
        """How the model wants to be addressed."""
        return read_prompting(self.folder, self.codec)

    @functools.cached_property
    def embeddings(self) -> EmbeddingTable | AdaptedTable:
        """The input-embedding matrix, on disk, as an adapter leaves it."""
        for name in self.config["weights"] if _is_core(self.config) else ():
            check_there(self.folder / f"{name}.safetensors")
        files = sorted(self.folder.glob("*.safetensors"))
        stamps = tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        scale = embedding_scale(self.config)
        table = _embedding_table(self.folder, stamps, scale)
        if self._is_of_transformers:
            check_stored_shapes(self.published_config, table, self.folder / "config.json")
        if self._adapter is None:
            return table
        return adapted_table(table, self._adapter.weights, self._adapter.config, scale=scale)

    @functools.cached_property
    def profile(self) -> BaseProfile | None:
        """What is known of the base beyond its weights, if anything is."""
        if self._profile_path is not None:
            return read_profile(self._profile_path)
        return find_profile(self.name, self.folder, own=self._own_profile)

    @functools.cached_property
    def info(self) -> BaseInfo:
        """Facts from the files; dtype and device are as asked for, until the model is loaded and knows them."""
        config = self.config
        num_rows, dim = self.embeddings.shape
        if self.codec.vocab_size > num_rows:
            raise BaseModelError(
                f"{self.name}: its tokenizer has {self.codec.vocab_size} ids but the embedding only {num_rows} rows; "
                "use the tokenizer that belongs to the weights"
            )
        prompting = self.prompting
        stop_token_ids = [*self._eos_ids(num_rows), *prompting.stop_token_ids]
        if _is_core(config):
            if config["vocab_size"] != num_rows:
                raise BaseModelError(
                    f"{self.folder / 'config.json'}: vocab_size is {config['vocab_size']}, but the embedding has "
                    f"{num_rows} rows; use the config.json that belongs to the weights"
                )
            # a memory that was made with a damaged file could not be opened with the right one
            for name, digest in config["weights"].items():
                file = self.folder / f"{name}.safetensors"
                check_weights(file, digest)
                check_tensors(file, shape_of(config, name, self.folder / "config.json").weights)
        fingerprint = hashlib.sha256(f"{self.codec.fingerprint} {self.embeddings.digest}".encode()).hexdigest()
        defaults = self._defaults(fingerprint)
        return BaseInfo(
            name=self.name,
            revision=self.revision,
            fingerprint=fingerprint,
            dim=dim,
            vocab_size=num_rows,
            max_positions=longest_window(config) or 0,
            dtype=defaults.dtype or "auto" if self._dtype == "auto" else self._dtype,
            device=self._device,
            question_template=prompting.question_template,
            question_before_ids=prompting.question_before_ids,
            question_after_ids=prompting.question_after_ids,
            bos_token_id=prompting.bos_token_id,
            stop_token_ids=tuple(dict.fromkeys(stop_token_ids)),
            positions=defaults.positions or ("timeline" if _is_core(config) else "window"),
            learned_positions=config.get("learned_positions", 0) if _is_core(config) else 0,
            gist_net=config["weights"].get("gist_net", "") if _is_core(config) else "",
            has_lens=_is_core(config) and "lens_net" in config,
            trained_shapes=tuple(map(tuple, config.get("trained_shapes", ()))) if _is_core(config) else (),
            defaults=defaults,
        )

    def _defaults(self, fingerprint: str) -> BaseDefaults:
        """Those of the profile; BaseModelError if it was measured on other weights."""
        profile = self.profile
        if profile is None:
            return BaseDefaults()
        if profile.fingerprint not in ("", fingerprint):
            raise BaseModelError(
                f"{self.name}: its config was written for the base of fingerprint {profile.fingerprint[:12]}, but this "
                f"one has {fingerprint[:12]}; remove {self._profile_path or self.folder / PROFILE_FILE}, or write it "
                "again with `megacontext port`"
            )
        return profile.defaults

    def _eos_ids(self, vocab_size: int) -> list[int]:
        """What ends an answer, by the model's files, without ids beyond its vocabulary (small copies of a model keep
        those of the large one): they are never drawn. BaseModelError for what is no id.
        """
        name = "generation_config.json"
        told = read_json(self.folder / name).get("eos_token_id")
        if told is None:
            name, told = "config.json", self.config.get("eos_token_id")
        ids = told if isinstance(told, list) else [] if told is None else [told]
        for token_id in ids:
            if type(token_id) is not int or token_id < 0:
                raise BaseModelError(
                    f"{self.folder / name}: eos_token_id is {shown(told)}; give an id from 0 to {vocab_size - 1}, or a "
                    "list of such"
                )
        return [token_id for token_id in ids if token_id < vocab_size]

    def load(self) -> Base:
        """The model itself, read on the first call; imports torch and transformers."""
        with self._loading:
            if self._loaded is None:
                base = self._read()
                self._check_embeddings(base)
                self._loaded = base
            return self._loaded

    def _read(self) -> Base:
        quiet_quantization()
        from megacontext.bases.loading import is_known, load_core, load_huggingface

        whole = read_json(self.folder / "config.json")
        read: Callable[..., Base]
        if _is_core(self.config):  # which refuses what cannot be a base, before anything else is read
            if self._dtype in QUANTIZED_DTYPES:
                raise BaseModelError(f"{self.name}: is a core, which cannot be made {self._dtype}; use bfloat16")
            read = load_core
        elif (self._is_refused or not is_known(self._model_type)) and is_brought(self._model_type):
            read = partial(load_brought, model_type=self._model_type)
        else:
            check_quantization(whole, self._dtype, self.name)
            read = partial(load_huggingface, adapter=self._adapter, quantization=quantization_method(whole))
        return read(self.folder, self.codec, self.info, stored=self._stored_dtype)

    def _check_embeddings(self, base: Base) -> None:
        """BaseModelError if the model reads tokens as something else than rows of its table, as gists are made of."""
        ids = np.linspace(0, self.info.vocab_size - 1, NUM_COMPARED, dtype=np.uint32)
        ours, theirs = self.embeddings.rows(ids), base.embed(ids).float().cpu().numpy()
        error = float(np.linalg.norm(ours - theirs) / (np.linalg.norm(theirs) or 1))
        if not error <= EMBEDDINGS_TOLERANCE:
            raise BaseModelError(
                f"{self.name}: reads tokens as something else than the rows of its embedding table (they differ by "
                f"{error:.1%}); a base needs embeddings that are its table's, scaled at most: use another model"
            )

    @property
    def _model_type(self) -> str:
        return str(read_json(self.folder / "config.json").get("model_type"))

    @property
    def _is_of_transformers(self) -> bool:
        """Whether keys of ``config.json`` mean what they do there: not in a core, nor in what a package brings."""
        return self._model_type != CORE_TYPE and not is_brought(self._model_type)

    @property
    def _stored_dtype(self) -> str:
        stored = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return str(stored).removeprefix("torch.")


def check_placement(dtype: str, device: str) -> None:
    """InvalidValueError for a precision or a device that no base could have."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InvalidValueError(f"dtype is {shown(dtype)}; expected one of {', '.join(DTYPES)}")
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise InvalidValueError(f"device is {shown(device)}; expected auto, cpu, cuda or cuda:N")


def load_base(id_or_path: str, *, dtype: str = "auto", device: str = "auto") -> Base:
    """Read a base model: ``load_base("reference")``."""
    return BaseHandle(id_or_path, dtype=dtype, device=device).load()


def base_info(id_or_path: str) -> BaseInfo:
    """Facts of a base model from its files, without torch."""
    return BaseHandle(id_or_path).info


def load_codec(id_or_path: str) -> TokenizersCodec:
    """Only the tokenizer of a base model, without torch."""
    return BaseHandle(id_or_path).codec


def _is_core(config: dict[str, Any]) -> bool:
    return config.get("model_type") == CORE_TYPE


@functools.lru_cache(maxsize=8)
def _embedding_table(folder: Path, stamps: tuple[tuple[str, int, int], ...], scale: float) -> EmbeddingTable:
    """One table, and so one digest, per process and unchanged folder."""
    return EmbeddingTable.from_folder(folder, scale=scale)


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that leaves its longest window to its class, as some published ones do, with what the class
    says."""
    if config.get("max_position_embeddings") is not None or "model_type" not in config:
        return config
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        whole = AutoConfig.for_model(**config)
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError):
        return config  # a kind that is not known, or values that are not its: named when the model is loaded
    return {**whole.get_text_config(decoder=True).to_dict(), **config}


def _locate(id_or_path: str) -> tuple[str, str, Path]:
    """Name, revision and folder of a base."""
    if scheme_of(id_or_path):
        raise BaseModelError(f"{shown(id_or_path)} is a model behind an API; this needs one that runs on this machine")
    if id_or_path in BUNDLED:
        name = BUNDLED[id_or_path]
        folder = BUNDLED_FOLDER / name
        if not folder.is_dir():
            raise BaseModelError(f"the bundled model {name} is not in this installation; reinstall megacontext")
        return name, "bundled", folder
    try:
        path = Path(id_or_path).expanduser()
        if path.is_dir():
            return str(path.resolve()), "local", path.resolve()
        is_file = path.exists()
    except (OSError, RuntimeError) as error:  # too long a name, or ~somebody who is not here
        raise BaseModelError(f"{shown(id_or_path)}: no such folder ({shown(error)}); check its name") from error
    if is_file:
        raise BaseModelError(f"{id_or_path}: is a file; give the folder of a model")
    if HUB_ID.fullmatch(id_or_path):
        return _from_hub(id_or_path)
    if len(path.parts) > 1:
        raise BaseModelError(f"{id_or_path}: no such folder; give one that save_pretrained wrote")
    raise UnknownNameError.of("base", id_or_path, [*BUNDLED, "a folder", "a Hugging Face id such as Qwen/Qwen3-0.6B"])


def _folder_of_base(adapter: Adapter) -> Path:
    """Where the model lies that an adapter changes."""
    try:
        folder = _locate(adapter.base)[2]
    except MegaContextError as error:
        raise BaseModelError(
            f"{adapter.folder}: is an adapter of {adapter.base}, which cannot be had ({error}); put its folder there, "
            "or name it as base_model_name_or_path in adapter_config.json"
        ) from error
    if find_adapter(folder) is not None:
        raise BaseModelError(
            f"{adapter.folder}: is an adapter of {adapter.base}, which is one, too; merge that one into its base with "
            "merge_and_unload, and save the whole"
        )
    if _is_core(read_json(folder / "config.json")):
        raise BaseModelError(f"{adapter.folder}: is an adapter of {adapter.base}, a core; cores take no adapters")
    return folder


def _from_hub(hub_id: str) -> tuple[str, str, Path]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    folder = None
    with contextlib.suppress(LocalEntryNotFoundError):
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    if folder is None or not any(folder.glob("*.safetensors")):
        try:
            folder = Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise BaseModelError(
                f"{hub_id}: no such folder, not in the local cache, and not to be had from the Hugging Face hub "
                f"({reason_of(error)}); go online or give a folder"
            ) from error
    return hub_id, folder.name, folder

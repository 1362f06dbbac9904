"""Whether a name can be a model on Hugging Face, and whether the hub has it: asked once, at once.

transformers asks five times with growing pauses, half a minute without a network or for a typo.
"""

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.constants import CONFIG_NAME
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from stages.student.config import is_hub_id
from store.errors import CheckpointError

PATIENCE_S = 10.0
"""For an answer of the hub."""


def demand_on_hub(weights: str) -> bool:
    """Refuse a name that is no id, or that the hub does not know.

    Args:
        weights: A folder that exists, or what may be an id such as `nvidia/mit-b5`.

    Returns:
        Whether to ask the hub for the newest version; where it is out of reach, a model that was
        downloaded once is read from the cache.

    Raises:
        CheckpointError: It cannot be loaded: no such name, or no network and nothing in the cache.
    """
    if Path(weights).expanduser().is_dir():
        return True
    if not is_hub_id(weights):
        raise CheckpointError(
            f"{weights}: there is no such file or folder, and it is no Hugging Face id, which is "
            "owner/name as nvidia/mit-b5; correct it, or say random"
        )
    try:
        get_hf_file_metadata(hf_hub_url(weights, CONFIG_NAME), timeout=PATIENCE_S)
    except GatedRepoError as error:
        raise CheckpointError(
            f"cannot load {weights} from Hugging Face: its owner grants access; ask for it there "
            "and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"cannot load {weights}: there is no such file or folder, and no such model on Hugging "
            "Face; correct the name (a private model needs `hf auth login`)"
        ) from error
    except HfHubHTTPError:  # what it means is said by the loading itself
        return True
    except Exception as error:  # of the network; names, timeouts and proxies share no base
        if isinstance(try_to_load_from_cache(weights, CONFIG_NAME), str):
            return False
        raise CheckpointError(
            f"cannot load {weights} from Hugging Face, which does not answer "
            f"({type(error).__name__}), and there is no such file or folder; give a file, a "
            "folder with config.json and weights, or an id that this machine can reach"
        ) from error
    return True

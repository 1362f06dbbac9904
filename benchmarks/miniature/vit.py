"""The drawn world's teacher as transformers' SAM, which `rein_vfm` refines."""

import json
from pathlib import Path
from typing import Final

from transformers import SamVisionConfig, SamVisionModel

from examples.drawn import TEACHER
from stages.embed.teachers.sam_encoder import HUGGING_FACE, read_weights
from stages.embed.teachers.sam_sizes import ARCHITECTURES, NORM_EPS
from stages.hf_models import IMAGES
from stages.prepare.pixels import MEAN, STD
from store.atomic import write_bytes

_SIZE: Final = ARCHITECTURES["tiny"]


def write_vit(folder: Path) -> None:
    """Write the teacher as a folder of Hugging Face's, where it is not there yet."""
    if (folder / IMAGES).is_file():
        return
    weights = read_weights(TEACHER)
    for theirs, official in reversed(HUGGING_FACE.items()):
        weights = {name.replace(official, theirs): each for name, each in weights.items()}
    model = SamVisionModel(
        SamVisionConfig(
            hidden_size=_SIZE.width,
            output_channels=_SIZE.channels,
            num_hidden_layers=_SIZE.depth,
            num_attention_heads=_SIZE.heads,
            image_size=_SIZE.side_px,
            patch_size=_SIZE.patch_px,
            layer_norm_eps=NORM_EPS,
            window_size=_SIZE.window_tok,
            global_attn_indexes=list(_SIZE.global_blocks),
            mlp_ratio=_SIZE.mlp_ratio,
            mlp_dim=int(_SIZE.mlp_ratio * _SIZE.width),
        )
    )
    model.vision_encoder.load_state_dict(weights)
    model.save_pretrained(folder)
    images = {"image_mean": MEAN, "image_std": STD, "do_rescale": False}
    write_bytes(folder / IMAGES, json.dumps(images).encode())  # last: the folder is whole

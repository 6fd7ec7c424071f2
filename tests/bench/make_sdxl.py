"""Config and state dict (shapes only) of Stable Diffusion XL's UNet: sdxl.json.gz, for bench_load.mjs.

Run: python tests/bench/make_sdxl.py
in an environment with: torch diffusers==0.42.1
"""

import gzip
import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

with torch.device("meta"):
    unet = UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
shapes = {name: list(tensor.shape) for name, tensor in unet.state_dict().items()}
print(sum(tensor.numel() for tensor in unet.state_dict().values()) / 1e9, "billion parameters")
config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
model = {"className": "UNet2DConditionModel", "config": config, "shapes": shapes}
with open(Path(__file__).with_name("sdxl.json.gz"), "wb") as file:
    # Without a time, the same each time.
    file.write(gzip.compress(json.dumps({"sdxl/unet": model}).encode(), mtime=0))

"""Random checkpoints of the Stable Diffusion and XL families, random add-ons and calls, and what Diffusers makes of them.

Run in a virtual environment with torch, diffusers==0.42.1, transformers==5.24.0 and peft, where FOLDER is outside the repository:
    python tests/fuzz/make_cases.py SEED COUNT FOLDER
Writes FOLDER/<number>/ (a pipeline as Diffusers saves it, and its add-ons), FOLDER/cases.json and FOLDER/cases.safetensors: pictures,
and latents in float32 by case. `own_error` of a case says how far float32 is from float64 in Python itself, of the scale: models of
random weights may amplify rounding a thousand times. tests/fuzz/compare.mjs makes the same calls.
"""

import copy
import inspect
import json
import random
import shutil
import sys
import warnings
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.append(str(Path(__file__).parents[1] / "fixtures/pipelines"))
from make_ip_adapter import SD_DIM, XL_DIM, adapter, masks, pictures  # noqa: E402
from make_lora import kohya, trained  # noqa: E402
from make_pipelines import BATCH, HERE, PROMPT, generators, jitter  # noqa: E402
from make_sdxl import text_encoder  # noqa: E402

# What a UNet takes in, by task, and the tasks' classes.
CHANNELS = {
    "text": 4, "img2img": 4, "inpaint": 4, "inpaint of 9": 9, "pix2pix": 8, "control": 4, "control img2img": 4, "control inpaint": 4,
    "pag": 4, "pag img2img": 4, "t2i": 4,
}  # fmt: skip
CLASSES = {
    "text": "StableDiffusion{}Pipeline", "img2img": "StableDiffusion{}Img2ImgPipeline", "inpaint": "StableDiffusion{}InpaintPipeline",
    "inpaint of 9": "StableDiffusion{}InpaintPipeline", "pix2pix": "StableDiffusion{}InstructPix2PixPipeline",
    "control": "StableDiffusion{}ControlNetPipeline", "control img2img": "StableDiffusion{}ControlNetImg2ImgPipeline",
    "control inpaint": "StableDiffusion{}ControlNetInpaintPipeline", "pag": "StableDiffusion{}PAGPipeline",
    "pag img2img": "StableDiffusion{}PAGImg2ImgPipeline", "t2i": "StableDiffusion{}AdapterPipeline",
}  # fmt: skip
SCHEDULERS = [
    "PNDM", "DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep",
    "HeunDiscrete", "LMSDiscrete", "DEISMultistep", "KDPM2Discrete",
]  # fmt: skip
PICTURES = {**dict(pictures()), **dict(masks())}

rng = random.Random(int(sys.argv[1]))
pick, chance = rng.choice, lambda p: rng.random() < p


def made(cls, seed, **config):
    torch.manual_seed(seed)
    return jitter(cls(**config), seed)


def unet(seed, channels, width, xl, is_distilled):
    levels, group = pick([2, 2, 3]), pick([2, 4])
    kinds = [pick(["CrossAttn", ""]) for _ in range(levels)]
    if not any(kinds):
        kinds[rng.randrange(levels)] = "CrossAttn"
    config = dict(
        sample_size=pick([6, 8]), in_channels=channels, block_out_channels=tuple(sorted(pick([8, 16, 24]) for _ in kinds)),
        layers_per_block=pick([1, 2]), norm_num_groups=group, down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        attention_head_dim=pick([2, 4, [pick([1, 2, 4]) for _ in kinds]]), use_linear_projection=chance(0.5),
        transformer_layers_per_block=pick([1, 1, 2, [pick([1, 2]) for _ in kinds]]), cross_attention_dim=2 * width if xl else width,
        act_fn=pick(["silu", "silu", "gelu"]), upcast_attention=chance(0.3), flip_sin_to_cos=chance(0.8), freq_shift=pick([0, 1]),
        resnet_time_scale_shift=pick(["default", "default", "scale_shift"]), center_input_sample=chance(0.15),
        norm_eps=pick([1e-5, 1e-6]),
    )  # fmt: skip
    if is_distilled:
        config["time_cond_proj_dim"] = 8
    if not xl:
        return made(UNet2DConditionModel, seed, **config)
    added = dict(addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=width + 24)
    return made(UNet2DConditionModel, seed, **config, **added)


def vae(seed, xl):
    levels = pick([2, 3, 3])
    return made(
        AutoencoderKL, seed, block_out_channels=tuple(pick([4, 8]) for _ in range(levels)), layers_per_block=pick([1, 2]),
        norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=32, mid_block_add_attention=chance(0.8), scaling_factor=pick([0.18215, 0.13025, 0.5]), force_upcast=xl,
    )  # fmt: skip


def scheduler():
    cls = getattr(diffusers, f"{pick(SCHEDULERS)}Scheduler")
    config = dict(
        beta_start=0.00085, beta_end=0.012, beta_schedule=pick(["scaled_linear", "linear", "squaredcos_cap_v2"]), skip_prk_steps=True,
        prediction_type=pick(["epsilon", "epsilon", "v_prediction"]), steps_offset=pick([0, 1]), use_karras_sigmas=chance(0.3),
        timestep_spacing=pick(["leading", "linspace", "trailing"]), rescale_betas_zero_snr=cls.__name__ == "DDIMScheduler" and chance(0.3),
    )  # fmt: skip
    return cls(**{key: value for key, value in config.items() if key in inspect.signature(cls.__init__).parameters})


def save_lora(folder, seed):
    model = UNet2DConditionModel.from_pretrained(folder / "base/unet", torch_dtype=torch.float32)
    names = [name for name, layer in model.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    target = pick([
        ["to_q", "to_k", "to_v", "to_out.0"], rng.sample(names, max(1, len(names) // 3)), ["proj_in", "ff.net.2", "conv1", "to_v"], names,
    ])  # fmt: skip
    state, _ = trained(model, seed, 0.3, r=pick([1, 2, 3]), lora_alpha=pick([1, 2]), target_modules=target)
    state = {f"unet.{key}": value for key, value in state.items()}
    if chance(0.5):
        text = CLIPTextModel.from_pretrained(folder / "base/text_encoder", torch_dtype=torch.float32)
        part, _ = trained(text, seed + 1, 0.3, r=1, lora_alpha=1, target_modules=["q_proj", "fc1", "out_proj"])
        state.update({f"text_encoder.{key}": value for key, value in part.items()})
    # Python's conversion of kohya's names takes the two layers of add_embedding for one.
    if chance(0.4) and not any("add_embedding" in key for key in state):
        state = kohya(state)
    save_file(state, folder / "lora.safetensors")


def make(number, root):
    """A checkpoint, its add-ons and a call, as plain data."""
    folder, seed, xl, task = root / str(number), rng.randint(0, 10**6), chance(0.4), pick(list(CHANNELS))
    folder.mkdir()
    tokens = HERE / ("sdxl-tiny" if xl else pick(["sd1-tiny", "sd2-tiny"]))
    tokenizer = CLIPTokenizer.from_pretrained(tokens / "tokenizer")
    vocab, width = tokenizer.get_vocab(), pick([8, 12, 16])
    model = unet(seed, CHANNELS[task], width, xl, task in ["text", "img2img", "inpaint"] and chance(0.2))
    text = dict(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=pick([2, 3]), num_attention_heads=pick([1, 2]),
        max_position_embeddings=20, hidden_act=pick(["quick_gelu", "gelu"]), eos_token_id=pick([2, vocab["<|endoftext|>"]]),
        projection_dim=width,
    )  # fmt: skip
    parts = dict(
        unet=model, vae=vae(seed + 1, xl), scheduler=scheduler(), tokenizer=tokenizer,
        text_encoder=text_encoder(CLIPTextModel, seed, vocab, **text),
    )  # fmt: skip
    if xl:
        second = text_encoder(CLIPTextModelWithProjection, seed + 3, vocab, **{**text, "num_hidden_layers": 3, "hidden_act": "gelu"})
        both = dict(text_encoder_2=second, tokenizer_2=CLIPTokenizer.from_pretrained(tokens / "tokenizer_2"))
        pipe = StableDiffusionXLPipeline(**parts, **both, force_zeros_for_empty_prompt=chance(0.7), add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(folder / "base")
    factor, channels = pipe.vae_scale_factor, list(model.config.block_out_channels)

    nets, steps = {}, []
    if "control" in task:
        net = ControlNetModel.from_unet(model.float(), conditioning_embedding_out_channels=(4, 8) if factor == 2 else (4, 8, 8))
        with torch.no_grad():
            for name, weight in net.named_parameters():
                if "controlnet_" in name:
                    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * 0.2)
        jitter(net, seed).save_pretrained(folder / "controlnet")
        nets["controlnet"] = "ControlNetModel"
        model.half()
    if task == "t2i":
        net = dict(in_channels=3, channels=channels, num_res_blocks=pick([1, 2]), downscale_factor=factor, adapter_type="full_adapter")
        made(T2IAdapter, seed, **net).save_pretrained(folder / "adapter")
        nets["adapter"] = "T2IAdapter"
    if chance(0.5) and (xl or task != "t2i"):
        save_lora(folder, seed)
        steps.append(["lora", pick([None, round(rng.uniform(0.2, 1.2), 2)]), chance(0.3)])
    if chance(0.4) and task != "t2i" and not (xl and task == "pix2pix"):
        dim, kind = (XL_DIM, "sdxl_models") if xl else (SD_DIM, "models")
        shutil.copytree(HERE / "ip-adapter-tiny" / kind / "image_encoder", folder / "ip" / kind / "image_encoder")
        save_file(adapter(seed, pick(["base", "plus", "full"]), model, dim), folder / "ip" / kind / "ip.safetensors")
        steps.append(["ip", kind, round(rng.uniform(0.3, 1), 2)])
    rng.shuffle(steps)
    if chance(0.2):
        steps.append(["freeu", dict(s1=0.9, s2=0.4, b1=1.2, b2=1.4)])
    cls = CLASSES[task].format("XL" if xl else "")
    about = {f"{part} {key}": str(value) for part in ["unet", "scheduler"] for key, value in getattr(pipe, part).config.items()}
    return dict(
        name=f"{number}", cls=cls, nets=nets, steps=steps, options=call(task, steps, 2 ** (len(channels) - 1) * factor),
        about=about,
    )  # fmt: skip


def call(task, steps, unit):
    options = dict(num_inference_steps=rng.randint(2, 5), prompt=pick([PROMPT, PROMPT, BATCH]))
    is_batch = options["prompt"] is BATCH
    if chance(0.25):
        options["num_images_per_prompt"] = 2
    count = (2 if is_batch else 1) * options.get("num_images_per_prompt", 1)
    options["seed"] = [rng.randint(0, 99) for _ in range(count)] if chance(0.4) else rng.randint(0, 99)
    if chance(0.6):
        options["guidance_scale"] = pick([1.0, 2.0, 5.0])
    if chance(0.4):
        options["negative_prompt"] = ["ugly", "dog"] if is_batch else "ugly"
    if chance(0.2) and task in ["text", "img2img", "inpaint", "control", "pag"]:
        options["clip_skip"] = 1
    if chance(0.2) and task in ["text", "pag"]:
        options["guidance_rescale"] = 0.5
    if task in ["text", "inpaint", "inpaint of 9", "pag"] and chance(0.6):
        options.update(height=max(8, 8 * (unit * pick([2, 3]) // 8)), width=max(8, 8 * (unit * pick([2, 3]) // 8)))
    if any(step[0] == "ip" for step in steps):
        options["ip_adapter_image"] = pick(["photo", "odd", "tall"])
    if any(step[0] == "lora" for step in steps) and chance(0.3):
        options["cross_attention_kwargs"] = dict(scale=0.6)
    if "img2img" in task or "inpaint" in task:
        options.update(image=pick(["photo", "other"]), strength=round(rng.uniform(0.5, 1), 2))
    if "inpaint" in task:
        options["mask_image"] = pick(["left", "wide mask"])
    if task in ["control inpaint", "control img2img"]:
        options["control_image"] = "other"
    if task == "control inpaint":
        options.update(image="photo", mask_image="left", height=24, width=24)
    if task in ["control", "pix2pix", "t2i"]:
        options["image"] = "photo"
    if "control" in task and chance(0.3):
        options["guess_mode"] = True
    if "pag" in task:
        options["pag_scale"] = pick([2.0, 3.0])
    return options


def reference(root, case, dtype):
    folder, cls, xl = root / case["name"], getattr(diffusers, case["cls"]), "XL" in case["cls"]
    base = (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(folder / "base", dtype=torch.float32)
    nets = {
        name: getattr(diffusers, net).from_pretrained(folder / name, torch_dtype=torch.float32) for name, net in case["nets"].items()
    }
    config = dict(requires_safety_checker=False, add_watermarker=False)
    if xl:
        config["force_zeros_for_empty_prompt"] = base.config.force_zeros_for_empty_prompt
    known = inspect.signature(cls.__init__).parameters
    pipe = cls(**{key: value for key, value in {**base.components, **config, **nets}.items() if key in known})
    pipe.set_progress_bar_config(disable=True)
    if not xl:
        # transformers 5 took away the name that this Diffusers looks for when it skips layers.
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    for kind, *given in case["steps"]:
        if kind == "lora":
            pipe.load_lora_weights(folder, weight_name="lora.safetensors", adapter_name="a")
            if given[0] is not None:
                pipe.set_adapters("a", given[0])
            if given[1]:
                pipe.fuse_lora()
        elif kind == "ip":
            pipe.load_ip_adapter(str(folder / "ip"), subfolder=given[0], weight_name="ip.safetensors")
            pipe.set_ip_adapter_scale(given[1])
        else:
            pipe.enable_freeu(**given[0])
    pipe.to(dtype)
    options = copy.deepcopy(case["options"])
    generator = generators(options.pop("seed"))
    for key in ["ip_adapter_image", "image", "control_image", "mask_image"]:
        if key in options:
            options[key] = PICTURES[options[key]]
    return pipe(**options, generator=generator, output_type="latent").images


def single_noise():
    """Makes torch draw the same noise for float64 as for float32."""
    randn = torch.randn

    def drawn(*args, dtype=None, **kwargs):
        if dtype is not torch.float64:
            return randn(*args, dtype=dtype, **kwargs)
        return randn(*args, dtype=torch.float32, **kwargs).double()

    torch.randn = drawn


def main():
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    single_noise()
    count, root = int(sys.argv[2]), Path(sys.argv[3])
    root.mkdir(parents=True)
    tensors = {f"picture/{name}": torch.from_numpy(np.array(picture)) for name, picture in PICTURES.items()}
    cases = []
    for number in range(count):
        case = make(number, root)
        try:
            latents, exact = (reference(root, case, dtype) for dtype in [torch.float32, torch.float64])
        except Exception as error:
            # Sizes that a pipeline does not take, mostly.
            print(f"{number}, {case['cls']}: {type(error).__name__}: {str(error)[:100]}")
            continue
        if not latents.isfinite().all():
            continue
        own_error = ((latents - exact).abs().max() / exact.abs().max()).item()
        tensors[f"{number}/latent"] = latents.contiguous()
        cases.append({**case, "own_error": own_error})
    save_file(tensors, root / "cases.safetensors")
    (root / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
    print(f"{len(cases)} of {count}")


main()

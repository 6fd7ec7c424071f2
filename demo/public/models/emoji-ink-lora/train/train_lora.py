"""Trains a LoRA for emoji-diffusion that draws in black lines (Fluent Emoji High Contrast, MIT): python train_lora.py --model DIR --icons DIR --out DIR --minutes 40

The icons are rendered as in emoji-diffusion/train (render.mjs, over fluent-emoji-high-contrast), whose data.py and concepts.py are used here.
"""
import argparse, random, time
import numpy as np, torch, torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict
from concepts import COLOURS, CONCEPTS, HELD, caption
from data import composite, load_icons, place

p = argparse.ArgumentParser()
p.add_argument("--model"); p.add_argument("--icons"); p.add_argument("--out"); p.add_argument("--minutes", type=float, default=40)
p.add_argument("--batch", type=int, default=16); p.add_argument("--rank", type=int, default=8); p.add_argument("--lr", type=float, default=2e-3); p.add_argument("--threads", type=int, default=1)
a = p.parse_args()
torch.set_num_threads(a.threads); torch.set_flush_denormal(True); torch.manual_seed(0)
rng, gen = random.Random(0), np.random.default_rng(0)
pipe = StableDiffusionPipeline.from_pretrained(a.model); pipe.set_progress_bar_config(disable=True)
pipe.to(torch.float32)
unet, vae, text, tok = pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer

# every icon on white and on the named colours
icons, images, things, grounds = load_icons(a.icons), [], [], []
for i, c in enumerate(CONCEPTS):
    x = place(icons[c], rng, jitter=False)
    for b, (name, rgb) in enumerate([("white", (255,) * 3)] + [kv for kv in COLOURS.items() if kv[0] != "black"]):
        if (c, name) in HELD: continue
        images.append((composite(x, rgb) * 255).round().astype(np.uint8)); things.append(i); grounds.append(b)
with torch.no_grad():
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    Z = torch.cat([vae.encode(part.float() / 127.5 - 1).latent_dist.mode() for part in x.split(64)]) * vae.config.scaling_factor
chance = np.array([6.0 if b == 0 else 1.0 for b in grounds]); chance /= chance.sum()
names, colours = list(CONCEPTS), [None] + [n for n in COLOURS if n != "black"]
print(len(Z), "pictures", flush=True)

for module in (unet, vae, text): module.requires_grad_(False)
unet.to(memory_format=torch.channels_last)
unet.add_adapter(LoraConfig(r=a.rank, lora_alpha=a.rank, target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]))
P = [q for q in unet.parameters() if q.requires_grad]
print("parameters", sum(q.numel() for q in P), flush=True)
opt = torch.optim.AdamW(P, lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
ema = [q.detach().clone() for q in P]
abar = pipe.scheduler.alphas_cumprod
t0, step, losses, last = time.time(), 0, [], time.time()

def save():
    now = [q.detach().clone() for q in P]
    with torch.no_grad():
        for q, e in zip(P, ema): q.copy_(e)
    state = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(a.out, unet_lora_layers=state, safe_serialization=True)
    with torch.no_grad():
        for q, v in zip(P, now): q.copy_(v)

while True:
    prog = (time.time() - t0) / 60 / a.minutes
    if prog >= 1: break
    for g in opt.param_groups: g["lr"] = a.lr * min(1, (step + 1) / 50) * (1 if prog < 0.5 else 0.02 + 0.98 * (1 - (prog - 0.5) / 0.5))
    idx = gen.choice(len(Z), a.batch, p=chance)
    z = Z[idx]
    caps = ["" if rng.random() < 0.1 else caption(names[things[i]], colours[grounds[i]], rng) for i in idx]
    ids = tok(caps, padding="max_length", truncation=True, max_length=tok.model_max_length, return_tensors="pt").input_ids
    with torch.no_grad(): hidden = text(ids).last_hidden_state
    t = (((torch.randperm(a.batch) + torch.rand(a.batch)) / a.batch) ** 0.65 * 1000).long().clamp(0, 999)
    ab = abar[t][:, None, None, None]
    noise = torch.randn_like(z)
    xt = (ab.sqrt() * z + (1 - ab).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    loss = F.mse_loss(unet(xt, t, hidden).sample, ab.sqrt() * noise - (1 - ab).sqrt() * z)
    opt.zero_grad(); loss.backward(); torch.nn.utils.clip_grad_norm_(P, 1.0); opt.step()
    losses.append(loss.item()); step += 1
    m = min(0.995, (1 + step) / (10 + step))
    with torch.no_grad():
        for q, e in zip(P, ema): e.lerp_(q, 1 - m)
    if time.time() - last > 120:
        last = time.time(); save()
        print(f"{step} {last - t0:.0f}s loss {np.mean(losses[-100:]):.4f} sec/step {(last - t0) / step:.2f}", flush=True)
save()
print("done", step, "loss", np.mean(losses[-200:]), flush=True)

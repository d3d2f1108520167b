"""Times transformers on the same checkpoint, cores and threads, in bf16 with frozen parameters: tower, prefill, CAM of all layers
with one retained graph, and one forward and backward per layer. Prints one JSON object.

    python bench/peer.py MODEL [text tokens] [threads] [runs]
"""
import gc
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlavaConfig, LlavaForConditionalGeneration


def status_bytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def reset_peak():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def load(folder, attention):
    """The model with every decoder layer's parameters aliased to those of layer i modulo the period."""
    raw = json.loads((folder / "config.json").read_text())
    period = raw.pop("sightline_layer_period")
    config = LlavaConfig.from_dict(raw)
    config._attn_implementation = attention
    config.text_config._attn_implementation = attention
    config.vision_config._attn_implementation = attention
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    stored = load_file(folder / "model.safetensors")
    state = {}
    for name in model.state_dict():
        key = name.removeprefix("model.")
        parts = key.split(".")
        if key.startswith("language_model.layers."):
            parts[2] = str(int(parts[2]) % period)
        key = ".".join(parts)
        if key.startswith("language_model."):
            key = key.replace("language_model.", "language_model.model.", 1)
        elif key == "lm_head.weight":
            key = "language_model.lm_head.weight"
        elif key.startswith("vision_tower.") and not key.startswith("vision_tower.vision_model."):
            key = key.replace("vision_tower.", "vision_tower.vision_model.", 1)
        state[name] = stored[key]
    model.load_state_dict(state, assign=True)
    for module in model.modules():  # buffers that no checkpoint holds
        for name, buffer in list(module._buffers.items()):
            if buffer is not None and buffer.is_meta:
                if name == "position_ids":
                    module._buffers[name] = torch.arange(buffer.shape[-1]).expand(buffer.shape)
    rotary = model.model.language_model.rotary_emb
    dim = config.text_config.hidden_size // config.text_config.num_attention_heads
    rotary.inv_freq = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    if hasattr(rotary, "original_inv_freq"):
        rotary.original_inv_freq = rotary.inv_freq
    left = [n for n, t in list(model.named_parameters()) + list(model.named_buffers()) if t.is_meta]
    assert not left, left
    return model.eval().requires_grad_(False)


def median_time(function, runs):
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Features:
    """Keeps the post-attention norm's output of chosen layers and its gradient."""

    def __init__(self, layers, chosen):
        self.kept = {}
        self.handles = [layers[i].post_attention_layernorm.register_forward_hook(self.keep(i)) for i in chosen]

    def keep(self, i):
        def hook(module, inputs, output):
            output.retain_grad()
            self.kept[i] = output
        return hook

    def close(self):
        for handle in self.handles:
            handle.remove()


def cam(model, embeds, first, count, chosen):
    """LLaVA-CAM of the chosen layers from one forward and one backward."""
    layers = model.model.language_model.layers
    features = Features(layers, chosen)
    hidden = model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    model.lm_head(hidden[:, -1])[0, 17].backward()
    maps = []
    for i in chosen:
        value = features.kept[i]
        rows = value[0, first:first + count].detach().float()
        gradient = torch.zeros_like(rows) if value.grad is None else value.grad[0, first:first + count].float()
        maps.append(torch.relu(rows @ gradient.mean(0)))
    features.close()
    embeds.grad = None
    return maps


def measure(folder, attention, n_text, runs):
    model = load(folder, attention)
    config = model.config
    n_image = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    ids = torch.tensor([[1 + t * 37 % 250 for t in range(n_text + n_image)]])
    first = 5
    pixels = ((torch.arange(3 * config.vision_config.image_size ** 2) * 7919 % 2001) / 1000 - 1).reshape(
        1, 3, config.vision_config.image_size, config.vision_config.image_size).to(torch.bfloat16)
    out = {"attention": attention}
    with torch.no_grad():
        encode = lambda: model.model.multi_modal_projector(
            model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])
        out["tower_s"] = median_time(encode, runs)
        embeds = model.get_input_embeddings()(ids).clone()
        embeds[0, first:first + n_image] = encode()[0]
        prefill = lambda: model.lm_head(
            model.model.language_model(inputs_embeds=embeds, use_cache=True).last_hidden_state[:, -1])
        out["prefill_s"] = median_time(prefill, runs)
    embeds = embeds.detach().requires_grad_(True)
    layers = range(config.text_config.num_hidden_layers)
    reset_peak()
    base = status_bytes("VmRSS")
    out["cam_retained_s"] = median_time(lambda: cam(model, embeds, first, n_image, layers), runs)
    out["cam_retained_peak_bytes"] = status_bytes("VmHWM") - base
    # One forward and backward per layer: timed on three layers, times the number of layers.
    sample = [0, len(layers) // 2, len(layers) - 2]
    times = [median_time(lambda i=i: cam(model, embeds, first, n_image, [i]), 1) for i in sample]
    out["cam_per_layer_s"] = statistics.mean(times) * len(layers)
    return out


def main():
    folder = Path(sys.argv[1])
    n_text = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    attention = sys.argv[5] if len(sys.argv) > 5 else "sdpa"
    print(json.dumps(measure(folder, attention, n_text, runs)))


if __name__ == "__main__":
    main()

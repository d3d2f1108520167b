"""Reference activations for `sightline verify`, made by your own transformers.

    python reference.py MODEL_FOLDER reference.safetensors
    sightline verify --model MODEL_FOLDER --reference reference.safetensors

Needs torch, transformers (4.46 or newer), numpy, safetensors, Pillow, and memory for the model in float32 (--dtype bfloat16 takes
half and is compared more loosely). Nothing is downloaded. Two pictures are drawn and stored in the file, so that nothing else
is needed. For two pictures and two questions the file holds, under names that sightline's --record takes: token ids, pixels, chosen
rows of the tower's blocks, the projector's input and output, chosen rows of every decoder layer (residual, post-attention norm,
attention output by heads), the logits of the last row, five greedy tokens; for the first one also the logits with one head
silenced, and LLaVA-CAM maps of some layers. About 30 MB for a model of 7 billion parameters.

Families whose classes come from the folder itself (remote code: Qwen-VL of the first generation, InternVL's released folders) and those
without a class in transformers (Shikra) are not covered.
"""
import argparse
import inspect
import json
import math
import os

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.numpy import save_file

QUESTIONS = ["What is in the picture?", "How many colours are there, and which one is the brightest?"]
N_GREEDY = 5
N_CAM_TOKEN = 3      # answer tokens whose logits the CAM target sums
N_CAM_LAYER = 3
MAX_PIXEL = 4 << 20  # pixel values stored whole; of more every n-th is

# Where a family's modules are: paths below the model, the first that exists counts (transformers moved them about). `norm` is the norm before
# the MLP, below a decoder layer. `frame`: beginnings of tokens beside the picture's that count as its rows. `projector_in` is "in" or "out" of a module. `prompt` is used where the folder has no chat template.
TEXT = ["model.language_model.layers", "language_model.model.layers", "model.text_model.layers", "model.layers"]
CLIP = ["model.vision_tower.vision_model.encoder.layers", "model.vision_tower.encoder.layers", "vision_tower.vision_model.encoder.layers"]
PROJECTOR = ["model.multi_modal_projector", "multi_modal_projector"]
VICUNA = "USER: <image>\n{question} ASSISTANT:"
VICUNA_LONG = ("A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers "
               "to the human's questions. " + VICUNA)
LLAVA = dict(text=TEXT, norm="post_attention_layernorm", tower=CLIP, projector=PROJECTOR, projector_in=(PROJECTOR, "in"), prompt=VICUNA)
IDEFICS = {**LLAVA, "tower": ["model.vision_model.encoder.layers"], "projector": ["model.connector"], "projector_in": None,
           "frame": ("<fake_token_around_image>", "<global-img>", "<row_")}
FAMILIES = {
    "llava": LLAVA,
    "llava_next": {**LLAVA, "prompt": VICUNA_LONG},
    "internvl": {**LLAVA, "tower": ["model.vision_tower.encoder.layer", "vision_tower.encoder.layer"]},
    "instructblip": {**LLAVA, "tower": ["model.vision_model.encoder.layers", "vision_model.encoder.layers"],
                     "projector": ["model.language_projection", "language_projection"],
                     "projector_in": (["model.vision_model.post_layernorm", "vision_model.post_layernorm"], "out"), "prompt": "{question}"},
    "qwen2_vl": {**LLAVA, "tower": ["model.visual.blocks", "visual.blocks"], "projector": ["model.visual.merger", "visual.merger"],
                 "projector_in": (["model.visual.merger.mlp.0", "visual.merger.mlp.0"], "in")},
    "qwen2_5_vl": {**LLAVA, "tower": ["model.visual.blocks", "visual.blocks"], "projector": None, "projector_in": None},  # in windows
    "gemma3": {**LLAVA, "norm": "pre_feedforward_layernorm",
               "projector_in": (["model.multi_modal_projector.mm_soft_emb_norm", "multi_modal_projector.mm_soft_emb_norm"], "in")},
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
}


def find(model, paths):
    for path in paths:
        try:
            return model.get_submodule(path)
        except AttributeError:
            pass
    raise SystemExit(f"none of {', '.join(paths)} in {type(model).__name__}: this version of transformers ({transformers.__version__}) "
                     "has its modules elsewhere")


# ---- the folder ----

def fnv(state, data):
    for byte in data:
        state = (state ^ byte) * 0x100000001b3 & 0xffffffffffffffff
    return state


def fingerprint(folder):
    """FNV-1a over config.json and, of every weight file, name, size and 64 windows of 64 bytes (all of a small one)."""
    files = sorted(n for n in os.listdir(folder) if n.endswith(".safetensors")) or sorted(n for n in os.listdir(folder) if n.endswith(".bin"))
    state = 0xcbf29ce484222325
    for name in ["config.json"] + files:
        path = os.path.join(folder, name)
        size = os.path.getsize(path)
        state = fnv(fnv(state, name.encode()), size.to_bytes(8, "little"))
        with open(path, "rb") as file:
            if size <= 4096 or name == "config.json":
                state = fnv(state, file.read())
                continue
            for i in range(64):
                file.seek(i * (size - 64) // 63)
                state = fnv(state, file.read(64))
    return f"{state:016x}"


def open_processor(folder):
    """With the Pillow image processor where there is a choice: torchvision's resizing differs by grey levels."""
    slow = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    try:
        return transformers.AutoProcessor.from_pretrained(folder, **slow)
    except Exception:
        processor = transformers.AutoProcessor.from_pretrained(folder)
        processor.image_processor = transformers.AutoImageProcessor.from_pretrained(folder, **slow)
        return processor


def open_model(folder, dtype, device):
    config = transformers.AutoConfig.from_pretrained(folder)
    if config.model_type not in FAMILIES:
        raise SystemExit(f"{folder}: model_type \"{config.model_type}\" is not one of {', '.join(FAMILIES)}")
    name = (config.architectures or [""])[0]
    cls = getattr(transformers, name, None) or transformers.AutoModelForImageTextToText
    key = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    model = cls.from_pretrained(folder, attn_implementation="eager", low_cpu_mem_usage=True, **{key: getattr(torch, dtype)})
    return model.to(device).eval().requires_grad_(False)


# ---- pictures and prompts ----

def draw(width, height, turn):
    """Waves, a disc and a frame: every grey level, smooth and sharp."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    picture = np.stack([np.sin((3 + turn) * u * 6.3 + v), np.cos(5 * v * 6.3 - turn), np.sin(9 * u * v + 2 * turn)], -1) * 100 + 128
    disc = (u - 0.3 - 0.3 * turn) ** 2 + (v - 0.6) ** 2 < 0.03
    picture[disc] = [230, 40 + 150 * turn, 30]
    picture[: max(1, height // 16)] = [20, 30, 200]
    return np.clip(picture, 0, 255).astype(np.uint8)


def write_prompt(processor, family, question):
    if getattr(processor, "chat_template", None):
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        prompt = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        bos = processor.tokenizer.bos_token         # written by the template and by the tokenizer: once is enough
        twice = bos and prompt.startswith(bos) and processor.tokenizer("a").input_ids[:1] == [processor.tokenizer.bos_token_id]
        return prompt[len(bos):] if twice else prompt
    return FAMILIES[family]["prompt"].replace("{question}", question)


def views_of(pixels, config):
    """Pixels as [views, 3, height, width], whatever shape the family's processor gives."""
    if pixels.ndim > 2:
        return pixels.reshape(-1, *pixels.shape[-3:])
    vision = config.vision_config                      # Qwen2-VL: rows of patches, in the order of merged cells
    p, m, t = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, cols = config.sightline_grid
    x = pixels.reshape(rows // m, cols // m, m, m, 3, t, p, p)[:, :, :, :, :, 0]
    return x.transpose(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, rows * p, cols * p)


# ---- running ----

def rows_of(value):
    value = value[0] if isinstance(value, tuple) else value
    return value.detach().reshape(-1, value.shape[-1]).float().cpu().numpy()


class Recorder:
    """First value of the asked rows of every hooked module: {site: [rows, ...]}."""

    def __init__(self):
        self.values, self.seen, self.handles = {}, set(), []

    def take(self, module, place, name, rows, heads=0):
        def keep(value):
            if name in self.seen:
                return
            self.seen.add(name)
            all_rows = rows_of(value)
            chosen = sorted({r % len(all_rows) for r in rows if -len(all_rows) <= r < len(all_rows)})
            values = all_rows[chosen]
            self.values[f"{name}@{';'.join(map(str, chosen))}"] = values.reshape(len(chosen), heads, -1) if heads else values
        if place == "in":
            self.handles.append(module.register_forward_pre_hook(lambda _, args: keep(args[0])))
        else:
            self.handles.append(module.register_forward_hook(lambda _, args, out: keep(out)))

    def stop(self):
        for handle in self.handles:
            handle.remove()


def tower_layers(model, family):
    layers = list(find(model, FAMILIES[family]["tower"]))
    keep = getattr(model.config, "vision_feature_layer", None)   # hidden_states[keep]: later blocks are not run by sightline
    if family not in ("llava", "llava_next", "internvl") or keep is None:
        return layers
    keep = keep if isinstance(keep, (list, tuple)) else [keep]
    return layers[: max(k if k >= 0 else len(layers) + 1 + k for k in keep)]


def attach(model, family, n_token, image, whole):
    """Hooks on tower, projector and decoder; positions: ends and middles of system text, picture and question."""
    table, recorder = FAMILIES[family], Recorder()
    first, last = image
    positions = [0, first, (first + last) // 2, last, (last + n_token) // 2, n_token - 2, n_token - 1]
    for i, layer in enumerate(tower_layers(model, family)):
        recorder.take(layer, "out", f"vision.blocks.{i}.hook_resid_post", [0, 1, 7, 20, -1])
    if table["projector_in"]:
        recorder.take(find(model, table["projector_in"][0]), table["projector_in"][1], "projector.hook_in", [0, 1, 3, -1])
    if table["projector"]:
        recorder.take(find(model, table["projector"]), "out", "projector.hook_out", [0, 1, 3, -1])
    heads = model.config.get_text_config().num_attention_heads
    for i, layer in enumerate(find(model, table["text"])):
        if whole:
            recorder.take(layer.self_attn.o_proj, "in", f"blocks.{i}.attn.hook_z", positions, heads)
            recorder.take(layer.get_submodule(table["norm"]), "out", f"blocks.{i}.ln2.hook_normalized", positions)
        recorder.take(layer, "out", f"blocks.{i}.hook_resid_post", positions)
    return recorder


def forward(model, inputs, n_last):
    keep = {"logits_to_keep": n_last} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    return model(**inputs, use_cache=False, **keep).logits[0, -n_last:].float()


def greedy(model, inputs):
    """Tokens of generate(), and by how much each was preferred, as a share of its row's largest logit."""
    out = model.generate(**inputs, max_new_tokens=N_GREEDY, do_sample=False, num_beams=1, repetition_penalty=1.0, top_p=None, temperature=None,
                         length_penalty=1.0, return_dict_in_generate=True, output_logits=True)
    logits = torch.stack(out.logits)[:, 0].float()
    best = logits.topk(2).values
    return logits.argmax(-1).tolist(), ((best[:, 0] - best[:, 1]) / logits.abs().amax(-1)).cpu().numpy().astype(np.float32)


def silence_head(model, family, inputs, layer, head):
    """Last row's logits with one head's output zero everywhere."""
    module = find(model, FAMILIES[family]["text"])[layer].self_attn.o_proj
    width = module.in_features // model.config.get_text_config().num_attention_heads

    def zero(_, args):
        z = args[0].clone()
        z[..., head * width: (head + 1) * width] = 0
        return (z, *args[1:])
    handle = module.register_forward_pre_hook(zero)
    with torch.no_grad():
        logits = forward(model, inputs, 1)
    handle.remove()
    return logits[0].cpu().numpy()


def longer(inputs, ids):
    """The same inputs with answer tokens behind the prompt, each of them text as the last prompt token is."""
    inputs = dict(inputs)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "input_ids"):
        if name in inputs and ids:
            old = inputs[name]
            more = old.new_tensor([ids]) if name == "input_ids" else old[:, -1:].repeat(1, len(ids))
            inputs[name] = torch.cat([old, more], 1)
    return inputs


def cam(model, family, inputs, image, answer):
    """Layers and maps [layers, N]: heat = relu(sum_k alpha_k F_k), alpha = mean over the picture's rows of d(sum of the answer's logits)/dF, F after
    the norm before the MLP. The graph begins at the lowest layer, a third of the way up, which keeps it small. Of the maps those with most
    values above zero are kept; the last layer's is zero by nature."""
    blocks = find(model, FAMILIES[family]["text"])
    layers = list(range(len(blocks) // 3, len(blocks) - 1)) or [0]
    norms = [blocks[i].get_submodule(FAMILIES[family]["norm"]) for i in layers]
    features = []

    def keep(_, args, out):
        out = out.detach().requires_grad_(True) if not features else out
        out.retain_grad()
        features.append(out)
        return out
    handles = [norm.register_forward_hook(keep) for norm in norms]
    logits = forward(model, longer(inputs, answer[:-1]), len(answer))
    logits.gather(1, torch.tensor(answer, device=logits.device)[:, None]).sum().backward()
    for handle in handles:
        handle.remove()
    rows = slice(image[0], image[1] + 1)
    maps = []
    for f in features:
        alpha = f.grad[0, rows].float().mean(0)
        maps.append((f.detach()[0, rows].float() @ alpha).relu())
    best = sorted(sorted(range(len(maps)), key=lambda i: -int((maps[i] > 0).sum()))[:N_CAM_LAYER])
    return [layers[i] for i in best], torch.stack([maps[i] for i in best]).cpu().numpy()


# ---- the file ----

def image_rows(model, processor, family, ids):
    """First and last row of the picture, with what stands between and beside its tokens."""
    token = getattr(model.config, "image_token_id", None) or model.config.image_token_index
    frame = FAMILIES[family].get("frame", ())
    pieces = processor.tokenizer.convert_ids_to_tokens(ids)
    at = [i for i, t in enumerate(ids) if t == token]
    first, last = at[0], at[-1]
    while frame and first > 0 and pieces[first - 1].startswith(frame):
        first -= 1
    while frame and pieces[last + 1].startswith(frame):
        last += 1
    return first, last


def run_case(model, processor, family, name, picture, question, whole, arrays):
    prompt = write_prompt(processor, family, question)
    inputs = processor(images=Image.fromarray(picture), text=prompt, return_tensors="pt").to(model.device)
    if "image_grid_thw" in inputs:
        model.config.sightline_grid = inputs["image_grid_thw"][0, 1:].tolist()
    pixels = np.ascontiguousarray(views_of(inputs["pixel_values"].float().cpu().numpy(), model.config))
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    ids = inputs["input_ids"][0].tolist()
    image = image_rows(model, processor, family, ids)
    recorder = attach(model, family, len(ids), image, whole)
    with torch.no_grad():
        logits = forward(model, inputs, 1)
        recorder.stop()
        tokens, margins = greedy(model, inputs)
    stride = math.ceil(pixels.size / MAX_PIXEL)
    arrays[f"{name}/ids"] = np.array(ids, np.int32)
    arrays[f"{name}/pixels"] = pixels.reshape(-1)[::stride].copy()
    arrays[f"{name}/logits"] = logits[0].cpu().numpy()
    arrays[f"{name}/greedy"] = np.array(tokens, np.int32)
    arrays[f"{name}/margin"] = margins
    for site, values in recorder.values.items():
        arrays[f"{name}/site/{site}"] = np.ascontiguousarray(values)
    if whole:
        n_layer = len(find(model, FAMILIES[family]["text"]))
        layer, head = n_layer // 2, model.config.get_text_config().num_attention_heads // 2
        arrays[f"{name}/ablation"] = silence_head(model, family, inputs, layer, head)
        layers, arrays[f"{name}/cam"] = cam(model, family, inputs, image, tokens[:N_CAM_TOKEN])
        extra = {"ablation": {"layer": layer, "head": head}, "cam": {"layers": layers, "tokens": tokens[:N_CAM_TOKEN]}}
    token = str(getattr(processor, "image_token", "<image>"))
    return {"name": name, "question": question, "prompt": prompt.replace(token, "<image>"), "views": list(pixels.shape), "pixel_stride": stride,
            **(extra if whole else {})}


def read_sizes(text):
    return [tuple(int(side) for side in size.split("x", 1)) for size in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="model folder")
    parser.add_argument("out", help="safetensors file to write")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--small", action="store_true", help="small pictures, for tiny models and small files")
    parser.add_argument("--sizes", type=read_sizes, metavar="WxH,...", help="other pictures, one case for each: 640x480,7x300")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model, processor = open_model(args.model, args.dtype, args.device), open_processor(args.model)
    family, arrays, cases = model.config.model_type, {}, []
    sizes = args.sizes or ([(48, 36), (30, 50)] if args.small else [(500, 375), (300, 450)])
    for i, size in enumerate(sizes):
        print(f"picture {i + 1} of {len(sizes)} ...", flush=True)
        arrays[f"c{i}/picture"] = draw(*size, i % 2)
        cases.append(run_case(model, processor, family, f"c{i}", arrays[f"c{i}/picture"], QUESTIONS[i % 2], i == 0, arrays))
    facts = {"format": "sightline-reference", "version": 1, "transformers": transformers.__version__, "torch": torch.__version__,
             "dtype": args.dtype, "attention": "eager", "family": family, "model": os.path.basename(os.path.abspath(args.model)),
             "image_processor": type(processor.image_processor).__name__, "fingerprint": fingerprint(args.model), "cases": cases}
    arrays["reference.json"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    save_file(arrays, args.out, {"format": "pt"})
    print(f"{args.out}: {os.path.getsize(args.out) / 1e6:.1f} MB, {len(arrays)} arrays")


if __name__ == "__main__":
    main()

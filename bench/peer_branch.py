"""Times the rivals of bench_branch on the same checkpoint, cores and threads, in bf16 with frozen parameters:

  hooks   transformers with an attention hook and one full forward per mask (or per cut layer), masks batched
  expert  PyTorch by hand: keys and values of the prefix kept once, all masks' suffix rows in one batch, fused weights, compiled
          norms, rotation and gate; attention over shared and own keys joined by their log-sum-exp, without masks: per head only
          the rows that see a picture meet its keys

Both compute the same intervention: in every layer each head keeps the image with probability 1/2, else the rows after the image see
another picture's keys and values there. The first logits are compared, then timed. Prints one JSON object.

    python bench/peer_branch.py MODEL [masks] [threads] [runs] [hooks | expert]
"""
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peer import load, median_time

BEFORE, AFTER = 5, 20
FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def pixels(config, step):
    px = config.vision_config.image_size
    return ((torch.arange(3 * px * px) * step % 2001) / 1000 - 1).reshape(1, 3, px, px).to(torch.bfloat16)


def embed(model, step):
    """[1, T, D] input rows of a picture and the ids of bench_branch."""
    config = model.config
    n = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    ids = torch.tensor([[1 + t * 37 % 250 for t in range(BEFORE + n + AFTER)]])
    rows = model.get_input_embeddings()(ids).clone()
    tower = model.model.vision_tower(pixels(config, step), output_hidden_states=True).hidden_states[-2][:, 1:]
    rows[0, BEFORE:BEFORE + n] = model.model.multi_modal_projector(tower)[0]
    return rows, n


# ---- hooks: a full forward per mask ----

class Hooked:
    """An attention function that recomputes the suffix rows with other keys at the image, as a hook would."""

    def __init__(self, model, n_image):
        self.model, self.first, self.end = model, BEFORE, BEFORE + n_image
        self.base = {}     # layer -> (k, v) of the other picture at the image, [1, H, N, d]
        self.keep = None   # [B, L, H], True = own image; None = plain
        self.cut = None    # first layer without the image
        self.record = None
        ALL_ATTENTION_FUNCTIONS.register("sightline_bench", self.attend)
        model.model.language_model.config._attn_implementation = "sightline_bench"

    def attend(self, module, query, key, value, attention_mask, scaling, **_):
        layer = module.layer_idx
        if self.record is not None:
            self.record[layer] = (key[:, :, self.first:self.end].clone(), value[:, :, self.first:self.end].clone())
        plain = self.keep is None and (self.cut is None or layer < self.cut)
        rows = query if plain else query[:, :, :self.end]
        n = rows.shape[2]
        out = F.scaled_dot_product_attention(rows, key[:, :, :n], value[:, :, :n], is_causal=True, scale=scaling)
        if not plain:
            suffix = self.suffix(layer, query[:, :, self.end:], key, value, scaling)
            out = torch.cat((out, suffix), dim=2)
        return out.transpose(1, 2).contiguous(), None

    def suffix(self, layer, query, key, value, scaling):
        n = query.shape[2]
        if self.keep is None:  # the image is cut away
            key = torch.cat((key[:, :, :self.first], key[:, :, self.end:]), dim=2)
            value = torch.cat((value[:, :, :self.first], value[:, :, self.end:]), dim=2)
        else:
            keep = self.keep[:, layer, :, None, None]
            base_k, base_v = self.base[layer]
            key, value = key.clone(), value.clone()
            key[:, :, self.first:self.end] = torch.where(keep, key[:, :, self.first:self.end], base_k)
            value[:, :, self.first:self.end] = torch.where(keep, value[:, :, self.first:self.end], base_v)
        seen = torch.ones(n, key.shape[2], dtype=torch.bool).tril(key.shape[2] - n)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling)

    def forward(self, embeds):
        """Logits of the last row, [B, V]."""
        hidden = self.model.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return self.model.lm_head(hidden[:, -1])

    def remember_baseline(self, embeds):
        self.record = {}
        self.forward(embeds)
        self.base, self.record = self.record, None

    def masks(self, embeds, keep):
        self.keep = keep
        out = self.forward(embeds.expand(len(keep), -1, -1))
        self.keep = None
        return out

    def cut_at(self, embeds, layer):
        self.cut = layer
        out = self.forward(embeds)
        self.cut = None
        return out


# ---- the expert's ----

@torch.compile(dynamic=True)
def norm(x, weight, eps: float):
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()).bfloat16()


@torch.compile(dynamic=True)
def rotate(x, cosine, sine):
    """x [R, H, d] -> [H, R, d], rows of a head together."""
    half = x.shape[-1] // 2
    turned = x.float() * cosine[:, None] + torch.cat((-x[..., half:], x[..., :half]), -1).float() * sine[:, None]
    return turned.bfloat16().transpose(0, 1).contiguous()


@torch.compile(dynamic=True)
def gated(x):
    gate, value = x.chunk(2, -1)
    return (F.silu(gate.float()) * value.float()).bfloat16()


@torch.compile(dynamic=True)
def join(out0, lse0, out1, lse1):
    """Attention over two sets of keys from that over each: [H, R, d] and [H, R] twice -> [R, H d]."""
    weight = torch.sigmoid(lse0 - lse1)[..., None]
    return (out0.float() * weight + out1.float() * (1 - weight)).bfloat16().transpose(0, 1).flatten(1)


class Expert:
    def __init__(self, model, n_image):
        text = model.config.text_config
        self.model, self.first, self.end, self.eps = model, BEFORE, BEFORE + n_image, text.rms_norm_eps
        self.heads, self.width = text.num_attention_heads, text.hidden_size // text.num_attention_heads
        self.layers, made = [], {}
        for layer in model.model.language_model.layers:
            key = layer.self_attn.q_proj.weight.data_ptr()  # layers that share weights share the fused ones
            if key not in made:
                a, m = layer.self_attn, layer.mlp
                made[key] = (layer.input_layernorm.weight, torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight)),
                             a.o_proj.weight, layer.post_attention_layernorm.weight,
                             torch.cat((m.gate_proj.weight, m.up_proj.weight)), m.down_proj.weight)
            self.layers.append(made[key])

    def rotation(self, positions):
        inv = 1.0 / (10000.0 ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width))
        angle = torch.outer(positions.float(), inv)
        return angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

    def block(self, layer, x, turn, attend):
        """x [R, D] -> [R, D]; attend(q, k, v) with [H, R, d] each gives [R, H d]."""
        norm1, qkv, o, norm2, up, down = self.layers[layer]
        q, k, v = F.linear(norm(x, norm1, self.eps), qkv).view(len(x), 3, self.heads, self.width).unbind(1)
        z = attend(rotate(q, *turn), rotate(k, *turn), v.transpose(0, 1).contiguous())
        x = torch.addmm(x, z, o.T)
        return torch.addmm(x, gated(F.linear(norm(x, norm2, self.eps), up)), down.T)

    def head(self, x):
        return self.model.lm_head(self.model.model.language_model.norm(x))

    def run(self, embeds):
        """Keys and values [H, T, d] of every layer in a plain run, and the suffix rows before every layer."""
        x, keys, rows = embeds[0], [], []
        turn = self.rotation(torch.arange(len(x)))

        def attend(q, k, v):
            keys.append((k, v))
            return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0].transpose(0, 1).flatten(1)

        for layer in range(len(self.layers)):
            rows.append(x[self.end:])
            x = self.block(layer, x, turn, attend)
        return keys, rows

    def prepare(self, embeds, other):
        keys, self.rows = self.run(embeds)
        self.turn = self.rotation(torch.arange(self.end, self.end + AFTER))
        self.shared = []  # own and other prefix of every layer
        for own, new in zip(keys, self.run(other)[0]):
            own = [y[:, :self.end].contiguous() for y in own]
            other_image = [torch.cat((y[:, :self.first], z[:, self.first:self.end]), 1) for y, z in zip(own, new)]
            self.shared.append((own, other_image))

    def local(self, q, k, v, n):
        """Causal attention within each of n branches: [H, n AFTER, d] each -> out likewise, log-sum-exp [H, n AFTER]."""
        q, k, v = (y.view(self.heads, n, AFTER, self.width) for y in (q, k, v))
        out, lse = FLASH(q, k, v, 0.0, True)
        return out.flatten(1, 2), lse.reshape(self.heads, -1)

    def masks(self, keep):
        """keep [M, L, H]: logits of the last row of every branch."""
        n = len(keep)
        x, turn = self.rows[0].repeat(n, 1), tuple(y.repeat(n, 1) for y in self.turn)
        row_keep = keep.repeat_interleave(AFTER, 0)  # [R, L, H]
        for layer in range(len(self.layers)):
            def attend(q, k, v, layer=layer):
                out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
                for h in range(self.heads):
                    for own, (sk, sv) in zip((True, False), self.shared[layer]):
                        rows = torch.nonzero(row_keep[:, layer, h] == own).flatten()
                        if len(rows):
                            o, l = FLASH(q[h].index_select(0, rows)[None, None], sk[None, h:h + 1], sv[None, h:h + 1])
                            out[h].index_copy_(0, rows, o[0, 0])
                            lse[h].index_copy_(0, rows, l.flatten())
                return join(out, lse, *self.local(q, k, v, n))

            x = self.block(layer, x, turn, attend)
        return self.head(x.view(n, AFTER, -1)[:, -1])

    def sweep(self):
        """Logits with the image cut from layer k on, k = 0 .. L - 1: a branch joins in its first cut layer."""
        x = self.rows[0][:0]
        for layer in range(len(self.layers)):
            n = layer + 1
            text_k, text_v = (y[None, :, :self.first].contiguous() for y in self.shared[layer][0])

            def attend(q, k, v, n=n, text_k=text_k, text_v=text_v):
                out, lse = FLASH(q[None], text_k, text_v)
                return join(out[0], lse[0], *self.local(q, k, v, n))

            x = self.block(layer, torch.cat((x, self.rows[layer])), tuple(y.repeat(n, 1) for y in self.turn), attend)
        return self.head(x.view(-1, AFTER, x.shape[-1])[:, -1])


# ---- measuring ----

def relative(a, b):
    return ((a.float() - b.float()).abs().max() / b.float().std()).item()


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def time_hooks(hooked, embeds, keep):
    """Seconds of a mask and of a cut: a forward pass each, so few are enough. Called once before."""
    times = {n: seconds(lambda n=n: hooked.masks(embeds, keep[:n])) / n for n in (1, 4)}
    n_layer = keep.shape[1]
    return {"hooks_batch": min(times, key=times.get), "hooks_mask_s": min(times.values()),
            "hooks_cut_s": statistics.mean(seconds(lambda k=k: hooked.cut_at(embeds, k)) for k in (0, n_layer // 2)),
            "plain_s": median_time(lambda: hooked.forward(embeds), 2)}


def time_expert(expert, embeds, other, keep, runs):
    expert.prepare(embeds, other)  # compiles, too
    prepare = seconds(lambda: expert.prepare(embeds, other)) / 2  # two pictures
    return {"expert_start_s": prepare, "expert_s": median_time(lambda: expert.masks(keep), runs),
            "expert_sweep_s": median_time(expert.sweep, runs)}


def measure(folder, n_mask, runs, which):
    model = load(folder, "sdpa")
    text = model.config.text_config
    keep = torch.rand(n_mask, text.num_hidden_layers, text.num_attention_heads, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.no_grad():
        embeds, n_image = embed(model, 7919)
        other, _ = embed(model, 104729)
        hooked, expert = Hooked(model, n_image), Expert(model, n_image)
        hooked.remember_baseline(other)
        expert.prepare(embeds, other)
        # bf16 through 32 layers; other masks are off by 3
        error = relative(expert.masks(keep[:2]), hooked.masks(embeds, keep[:2]))
        assert error < 0.3, f"the two rivals differ by {error} standard deviations"
        assert relative(expert.sweep()[3], hooked.cut_at(embeds, 3)[0]) < 0.3
        out = {"masks": n_mask, "suffix": AFTER, "difference": error}
        if which != "expert":
            out |= time_hooks(hooked, embeds, keep)
        if which != "hooks":
            out |= time_expert(expert, embeds, other, keep, runs)
    return out


def main():
    n_mask = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    print(json.dumps(measure(Path(sys.argv[1]), n_mask, runs, sys.argv[5] if len(sys.argv) > 5 else "both")))


if __name__ == "__main__":
    main()

"""Times the rivals of bench_branch on the same checkpoint, cores and threads, in bf16 with frozen parameters:

  hooks   transformers with an attention hook and one full forward per mask (or per cut layer), masks batched
  expert  PyTorch by hand: keys and values of the prefix kept once, all masks' suffix rows in one batch, fused weights,
          attention over shared and own keys joined by their log-sum-exp, no head seeing both pictures' keys

Both compute the same intervention: in every layer each head keeps the image with probability 1/2, else the rows after the image see
another picture's keys and values there. The first logits are compared, then timed. Prints one JSON object.

    python bench/peer_branch.py MODEL [masks] [threads] [runs]
"""
import json
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

class Linear:
    """A bf16 weight in oneDNN's own layout for this many rows where that helps (`packed`), else plain."""

    def __init__(self, weight, packed_rows):
        self.weight, self.packed = weight, None
        if packed_rows:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, packed_rows)

    def __call__(self, x):
        if self.packed is None:
            return F.linear(x, self.weight)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class Expert:
    def __init__(self, model, n_image, packed_rows):
        text = model.config.text_config
        self.model, self.first, self.end, self.eps = model, BEFORE, BEFORE + n_image, text.rms_norm_eps
        self.heads, self.width = text.num_attention_heads, text.hidden_size // text.num_attention_heads
        self.layers, made = [], {}
        for layer in model.model.language_model.layers:
            key = layer.self_attn.q_proj.weight.data_ptr()  # layers that share weights share the fused ones
            if key not in made:
                a, m = layer.self_attn, layer.mlp
                qkv = torch.cat((a.q_proj.weight, a.k_proj.weight, a.v_proj.weight))
                up = torch.cat((m.gate_proj.weight, m.up_proj.weight))
                made[key] = (layer.input_layernorm.weight, layer.post_attention_layernorm.weight,
                             *(Linear(w, packed_rows) for w in (qkv, a.o_proj.weight, up, m.down_proj.weight)))
            self.layers.append(made[key])

    def rotation(self, positions):
        inv = 1.0 / (10000.0 ** (torch.arange(0, self.width, 2, dtype=torch.float32) / self.width))
        angle = torch.outer(positions.float(), inv)
        return angle.cos().repeat(1, 2).bfloat16(), angle.sin().repeat(1, 2).bfloat16()

    def block(self, layer, x, turn, attend):
        """x [R, D] -> [R, D]; attend(q, k, v) with [R, H, d] each gives [R, H d]."""
        norm1, norm2, qkv, o, up, down = self.layers[layer]
        q, k, v = qkv(F.rms_norm(x, norm1.shape, norm1, self.eps)).view(len(x), 3, self.heads, self.width).unbind(1)
        cosine, sine = turn
        rotate = lambda y: y * cosine[:, None] + torch.cat((-y[..., self.width // 2:], y[..., :self.width // 2]), -1) * sine[:, None]
        x = x + o(attend(rotate(q), rotate(k), v))
        gate, value = up(F.rms_norm(x, norm2.shape, norm2, self.eps)).chunk(2, -1)
        return x + down(F.silu(gate) * value)

    def head(self, x):
        return self.model.lm_head(self.model.model.language_model.norm(x))

    def run(self, embeds):
        """Keys and values [H, T, d] of every layer in a plain run, and the suffix rows before every layer."""
        x, keys, rows = embeds[0], [], []
        turn = self.rotation(torch.arange(len(x)))

        def attend(q, k, v):
            q, k, v = (y.transpose(0, 1).contiguous() for y in (q, k, v))
            keys.append((k, v))
            return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0].transpose(0, 1).flatten(1)

        for layer in range(len(self.layers)):
            rows.append(x[self.end:])
            x = self.block(layer, x, turn, attend)
        return keys, rows

    def prepare(self, embeds, other):
        self.keys, self.rows = self.run(embeds)
        self.other = [(k[:, self.first:self.end].clone(), v[:, self.first:self.end].clone()) for k, v in self.run(other)[0]]
        self.turn = self.rotation(torch.arange(self.end, self.end + AFTER))
        self.shared = []   # own and other prefix, laid side by side once
        for (k, v), (bk, bv) in zip(self.keys, self.other):
            k, v = k[:, :self.end].contiguous(), v[:, :self.end].contiguous()
            self.shared.append(((k, v), (torch.cat((k[:, :self.first], bk), 1), torch.cat((v[:, :self.first], bv), 1))))

    def local(self, q, k, v, n):
        """Causal attention within each branch: q, k, v [n AFTER, H, d] -> out [n AFTER, H, d], log-sum-exp [n AFTER, H]."""
        q, k, v = (y.view(n, AFTER, self.heads, self.width).transpose(1, 2) for y in (q, k, v))
        out, lse = FLASH(q, k, v, 0.0, True)
        # lse comes as [n, H, AFTER]
        return out.transpose(1, 2).reshape(-1, self.heads, self.width), lse.transpose(1, 2).reshape(-1, self.heads)

    def join(self, out0, lse0, out1, lse1):
        weight = torch.sigmoid(lse0 - lse1).to(out0.dtype)[..., None]
        return torch.lerp(out1, out0, weight).flatten(1)

    def masks(self, keep):
        """keep [M, L, H]: logits of the last row of every branch."""
        n = len(keep)
        x = self.rows[0].repeat(n, 1)
        turn = tuple(y.repeat(n, 1) for y in self.turn)
        row_keep = keep.repeat_interleave(AFTER, 0)  # [R, L, H]
        for layer in range(len(self.layers)):
            sides = [[torch.nonzero(row_keep[:, layer, h] == own).flatten() for own in (True, False)] for h in range(self.heads)]

            def attend(q, k, v, layer=layer, sides=sides):
                # Per head only the rows that see a picture meet its keys; no mask is needed there.
                out, lse = torch.empty_like(q), torch.empty(q.shape[:2])
                by_head = q.transpose(0, 1).contiguous()
                for h in range(self.heads):
                    for rows, (sk, sv) in zip(sides[h], self.shared[layer]):
                        if len(rows):
                            o, l = FLASH(by_head[h].index_select(0, rows)[None, None], sk[None, h:h + 1], sv[None, h:h + 1])
                            out[:, h].index_copy_(0, rows, o[0, 0])
                            lse[:, h].index_copy_(0, rows, l.flatten())
                return self.join(out, lse, *self.local(q, k, v, n))

            x = self.block(layer, x, turn, attend)
        return self.head(x.view(n, AFTER, -1)[:, -1])

    def masks_gathered(self, keep):
        """The same with each branch's keys laid out beside its own ones, in one attention call a layer."""
        n = len(keep)
        x = self.rows[0].repeat(n, 1)
        turn = tuple(y.repeat(n, 1) for y in self.turn)
        seen = torch.ones(AFTER, self.end + AFTER, dtype=torch.bool).tril(self.end)
        bias = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill(~seen, float("-inf"))
        k_all, v_all = (torch.empty(n, self.heads, self.end + AFTER, self.width, dtype=torch.bfloat16) for _ in "kv")
        for layer in range(len(self.layers)):
            def attend(q, k, v, layer=layer):
                own, other = self.shared[layer]
                flag = keep[:, layer, :, None, None]
                for i, (all_, new) in enumerate(((k_all, k), (v_all, v))):
                    torch.where(flag, own[i], other[i], out=all_[:, :, :self.end])
                    all_[:, :, self.end:] = new.view(n, AFTER, self.heads, self.width).transpose(1, 2)
                q = q.view(n, AFTER, self.heads, self.width).transpose(1, 2)
                return F.scaled_dot_product_attention(q, k_all, v_all, attn_mask=bias).transpose(1, 2).reshape(n * AFTER, -1)

            x = self.block(layer, x, turn, attend)
        return self.head(x.view(n, AFTER, -1)[:, -1])

    def sweep(self):
        """Logits with the image cut from layer k on, k = 0 .. L: a branch joins in its first cut layer."""
        x, last = self.rows[0][:0], []
        for layer in range(len(self.layers)):
            x = torch.cat((x, self.rows[layer]))
            n = layer + 1
            (k0, v0), _ = self.shared[layer]
            k0, v0 = k0[:, :self.first].contiguous()[None], v0[:, :self.first].contiguous()[None]

            def attend(q, k, v, n=n, k0=k0, v0=v0):
                out, lse = FLASH(q.transpose(0, 1)[None], k0, v0)
                return self.join(out[0].transpose(0, 1), lse[0].transpose(0, 1), *self.local(q, k, v, n))

            x = self.block(layer, x, tuple(y.repeat(n, 1) for y in self.turn), attend)
        return self.head(x.view(-1, AFTER, x.shape[-1])[:, -1])


# ---- measuring ----

def relative(a, b):
    return ((a.float() - b.float()).abs().max() / b.float().std()).item()


def measure(folder, n_mask, runs):
    model = load(folder, "sdpa")
    generator = torch.Generator().manual_seed(1)
    text = model.config.text_config
    keep = torch.rand(n_mask, text.num_hidden_layers, text.num_attention_heads, generator=generator) < 0.5
    out = {"masks": n_mask, "suffix": AFTER}
    with torch.no_grad():
        embeds, n_image = embed(model, 7919)
        other, _ = embed(model, 104729)
        hooked = Hooked(model, n_image)
        hooked.remember_baseline(other)
        want = hooked.masks(embeds, keep[:2])
        want_cut = hooked.cut_at(embeds, 3)
        times = {b: median_time(lambda b=b: hooked.masks(embeds, keep[:b]), 1) / b for b in (1, 4)}
        out["hooks_batch"] = min(times, key=times.get)
        out["hooks_mask_s"] = times[out["hooks_batch"]]
        cuts = [median_time(lambda k=k: hooked.cut_at(embeds, k), 1) for k in (0, 16)]
        out["hooks_cut_s"] = sum(cuts) / len(cuts)
        out["plain_s"] = median_time(lambda: hooked.forward(embeds), 2)

        best = None
        for packed in (False, True):
            expert = Expert(model, n_image, n_mask * AFTER if packed else 0)
            start = time.perf_counter()
            expert.prepare(embeds, other)
            out.setdefault("expert_prepare_s", (time.perf_counter() - start) / 2)  # two pictures
            for name, function in (("grouped", expert.masks), ("gathered", expert.masks_gathered)):
                error = relative(function(keep[:2]), want)
                assert error < 0.3, (name, error)  # bf16 through 32 layers; another mask is off by more than 1
                seconds = median_time(lambda f=function: f(keep), 1)
                out[f"expert_{name}{'_packed' if packed else ''}_s"] = seconds
                if best is None or seconds < best[0]:
                    best = (seconds, function, packed, name)
            if packed == best[2]:
                assert relative(expert.sweep()[3], want_cut[0]) < 0.3
                out["expert_sweep_s"] = median_time(expert.sweep, runs)
            if best[2] == packed:
                out["expert_s"] = median_time(lambda: best[1](keep), runs)
        out["expert_best"] = best[3] + (", packed weights" if best[2] else "")
    return out


def main():
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    n_mask = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    print(json.dumps(measure(Path(sys.argv[1]), n_mask, runs)))


if __name__ == "__main__":
    main()

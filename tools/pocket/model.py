"""A compact LLaVA for training, equal in arithmetic to transformers' classes.

Parameter names follow LlavaForConditionalGeneration, so a state dict moves to
the Hugging Face class without renaming. The difference is speed only: no cache,
one fused attention call, and several question turns per picture that share its
image tokens through an attention mask.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from scenes import GRID, PATCH


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    tower_width: int = 160
    tower_layers: int = 6
    tower_heads: int = 5
    tower_mlp: int = 640
    width: int = 192
    layers: int = 12
    heads: int = 8
    mlp: int = 512
    vocabulary: int = 1024
    positions: int = 1024
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    image_tokens: int = GRID * GRID


def attend(q, k, v, bias=None):
    """Plain softmax attention; on CPUs its backward pass beats the fused one."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ v


class TowerLayer(nn.Module):
    """One pre-norm CLIP encoder layer."""

    def __init__(self, s):
        super().__init__()
        self.heads = s.tower_heads
        self.self_attn = nn.ModuleDict({n: nn.Linear(s.tower_width, s.tower_width)
                                        for n in ("q_proj", "k_proj", "v_proj", "out_proj")})
        self.layer_norm1 = nn.LayerNorm(s.tower_width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(s.tower_width, s.tower_mlp),
                                  "fc2": nn.Linear(s.tower_mlp, s.tower_width)})
        self.layer_norm2 = nn.LayerNorm(s.tower_width)

    def forward(self, x):
        b, t, c = x.shape
        a, y = self.self_attn, self.layer_norm1(x)
        q, k, v = (a[n](y).view(b, t, self.heads, -1).transpose(1, 2)
                   for n in ("q_proj", "k_proj", "v_proj"))
        y = attend(q, k, v)
        x = x + a["out_proj"](y.transpose(1, 2).reshape(b, t, c))
        y = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y))


class Tower(nn.Module):
    """The CLIP vision tower up to the feature layer (the last but one)."""

    def __init__(self, s):
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.randn(s.tower_width) * 0.02)
        self.embeddings.patch_embedding = nn.Conv2d(3, s.tower_width, PATCH, PATCH, bias=False)
        self.embeddings.position_embedding = nn.Embedding(s.image_tokens + 1, s.tower_width)
        self.pre_layrnorm = nn.LayerNorm(s.tower_width)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(TowerLayer(s) for _ in range(s.tower_layers))
        self.post_layernorm = nn.LayerNorm(s.tower_width)

    def forward(self, pixels):
        """Returns the patch features of the last but one layer, without the class token."""
        e = self.embeddings
        b = pixels.shape[0]
        # The stride-PATCH convolution as a matrix product over unfolded patches.
        x = pixels.view(b, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(b, GRID * GRID, -1) @ e.patch_embedding.weight.flatten(1).t()
        x = torch.cat([e.class_embedding.expand(b, 1, -1), x], 1) + e.position_embedding.weight
        x = self.pre_layrnorm(x)
        for layer in self.encoder.layers[:-1]:
            x = layer(x)
        return x[:, 1:]


class RMSNorm(nn.Module):
    """LLaMA's norm; the mean square is taken in float32."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return x * torch.rsqrt(norm.square() / x.shape[-1] + self.eps).to(x.dtype) * self.weight


def rotate(x, cos, sin):
    """Applies rotary position embedding, halves convention as in transformers."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class DecoderLayer(nn.Module):
    """One LLaMA layer: attention and gated MLP, both pre-norm."""

    def __init__(self, s):
        super().__init__()
        self.heads = s.heads
        self.input_layernorm = RMSNorm(s.width, s.rms_eps)
        self.self_attn = nn.ModuleDict({n: nn.Linear(s.width, s.width, bias=False)
                                        for n in ("q_proj", "k_proj", "v_proj", "o_proj")})
        self.post_attention_layernorm = RMSNorm(s.width, s.rms_eps)
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(s.width, s.mlp, bias=False),
                                  "up_proj": nn.Linear(s.width, s.mlp, bias=False),
                                  "down_proj": nn.Linear(s.mlp, s.width, bias=False)})

    def forward(self, x, cos, sin, prefix_bias, turn_bias, rows=None):
        """rows: flat positions to go on with; the result then holds these alone."""
        b, t, c = x.shape
        a, y = self.self_attn, self.input_layernorm(x)
        q, k, v = (a[n](y).view(b, t, self.heads, -1).transpose(1, 2)
                   for n in ("q_proj", "k_proj", "v_proj"))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        # The prefix never looks at the turns, so its part of the scores is left out.
        p = prefix_bias.shape[-1]
        y = torch.cat([attend(q[:, :, :p], k[:, :, :p], v[:, :, :p], prefix_bias),
                       attend(q[:, :, p:], k, v, turn_bias)], 2)
        y = y.transpose(1, 2).reshape(b, t, c)
        if rows is not None:
            x, y = x.flatten(0, 1)[rows], y.flatten(0, 1)[rows]
        x = x + a["o_proj"](y)
        y = self.post_attention_layernorm(x)
        m = self.mlp
        return x + m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y))


def plane_waves(width):
    """Start values of the patches' position embeddings: waves along both axes."""
    frequency = 0.05 ** torch.linspace(0, 1, width // 4)
    angle = torch.arange(GRID)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], 1)
    along_y = axis[:, None].expand(GRID, GRID, -1)
    along_x = axis[None, :].expand(GRID, GRID, -1)
    return torch.cat([along_y, along_x], -1).flatten(0, 1)


class PocketLlava(nn.Module):
    """Tower, two-layer projector and LLaMA decoder.

    Training starts with the decoder layers FIRST_LAYERS alone. The others start
    with zero output matrices: they change nothing until they are switched on, so
    the full model is at every moment what was trained so far.
    """

    FIRST_LAYERS = (1, 4, 7, 10)

    def __init__(self, shape=Shape()):
        super().__init__()
        s = self.shape = shape
        self.model = nn.Module()
        self.model.vision_tower = Tower(s)
        self.model.multi_modal_projector = nn.ModuleDict({
            "linear_1": nn.Linear(s.tower_width, s.width),
            "linear_2": nn.Linear(s.width, s.width)})
        self.model.language_model = nn.Module()
        self.model.language_model.embed_tokens = nn.Embedding(s.vocabulary, s.width)
        self.model.language_model.layers = nn.ModuleList(DecoderLayer(s) for _ in range(s.layers))
        self.model.language_model.norm = RMSNorm(s.width, s.rms_eps)
        self.lm_head = nn.Linear(s.width, s.vocabulary, bias=False)
        self.apply(self._initialise)
        for name, p in self.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
                layers = s.tower_layers if "vision_tower" in name else s.layers
                p.data /= (2 * layers) ** 0.5
        # Equal queries and keys let attention start at what is alike: in the tower at a
        # patch's surroundings, in the decoder at patches that show what a word names.
        tower = self.model.vision_tower
        tower.embeddings.position_embedding.weight.data[1:] = plane_waves(s.tower_width)
        for layer in tower.encoder.layers:
            layer.self_attn["k_proj"].weight.data.copy_(layer.self_attn["q_proj"].weight)
        for i, layer in enumerate(self.model.language_model.layers):
            layer.self_attn["k_proj"].weight.data.copy_(layer.self_attn["q_proj"].weight)
            if i not in self.FIRST_LAYERS:
                nn.init.zeros_(layer.self_attn["o_proj"].weight)
                nn.init.zeros_(layer.mlp["down_proj"].weight)

    @staticmethod
    def _initialise(module):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.2)

    def project(self, features):
        """Brings patch features into the decoder's width."""
        p = self.model.multi_modal_projector
        return p["linear_2"](F.gelu(p["linear_1"](features)))

    def name_patches(self, image):
        """Logits over the vocabulary straight from projected patches (training aid)."""
        return F.rms_norm(image, image.shape[-1:]) @ self.model.language_model.embed_tokens.weight.t()

    def decode(self, image, batch, layers):
        """Runs the given decoder layers; returns logits at the flat positions batch.at.

        image: projected patches; batch: see turns.Batch.
        """
        s = self.shape
        lm = self.model.language_model
        text = lm.embed_tokens(batch.ids)
        x = torch.cat([text[:, :batch.start], image, text[:, batch.start:]], 1)
        half = s.width // s.heads // 2
        frequency = s.rope_theta ** (-torch.arange(half, device=x.device).float() / half)
        angle = batch.positions[:, None, :, None].float() * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for i in layers:
            rows = batch.at if i == layers[-1] else None
            x = lm.layers[i](x, cos, sin, batch.prefix_bias, batch.turn_bias, rows)
        return self.lm_head(lm.norm(x))


def normalise(images):
    """uint8 pictures (batch, SIDE, SIDE, 3) to the tower's input, as CLIPImageProcessor does."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=images.device)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=images.device)
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)

"""Exports a checkpoint as an unmodified LlavaForConditionalGeneration folder.

    python3 export.py CHECKPOINT.pt TOKENIZER.json OUT_FOLDER
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import (CLIPImageProcessor, CLIPVisionConfig, GenerationConfig, LlamaConfig,
                          LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor,
                          PreTrainedTokenizerFast)

from model import PocketLlava, Shape
from scenes import PATCH, SIDE

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}")


def config(shape, token_ids):
    """The Hugging Face configuration of the given sizes."""
    vision = CLIPVisionConfig(
        hidden_size=shape.tower_width, intermediate_size=shape.tower_mlp,
        num_hidden_layers=shape.tower_layers, num_attention_heads=shape.tower_heads,
        image_size=SIDE, patch_size=PATCH, projection_dim=shape.tower_width,
        hidden_act="quick_gelu", layer_norm_eps=1e-5)
    text = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, max_position_embeddings=shape.positions,
        rms_norm_eps=shape.rms_eps, rope_theta=shape.rope_theta, tie_word_embeddings=False,
        bos_token_id=token_ids["<s>"], eos_token_id=token_ids["</s>"],
        pad_token_id=token_ids["<pad>"])
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=token_ids["<image>"],
        vision_feature_layer=-2, vision_feature_select_strategy="default",
        projector_hidden_act="gelu", image_seq_length=shape.image_tokens,
        multimodal_projector_bias=True, tie_word_embeddings=False,
        pad_token_id=token_ids["<pad>"])


def processor(tokenizer_file):
    """Image processor and tokenizer as LLaVA-1.5 combines them."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        pad_token="<pad>", extra_special_tokens={"image_token": "<image>"},
        model_max_length=Shape().positions, padding_side="left", clean_up_tokenization_spaces=False)
    images = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, resample=3,
        do_convert_rgb=True)
    return LlavaProcessor(images, tokenizer, patch_size=PATCH,
                          vision_feature_select_strategy="default", num_additional_image_tokens=1,
                          image_token="<image>", chat_template=CHAT_TEMPLATE)


def write_plain_files(folder, tools):
    """Brings the small files to the names and fields every reader of the format knows."""
    image = tools.image_processor.to_dict()
    image.update(image_processor_type="CLIPImageProcessor", processor_class="LlavaProcessor")
    image.pop("image_processor", None)
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    settings = folder / "tokenizer_config.json"
    tokenizer = json.loads(settings.read_text())
    tokenizer.update(tokenizer_class="PreTrainedTokenizerFast", add_bos_token=True,
                     add_eos_token=False)
    tokenizer.pop("backend", None)
    settings.write_text(json.dumps(tokenizer, indent=2) + "\n")
    for shard in folder.glob("*.safetensors"):
        shard.chmod(0o644)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    tools = processor(args.tokenizer)
    ids = {t: tools.tokenizer.convert_tokens_to_ids(t) for t in ("<s>", "</s>", "<pad>", "<image>")}
    shape = Shape()
    settings = config(shape, ids)
    settings.dtype = torch.bfloat16
    hf = LlavaForConditionalGeneration(settings).to(torch.bfloat16)
    ours = PocketLlava(shape).to(torch.bfloat16)
    ours.load_state_dict(torch.load(args.checkpoint, map_location="cpu")["model"])
    hf.load_state_dict(ours.state_dict())
    hf.generation_config = GenerationConfig(
        bos_token_id=ids["<s>"], eos_token_id=ids["</s>"], pad_token_id=ids["<pad>"],
        max_new_tokens=64, do_sample=False)
    total = sum(p.numel() * p.element_size() for p in hf.parameters())
    hf.save_pretrained(args.out, max_shard_size=f"{int(total * 0.55 / 1000)}KB")
    tools.save_pretrained(args.out)
    write_plain_files(args.out, tools)
    print(f"{sum(p.numel() for p in hf.parameters())} parameters, {total} bytes")


if __name__ == "__main__":
    main()

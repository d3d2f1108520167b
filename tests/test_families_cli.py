"""Every analysis on every family: `trace` and `info` on each tiny checkpoint of tests/golden, results held against the schema and each other.

    python3 tests/test_families_cli.py path/to/sightline [unittest arguments]
"""
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden")
SCHEMA = os.path.join(HERE, "..", "src", "store", "schema.c")
QUESTION = "What is this?"
PROGRAM = "sightline"
TYPES = {"F32": ("f", "SL_F32"), "I32": ("i", "SL_I32"), "U8": ("B", "SL_U8")}
# Undefined by nature: shares of an object without a mask, layers without a map, cuts that make no difference.
MAY_BE_NAN = ("flow.stats", "cam.stats", "cam.flow_correlation", "flow.entropy")
# Image tokens and views of a picture with the most, where a square one of the tower's size has fewer: 2 x 2 tiles and the base, with newlines; 6
# tiles and the thumbnail, 4 tokens each; 4 x 5 cells of 64 px among at most 1536 px.
LARGEST = {"llava-next-vicuna": (9 + 6 * 6 + 6, 5), "llava-next-mistral": (9 + 6 * 6 + 6, 5), "llava-next-mistral-window": (9 + 6 * 6 + 6, 5),
           "internvl-native": (28, 7), "internvl-remote": (28, 7), "qwen2-vl": (20, 1), "qwen2.5-vl": (20, 1)}
ANALYSES = ("flow", "cam", "cliff", "heads", "tokens", "knockout", "lens")


def family_folders():
    """Folders with a model and golden numbers of transformers or official code."""
    names = sorted(os.listdir(GOLDEN))
    return [n for n in names if os.path.exists(os.path.join(GOLDEN, n, "config.json")) and os.path.exists(os.path.join(GOLDEN, n, "golden.json"))]


def read_tensors(path):
    """{name: (type, shape, flat values)}"""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header, data = json.loads(f.read(n)), f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            start, end = t["data_offsets"]
            code = TYPES[t["dtype"]][0]
            out[name] = (t["dtype"], t["shape"], struct.unpack(f"<{(end - start) // struct.calcsize(code)}{code}", data[start:end]))
    return out


def read_schema():
    """{result: (type, [shape, other shape])} of the table in schema.c."""
    with open(SCHEMA, encoding="utf-8") as f:
        rows = re.findall(r'\{"([\w.]+)",\s*(SL_\w+),\s*"([^"]+)",\s*(NULL|"[^"]+")', f.read())
    return {name: (kind, [shape] + ([other.strip('"')] if other != "NULL" else [])) for name, kind, shape, other in rows}


def size(expression, symbols):
    """Value of "L*H" or "L+1"; None where a symbol is unknown."""
    names = set(re.findall(r"[A-Za-z]\w*", expression))
    return eval(expression, {}, symbols) if names <= set(symbols) else None    # sums and products of the schema's own symbols


def is_framed(spans):
    """Whether tokens of class structure stand right before or behind the picture's positions (inside it, they are its own)."""
    structure, image = spans.get("structure", []), spans["image"]
    return any(e == min(s for s, _ in image) or b == max(e for _, e in image) for b, e in structure)


class Families(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.schema = read_schema()
        cls.dir = tempfile.mkdtemp(prefix="sl-families-")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def sightline(self, command, folder, *args):
        path = os.path.join(GOLDEN, folder)
        vision = os.path.join(path, "vision")
        tower = ["--vision-model", vision] if os.path.isdir(vision) else []
        r = subprocess.run([PROGRAM, command, "--model", path, *tower, "--quiet", "--dtype", "f32", *args], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=200)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        return r

    def trace(self, folder):
        out = os.path.join(self.dir, folder)
        picture = os.path.join(GOLDEN, folder, "b.png" if os.path.exists(os.path.join(GOLDEN, folder, "b.png")) else "a.png")
        self.sightline("trace", folder, "--image", picture, "--prompt", QUESTION, "--max-tokens", "3", "--vision", "--per-token", "--samples", "40",
                       "--out", out)
        with open(os.path.join(out, "run.json"), encoding="utf-8") as f:
            return out, json.load(f), read_tensors(os.path.join(out, "tensors.safetensors"))

    def near(self, a, b, what):
        self.assertLessEqual(abs(a - b), 2e-4 * max(1.0, abs(b)), f"{what}: {a} and {b}")

    def check_shapes(self, run, tensors):
        model = run["model"]
        symbols = {"L": model["n_layer"], "H": model["n_head"], "D": model["d_model"], "V": model["n_vocab"],
                   "Q": len(run["queries"]), "N": tensors["image.box"][1][0], "P": len(run["tokens"]), "A": 1 + len(run["queries"])}
        for name, (kind, shape, values) in sorted(tensors.items()):
            self.assertIn(name, self.schema)
            wanted, shapes = self.schema[name]
            self.assertEqual(TYPES[kind][1], wanted, name)
            fits = [s for s in shapes if len(s.split(",")) == len(shape) and
                    all(size(e, symbols) in (None, n) for e, n in zip(s.split(","), shape))]
            self.assertTrue(fits, f"{name}: {shape} is none of {shapes}, {symbols}")
            if kind == "F32" and name not in MAY_BE_NAN:
                self.assertTrue(all(map(math.isfinite, values)), name)

    def check_boxes(self, run, tensors):
        """Shown tokens have a view and a box inside the picture or its padding, the others neither; one covers the middle."""
        _, (n, _), box = tensors["image.box"]
        view = tensors["image.view"][2]
        first = min(s for s, _ in run["spans"]["image"]) - min((i for i in range(n) if view[i] >= 0), default=0)
        width, height = run["image"]["width_px"], run["image"]["height_px"]
        shown = {p - first for s, e in run["spans"]["image"] for p in range(s, e)}
        queries = "image.projection" in tensors
        if queries:
            patches = tensors["image.projection"][1][1]
            shares = tensors["image.projection"][2]
            self.assertEqual(tensors["image.patch_box"][1], [patches, 4])
            for i in range(n):
                self.near(sum(shares[i * patches: (i + 1) * patches]), 1, "image.projection")
            box, shown, n, view = tensors["image.patch_box"][2], set(range(patches)), patches, [0] * patches
        covered = False
        for i in range(n):
            x0, y0, x1, y1 = box[4 * i: 4 * i + 4]
            if view[i] < 0:
                self.assertEqual((x0, y0, x1, y1), (0, 0, 0, 0))
                continue
            self.assertIn(i, shown)
            self.assertTrue(x1 > x0 and y1 > y0, i)
            most = max(width, height) / 2 + 1e-3         # a picture padded to a square has tokens beside it
            self.assertTrue(abs((x0 + x1 - width) / 2) < most and abs((y0 + y1 - height) / 2) < most, (i, x0, y0, x1, y1))
            covered = covered or (x0 <= width / 2 <= x1 and y0 <= height / 2 <= y1)
        self.assertTrue(covered)
        self.assertEqual(sum(v >= 0 for v in view[:n]), len(shown))

    def check_identities(self, run, tensors):
        """The same number by several ways: full pass, branches, masks, lens."""
        said = run["analyses"]
        cliff, lens, prob = said["cliff"], said["lens"], tensors["cliff.prob"][2]
        n_layer = run["model"]["n_layer"]
        self.near(cliff["logit"][n_layer], cliff["plain"], "cliff without a cut")
        self.near(cliff["logit"][0], cliff["no_image"], "cliff of the whole image")
        for name, part in (("heads", said["heads"]), ("tokens.image", said["tokens"]["image"]), ("tokens.text", said["tokens"]["text"])):
            self.near(part["all"], cliff["plain"], f"{name}: nothing ablated")
            # marks beside the picture ("</img>") are hidden with it, but no component of the image side
            if name != "tokens.image" or not is_framed(run["spans"]):
                self.near(part["none"], cliff["no_image"], f"{name}: everything ablated")
        self.near(lens["prob"][n_layer], prob[n_layer], "lens of the last layer")
        self.near(said["knockout"]["prob"], prob[n_layer], "knockout without a knockout")
        self.assertEqual(lens["rank"][n_layer], 1)
        self.assertEqual(tensors["lens.final_rank"][2][n_layer], 1)
        share = tensors["flow.share"]
        for i in range(0, len(share[2]), 5):
            self.near(sum(share[2][i: i + 5]), 1, "flow.share")
        n, image = tensors["flow.image"][1][2], tensors["flow.image"][2]
        for i in range(len(image) // n):       # classes image and structure lie in the picture's rows, except frames beside it
            row = share[2][5 * i: 5 * i + 5]
            # a row whose window does not reach the picture has no entropy over it
            self.assertEqual(math.isnan(tensors["flow.entropy"][2][i]), row[1] == 0, f"flow.entropy {i}")
            self.assertLessEqual(row[1] - 1e-5, sum(image[i * n: (i + 1) * n]))
            self.assertLessEqual(sum(image[i * n: (i + 1) * n]), row[1] + row[2] + 1e-5)
        heat, heats = tensors["cam.heat"], tensors["cam.heat"][2]
        defined = tensors["cam.defined"][2]
        self.assertEqual(defined[n_layer - 1], 0)               # the last layer's norm feeds its own row only
        self.assertTrue(all(defined[: n_layer - 1]) and min(heats) >= 0)
        self.assertGreater(max(heats), 0)
        self.assertGreater(max(tensors["cam.vision"][2]), 0)
        self.assertEqual(heat[1][:2], [n_layer, 1 + len(run["queries"])])

    def check_notice(self, folder):
        """The folder's chat template holds the words of the family's, but for LLaVA-1.6 Vicuna's, which lacks the system text."""
        vision = os.path.join(GOLDEN, folder, "vision")
        args = ["--vision-model", vision] if os.path.isdir(vision) else []
        r = subprocess.run([PROGRAM, "info", "--model", os.path.join(GOLDEN, folder), *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
        self.assertEqual("chat template" in r.stderr.decode(), folder == "llava-next-vicuna", r.stderr.decode())

    def check_info(self, folder, run):
        facts = json.loads(self.sightline("info", folder, "--json", "--prompt", QUESTION).stdout)
        self.assertEqual(facts["family"], run["model"]["family"])
        self.assertEqual((facts["weights"]["missing"], facts["hash"]), ([], run["model"]["hash"]))
        self.assertGreater(facts["weights"]["found"], 20)
        names = [s["name"] for s in facts["sites"]]
        self.assertEqual(len(set(names)), len(names))
        for part in ("vision.blocks.{i}.hook_resid_post", "projector.hook_in", "projector.hook_out", "blocks.{i}.attn.hook_z", "hook_logits"):
            self.assertIn(part, names)
        classes = [t["class"] for t in facts["prompt"]["tokens"]]
        self.assertLessEqual({"image", "user"}, set(classes))
        self.assertEqual(facts["prompt"]["text"], run["prompt"]["text"])
        estimate = facts["estimate"]
        self.assertEqual(estimate["tokens"], len(classes))
        self.assertTrue(all(estimate[k] > 0 for k in ("weights_bytes", "kv_cache_bytes", "working_bytes", "forward_flop", "cam_keep_bytes", "views")))
        self.assertGreater(estimate["cam_flop"], estimate["forward_flop"])
        largest = estimate.get("largest", {})
        self.assertEqual((largest.get("image_tokens"), largest.get("views")), LARGEST.get(folder, (None, None)))
        if largest:
            self.assertGreater(largest["kv_cache_bytes"], estimate["kv_cache_bytes"])
            self.assertGreater(largest["forward_flop"], estimate["forward_flop"])
        text = self.sightline("info", folder, "--prompt", QUESTION).stdout.decode()
        for word in ("family", "vision", "projector", "decoder", "template", "weights", "prompt", "memory"):
            self.assertRegex(text, rf"(?m)^{word} ")

    def test_the_same_picture_as_baseline(self):
        """Keys and values replaced by their own change nothing, whatever stands around the picture."""
        for folder in ("qwen2-vl", "internvl-native", "gemma3", "qwen-vl", "shikra", "llava-gqa"):
            picture = os.path.join(GOLDEN, folder, "a.png")
            for command in ("heads", "tokens"):
                out = os.path.join(self.dir, "same")
                self.sightline(command, folder, "--image", picture, "--prompt", QUESTION, "--max-tokens", "2", "--samples", "30", "--baseline",
                               f"image:{picture}", "--dtype", "f32", "--no-report", "--force", "--out", out)
                with open(os.path.join(out, "run.json"), encoding="utf-8") as f:
                    said = json.load(f)["analyses"][command]
                for part in (said["image"], said["text"]) if command == "tokens" else (said,):
                    self.near(part["none"], part["all"], f"{folder} {command}")
                    self.assertIn("curves_skipped", part)

    def test_all(self):
        folders = family_folders()
        self.assertGreaterEqual(len(folders), 13)
        for folder in folders:
            with self.subTest(folder):
                out, run, tensors = self.trace(folder)
                self.assertEqual(sorted(run["analyses"]), sorted(ANALYSES))
                self.check_shapes(run, tensors)
                self.check_boxes(run, tensors)
                self.check_identities(run, tensors)
                self.check_info(folder, run)
                self.check_notice(folder)
                self.assertGreater(os.path.getsize(os.path.join(out, "report.html")), 100000)
                shutil.rmtree(out)


class Layouts(unittest.TestCase):
    """InternVL with Qwen2 as it was released: the weights of transformers' layout under the remote code's names give the same bits."""
    NAMES = (("vision_tower.", "vision_model."), ("encoder.layer.", "encoder.layers."), ("cls_token", "class_embedding"),
             ("position_embeddings", "position_embedding"), ("patch_embeddings.projection", "patch_embedding"), ("lambda_", "ls"),
             ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.projection_layer", "attn.proj"),
             ("multi_modal_projector.layer_norm", "mlp1.0"), ("multi_modal_projector.linear_1", "mlp1.1"),
             ("multi_modal_projector.linear_2", "mlp1.3"))

    def rename(self, name):
        for old, new in self.NAMES:
            name = name.replace(old, new)
        return name

    def write_weights(self, source, target):
        """q, k and v of the tower are one tensor there, stacked."""
        with open(source, "rb") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            old, data = json.loads(f.read(n)), f.read()
        header, body = {}, b""
        for name in sorted(old):
            stack = [name]
            if re.search(r"attention\.[kv]_proj", name) and name.startswith("vision_tower") or name == "__metadata__":
                continue
            if "attention.q_proj" in name and name.startswith("vision_tower"):
                stack = [name.replace("q_proj", c + "_proj") for c in "qkv"]
            start = len(body)
            for part in stack:
                body += data[slice(*old[part]["data_offsets"])]
            shape = [len(stack) * old[name]["shape"][0], *old[name]["shape"][1:]]
            header[self.rename(name).replace("attention.q_proj", "attn.qkv")] = {"dtype": old[name]["dtype"], "shape": shape,
                                                                                "data_offsets": [start, len(body)]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(target, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + body)

    def write_config(self, source, target):
        with open(source, encoding="utf-8") as f:
            native = json.load(f)
        tower = native["vision_config"]
        vision = {k: tower[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")}
        vision.update(model_type="intern_vit_6b", image_size=16, patch_size=4, norm_type="layer_norm", qkv_bias=True, qk_normalization=False)
        with open(target, "w", encoding="utf-8") as f:
            json.dump({"model_type": "internvl_chat", "template": "internvl2_5", "ps_version": "v2", "dynamic_image_size": True,
                       "use_thumbnail": True, "max_dynamic_patch": 6, "force_image_size": 16, "llm_config": native["text_config"],
                       "vision_config": vision}, f)

    def test_released_layout_with_qwen2(self):
        source = os.path.join(GOLDEN, "internvl-native")
        prompt = "<|im_start|>user\n<image>\nWhat is this?<|im_end|>\n<|im_start|>assistant\n"
        with tempfile.TemporaryDirectory(prefix="sl-layout-") as d:
            for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                shutil.copy(os.path.join(source, name), d)
            self.write_weights(os.path.join(source, "model.safetensors"), os.path.join(d, "model.safetensors"))
            self.write_config(os.path.join(source, "config.json"), os.path.join(d, "config.json"))
            for picture in ("a.png", "c.png"):
                answers = []
                for folder in (source, d):
                    r = subprocess.run([PROGRAM, "ask", "--model", folder, "--image", os.path.join(source, picture), "--raw-prompt", "--prompt",
                                        prompt, "--max-tokens", "6", "--dtype", "f32", "--json", "--quiet"], stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, timeout=100)
                    self.assertEqual(r.returncode, 0, r.stderr.decode())
                    answers.append(json.loads(r.stdout)["answer_tokens"])
                self.assertEqual(len(answers[0]), 6)
                self.assertEqual(answers[0], answers[1])


class Large(unittest.TestCase):
    def make(self, d, max_pixels, positions):
        folder = os.path.join(d, "model")
        shutil.copytree(os.path.join(GOLDEN, "qwen2-vl"), folder)
        for name, key, value in (("preprocessor_config.json", "max_pixels", max_pixels), ("config.json", "max_position_embeddings", positions)):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                content = json.load(f)
            content[key] = value
            with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                json.dump(content, f)
        return folder

    def ask(self, positions, *args):
        """A picture of 640 x 480 px whose every 8 x 8 px are a token."""
        with tempfile.TemporaryDirectory(prefix="sl-large-") as d:
            folder = self.make(d, 400000, positions)
            picture = os.path.join(d, "large.ppm")
            with open(picture, "wb") as f:
                f.write(b"P6 640 480 255\n" + bytes(640 * 480 * 3))
            return subprocess.run([PROGRAM, "ask", "--model", folder, "--image", picture, "--prompt", QUESTION, "--max-tokens", "1", *args],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=200)

    def test_large_pictures_are_told(self):
        r = self.ask(8192, "--json", "--quiet")
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        self.assertRegex(json.loads(r.stdout)["warnings"][0], "the picture is 4800 image tokens, from 19200 patches .* max_pixels")
        r = self.ask(4800)
        self.assertEqual(r.returncode, 1)
        self.assertIn("the picture has 4800 image tokens; the model was made for 4800 positions", r.stderr.decode())


    def test_largest_estimate_is_of_a_picture_that_is_taken(self):
        for positions, tokens in ((8192, 6241), (6000, None)):      # 632 x 632 of 400,000 px, and no room for them
            with tempfile.TemporaryDirectory(prefix="sl-large-") as d:
                r = subprocess.run([PROGRAM, "info", "--model", self.make(d, 400000, positions), "--json", "--quiet", "--prompt", QUESTION],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
                self.assertEqual(r.returncode, 0, r.stderr.decode())
                self.assertEqual(json.loads(r.stdout)["estimate"].get("largest", {}).get("image_tokens"), tokens)


class Templates(unittest.TestCase):
    def info(self, folder, *args):
        return subprocess.run([PROGRAM, "info", "--model", folder, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)

    def test_changed_folder_is_told(self):
        """Another role marker in the folder's template: one line names the file and what is missing."""
        for family, old, new in (("llava-gqa", "ASSISTANT:", "BOT:"), ("llava-next-mistral", "[/INST]", "[END]"), ("internvl-native", "<|im_end|>", ""),
                                 ("idefics3", "Assistant:", "Helper:")):
            with tempfile.TemporaryDirectory(prefix="sl-template-") as d:
                folder = os.path.join(d, family)
                shutil.copytree(os.path.join(GOLDEN, family), folder)
                name = next(n for n in ("chat_template.jinja", "chat_template.json") if os.path.exists(os.path.join(folder, n)))
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    text = f.read()
                self.assertIn(old, text)
                with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                    f.write(text.replace(old, new).replace("role", "part"))
                told = [line for line in self.info(folder).stderr.decode().splitlines() if "chat template" in line]
                self.assertEqual(len(told), 1, (family, told))
                self.assertRegex(told[0], rf"{name}: this chat template lacks \"\S+\"; prompts are written as \".+\"")
                self.assertNotIn("chat template", self.info(folder, "--quiet").stderr.decode())
                self.assertNotIn("chat template", self.info(folder, "--template", "<image>{question}").stderr.decode())

    def test_option(self):
        """--template writes the prompt, and the family's own text given this way gives the family's own tokens."""
        folder = os.path.join(GOLDEN, "llava-gqa")
        picture = os.path.join(folder, "a.png")

        def layout(*args):
            return json.loads(self.info(folder, "--json", "--quiet", "--prompt", QUESTION, *args).stdout)["prompt"]
        own = layout()
        self.assertEqual(layout("--template", r"USER: <image>\n{question} ASSISTANT:"), own)
        other = layout("--template", "Q: <image> {question} A:")
        self.assertEqual(other["text"], f"Q: <image> {QUESTION} A:")
        self.assertNotEqual([t["id"] for t in other["tokens"]], [t["id"] for t in own["tokens"]])
        asked = [json.loads(subprocess.run([PROGRAM, "ask", "--model", folder, "--image", picture, "--json", "--quiet", "--max-tokens", "4", *args],
                                           stdout=subprocess.PIPE, timeout=100, check=True).stdout)
                 for args in (["--prompt", QUESTION, "--template", "Q: <image> {question} A:"], ["--raw-prompt", "--prompt", f"Q: <image> {QUESTION} A:"])]
        self.assertEqual(asked[0]["prompt"]["text"], asked[1]["prompt"]["text"])
        self.assertEqual(asked[0]["prompt"]["answer"], asked[1]["prompt"]["answer"])
        for template, message in (("<image>", "{question} 0 times"), ("{question}", "<image> 0 times"), ("<image><image>{question}", "<image> 2 times")):
            r = self.info(folder, "--template", template)
            self.assertEqual(r.returncode, 1)
            self.assertIn(message, r.stderr.decode())


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()

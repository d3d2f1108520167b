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
        if facts["vision"].get("any_size"):          # the processor makes the square picture 32 x 32 px, its largest: 4 x 4 cells
            largest = dict(estimate["largest"])
            self.assertEqual((largest.pop("image_px"), largest.pop("image_tokens")), (32, 16))
            self.assertEqual(largest, {k: v for k, v in estimate.items() if k != "largest"})
        text = self.sightline("info", folder, "--prompt", QUESTION).stdout.decode()
        for word in ("family", "vision", "projector", "decoder", "template", "weights", "prompt", "memory"):
            self.assertRegex(text, rf"(?m)^{word} ")

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

"""`sightline convert`: bits against torch's own, whole folders or none, messages.

    python3 tests/test_convert.py path/to/sightline [unittest arguments]
"""
import hashlib
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden", "torch")
TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
PROGRAM = "sightline"


def read_tensors(path):
    """{name: [dtype, shape, digest of its bytes]} of a safetensors file, as tools/golden/torch_files.py writes them."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header, data = json.loads(f.read(n)), f.read()
    return {k: [v["dtype"], v["shape"], hashlib.sha256(data[slice(*v["data_offsets"])]).hexdigest()[:16]]
            for k, v in header.items() if k != "__metadata__"}


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def write_safetensors(path, tensors):
    """{name: (dtype, shape, bytes)}"""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header + data)


class Convert(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="sl-convert-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.golden = read_json(os.path.join(GOLDEN, "convert.json"))

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def run_it(self, *args):
        return subprocess.run([PROGRAM, "convert", *args], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)

    def works(self, *args):
        r = self.run_it("--out", "out", *args)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        return r.stdout.decode()

    def fails(self, args, code, *words):
        before = sorted(os.listdir(self.dir))
        r = self.run_it(*args)
        message = r.stderr.decode()
        self.assertEqual((r.returncode, r.stdout), (code, b""), message)
        for word in words:
            self.assertIn(word, message.rstrip("\n").split("\n")[-1])
        self.assertEqual(sorted(os.listdir(self.dir)), before)  # nothing is left behind

    def kinds(self):
        """A folder with the file of all kinds and what lies beside weights."""
        os.mkdir(self.path("model"))
        shutil.copy(os.path.join(GOLDEN, "kinds.bin"), self.path("model", "pytorch_model.bin"))
        for name in ("config.json", "tokenizer.model", "merges.txt", "chat_template.jinja", "qwen.tiktoken", "modeling_x.py", "LICENSE",
                     "pytorch_model.bin.index.json", "optimizer.pt", ".hidden"):
            with open(self.path("model", name), "w") as f:
                f.write("{}" if name.endswith(".json") else name)
        os.mkdir(self.path("model", "checkpoint"))
        return self.path("model")

    def same(self, expected, found):
        self.assertEqual(sorted(expected), sorted(found))
        for name in expected:
            self.assertEqual(expected[name], found[name], name)


class Plain(Convert):
    def test_bin_keeps_every_bit(self):
        self.works("--model", self.kinds())
        self.same(read_tensors(os.path.join(GOLDEN, "kinds.safetensors")), read_tensors(self.path("out", "model.safetensors")))

    def test_types_round_as_torch(self):
        source = read_tensors(os.path.join(GOLDEN, "kinds.safetensors"))
        model = self.kinds()
        for dtype, name in TYPES.items():
            self.works("--model", model, "--dtype", dtype)
            expected = {**source, **self.golden["plain"][name]}  # what is no floating-point number stays
            self.assertGreater(len(self.golden["plain"][name]), 20)
            self.same(expected, read_tensors(self.path("out", "model.safetensors")))
            shutil.rmtree(self.path("out"))

    def test_what_comes_along(self):
        summary = json.loads(self.works("--model", self.kinds(), "--json"))
        self.assertEqual(summary["copied"], ["LICENSE", "chat_template.jinja", "config.json", "merges.txt", "modeling_x.py", "qwen.tiktoken",
                                             "tokenizer.model"])
        self.assertEqual(summary["left"], ["checkpoint", "optimizer.pt"])
        self.assertEqual((summary["files"], summary["tensors"]), (["model.safetensors"], 28))
        self.assertEqual(sorted(os.listdir(self.path("out"))), sorted(summary["copied"] + summary["files"]))
        self.assertEqual(sorted(os.listdir(self.dir)), ["model", "out"])
        with open(self.path("out", "merges.txt")) as f:
            self.assertEqual(f.read(), "merges.txt")

    def test_shards_and_safetensors(self):
        """A sharded .bin folder, then what came out of it once more: reading and writing are each other's inverse."""
        text = self.works("--model", os.path.join(GOLDEN, "sharded"))
        self.assertIn("5 tensors", text)
        expected = read_tensors(os.path.join(GOLDEN, "sharded.safetensors"))
        self.same(expected, read_tensors(self.path("out", "model.safetensors")))
        os.rename(self.path("out"), self.path("first"))
        self.works("--model", self.path("first"))
        self.same(expected, read_tensors(self.path("out", "model.safetensors")))

    def test_messages(self):
        model = self.kinds()
        self.fails(["--out", "o"], 2, "--model DIR")
        self.fails(["--model", model], 2, "--out DIR")
        self.fails(["--model", model, "--out", "o", "--dtype", "int4"], 2, "f32, f16 or bf16", "int4")
        self.fails(["--model", model, "--out", "o", "word"], 2, "word")
        self.fails(["--model", model, "--out", model], 1, model, "does not exist yet")
        self.fails(["--model", model, "--out", model + "/"], 1, "does not exist yet")
        self.fails(["--model", model, "--out", "no/such/place"], 1, "no/such")
        self.fails(["--model", model, "--out", "."], 1, "does not exist yet")
        self.fails(["--model", "gone", "--out", "o"], 1, "gone", "cannot open")
        self.fails(["--model", os.path.join(GOLDEN, "kinds.bin"), "--out", "o"], 1, "kinds.bin", "expected a folder")
        shutil.copy(os.path.join(GOLDEN, "legacy.bin"), os.path.join(model, "pytorch_model.bin"))
        self.fails(["--model", model, "--out", "o"], 1, "pytorch_model.bin", "PyTorch before 1.6")

    def test_too_large_for_f16(self):
        os.mkdir(self.path("large"))
        values = {"fine": ("F32", [2], struct.pack("<2f", 65504, float("inf"))), "large": ("F32", [2], struct.pack("<2f", 1, 7e4))}
        write_safetensors(self.path("large", "model.safetensors"), values)
        self.fails(["--model", "large", "--out", "o", "--dtype", "f16"], 1, 'tensor "large": element 1 is 70000, which F16 cannot hold')
        self.works("--model", "large", "--dtype", "bf16")

    def test_beyond_f32(self):
        """No number becomes infinite, whichever step it would overflow in; what is infinite stays so."""
        os.mkdir(self.path("wide"))
        os.mkdir(self.path("base"))
        write_safetensors(self.path("wide", "model.safetensors"), {"w": ("F64", [3], struct.pack("<3d", 1e39, 1, -math.inf))})
        for dtype in ("f32", "f16", "bf16"):
            self.fails(["--model", "wide", "--out", "o", "--dtype", dtype], 1, 'tensor "w": element 0 is 1e+39, which F32 cannot hold')
        self.works("--model", "wide")  # as it is
        for name, value in (("wide", 3e38), ("base", 2e38)):
            write_safetensors(self.path(name, "model.safetensors"), {"w": ("F32", [2], struct.pack("<2f", 1, value))})
        self.fails(["--model", "wide", "--delta-base", "base", "--out", "o"], 1, "element 1 is 5e+38, which F32 cannot hold")
        self.fails(["--model", "wide", "--out", "o", "--dtype", "f16"], 1, "element 1 is 3e+38, which F16 cannot hold")

    def test_type_of_f64(self):
        model = self.kinds()
        with open(os.path.join(model, "config.json"), "w") as f:
            f.write('{"torch_dtype": "float64"}')
        self.works("--model", model, "--dtype", "f32")
        self.assertEqual(read_json(self.path("out", "config.json")), {"torch_dtype": "float32"})

    def test_names_that_are_no_text(self):
        """Names of files are bytes: one that is not UTF-8 is told as well as JSON can."""
        model = self.kinds()
        with open(os.fsencode(model) + b"/caf\xe9.png", "w"):
            pass
        r = self.run_it("--model", model, "--out", b"o\xe9", "--json")
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        summary = json.loads(r.stdout)
        self.assertEqual(len(summary["left"]), 3)
        self.assertTrue(os.path.exists(os.fsencode(self.dir) + b"/o\xe9/model.safetensors"))

    def test_what_is_no_small_file_stays(self):
        model = self.kinds()
        os.remove(os.path.join(model, "merges.txt"))
        os.mkfifo(os.path.join(model, "merges.txt"))  # must not be waited for
        with open(os.path.join(model, "huge.json"), "wb") as f:
            f.truncate((64 << 20) + 1)
        os.rename(os.path.join(model, "tokenizer.model"), self.path("blob"))
        os.symlink(self.path("blob"), os.path.join(model, "tokenizer.model"))  # as in Hugging Face's cache
        self.assertIn("not copied: checkpoint, huge.json, merges.txt, optimizer.pt\n", self.works("--model", model))
        self.assertFalse(os.path.islink(self.path("out", "tokenizer.model")))
        self.assertTrue(os.path.isfile(self.path("out", "tokenizer.model")))


class Delta(Convert):
    def delta(self, *more):
        return self.works("--model", os.path.join(GOLDEN, "delta"), "--delta-base", os.path.join(GOLDEN, "base"), *more)

    def test_sums_are_torchs(self):
        for dtype, name in [(None, "F16"), *TYPES.items()]:
            text = self.delta(*(["--dtype", dtype] if dtype else []))
            self.same(self.golden["delta"][name], read_tensors(self.path("out", "model.safetensors")))
            self.assertIn("added to the base: 5 tensors", text)
            self.assertIn("taken as they are: model.mm_projector.weight, model.mm_projector.bias", text)
            shutil.rmtree(self.path("out"))

    def test_config_follows(self):
        with open(os.path.join(GOLDEN, "delta", "config.json")) as f:
            before = f.read()
        for dtype, name in ((None, "float16"), ("bf16", "bfloat16")):
            self.delta(*(["--dtype", dtype] if dtype else []))
            with open(self.path("out", "config.json")) as f:
                self.assertEqual(f.read(), before.replace('"torch_dtype": "float16"', f'"torch_dtype": "{name}"'))
            shutil.rmtree(self.path("out"))

    def changed_base(self, change):
        """The base as safetensors, after `change` of its {name: (dtype, shape, bytes)}."""
        tensors = {k: (v[0], v[1], b"\0" * (2 if v[0] == "F16" else 4) * (v[1][0] * (v[1][1] if len(v[1]) > 1 else 1)))
                   for k, v in read_tensors(self.base()).items()}
        change(tensors)
        shutil.rmtree(self.path("changed"), ignore_errors=True)
        os.mkdir(self.path("changed"))
        write_safetensors(self.path("changed", "model.safetensors"), tensors)
        return ["--model", os.path.join(GOLDEN, "delta"), "--delta-base", self.path("changed"), "--out", "o"]

    def base(self):
        if not os.path.exists(self.path("base")):
            r = self.run_it("--model", os.path.join(GOLDEN, "base"), "--dtype", "f32", "--out", "base")
            self.assertEqual(r.returncode, 0, r.stderr)
        return self.path("base", "model.safetensors")

    def test_bases_that_do_not_fit(self):
        up = "model.layers.0.mlp.up_proj.weight"
        self.fails(self.changed_base(lambda t: t.update({"model.more.weight": ("F16", [1], b"\0\0")})), 1, "model.more.weight", "expected in the delta")
        self.fails(self.changed_base(lambda t: t.update({up: ("F32", [3, 4], bytes(48))})), 1, up, "F32 [3, 4], found F16 [4, 3]")
        self.fails(self.changed_base(lambda t: t.update({up: ("F32", [2, 3], bytes(24))})), 1, up, "F32 [2, 3]")  # no vocabulary
        self.fails(self.changed_base(lambda t: t.update({up: ("I32", [4, 3], bytes(48))})), 1, up, "I32 [4, 3]")
        self.fails(self.changed_base(lambda t: t.update({"lm_head.weight": ("F32", [9, 4], bytes(144))})), 1, "lm_head.weight", "F32 [9, 4]")
        self.fails(self.changed_base(lambda t: t.update({"lm_head.weight": ("F32", [5, 3], bytes(60))})), 1, "lm_head.weight", "F32 [5, 3]")
        self.fails(["--model", os.path.join(GOLDEN, "delta"), "--delta-base", "gone", "--out", "o"], 1, "gone", "cannot open")

    def test_zero_base_gives_the_delta(self):
        args = self.changed_base(lambda t: None)
        self.assertEqual(self.run_it(*args).returncode, 0)
        os.rename(self.path("o"), self.path("o2"))
        self.works("--model", os.path.join(GOLDEN, "delta"))
        self.same(read_tensors(self.path("out", "model.safetensors")), read_tensors(self.path("o2", "model.safetensors")))


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)

"""`sightline verify` against a reference that transformers wrote (tools/verify/reference.py), whole and damaged.

    python3 tests/test_verify.py path/to/sightline [unittest arguments]
"""
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
MODEL = os.path.join(GOLDEN, "llava-gqa")
REFERENCE = os.path.join(GOLDEN, "verify", "llava-gqa.safetensors")
PROGRAM = "sightline"


class File:
    """A safetensors file whose bytes can be changed."""

    def __init__(self, path):
        with open(path, "rb") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            self.header, self.data = json.loads(f.read(n)), bytearray(f.read())

    def write(self, path):
        header = json.dumps(self.header).encode()
        header += b" " * (-len(header) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + self.data)

    def names(self, start):
        return [name for name in self.header if name.startswith(start)]

    def change(self, name, index, make):
        """Replaces one number of an array by make(number)."""
        kind = {"F32": "<f", "I32": "<i"}[self.header[name]["dtype"]]
        at = self.header[name]["data_offsets"][0] + 4 * index
        struct.pack_into(kind, self.data, at, make(struct.unpack_from(kind, self.data, at)[0]))

    def largest(self, name):
        """Index of the largest number, and the number."""
        start, end = self.header[name]["data_offsets"]
        values = struct.unpack(f"<{(end - start) // 4}f", self.data[start:end])
        index = max(range(len(values)), key=lambda i: abs(values[i]))
        return index, abs(values[index])


class Verify(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="sl-verify-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.damaged = os.path.join(self.dir, "damaged.safetensors")

    def run_it(self, *args, reference=REFERENCE, model=MODEL):
        return subprocess.run([PROGRAM, "verify", "--model", model, "--reference", reference, "--quiet", *args], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=100)

    def summary(self, code, *args, **kw):
        r = self.run_it("--json", *args, **kw)
        self.assertEqual(r.returncode, code, r.stderr.decode())
        return json.loads(r.stdout)

    def test_equal(self):
        s = self.summary(0)
        self.assertTrue(s["equal"] and s["first"] is None and s["same_template"])
        self.assertEqual(s["reference"]["transformers"].split(".")[0], "5")
        self.assertTrue(0 < s["largest"] < 1e-4)
        names = [c["name"] for c in s["checks"] if c["case"] == "c0"]
        self.assertEqual(names[:2], ["token ids", "pixels"])
        order = ["vision.blocks.0.hook_resid_post", "projector.hook_in", "projector.hook_out", "blocks.0.attn.hook_z", "blocks.0.ln2.hook_normalized",
                 "blocks.0.hook_resid_post", "blocks.1.attn.hook_z", "logits", "greedy tokens", "logits without one head"]
        self.assertEqual([n for n in names if n in order], order)
        self.assertTrue(names[-1].startswith("cam of layer"))
        file = File(REFERENCE)
        for case in ("c0", "c1"):      # every array of the reference that holds results was looked at
            sites = [n.split("/")[-1].split("@")[0] for n in file.names(case + "/site/")]
            told = [c["name"] for c in s["checks"] if c["case"] == case]
            self.assertEqual(sorted(set(sites) - set(told)), [])
        text = self.run_it().stdout.decode().splitlines()
        self.assertRegex(text[-1], r"^equal to transformers 5\.\S+ \(float32\) within \S+e-0\d$")

    def test_modes(self):
        s = self.summary(0, "--dtype", "bf16x2")
        self.assertEqual((s["tolerance"], s["compute"]["mode"]), (1e-3, "bf16x2"))
        self.assertEqual(self.summary(0, "--dtype", "bf16")["tolerance"], 5e-2)
        s = self.summary(1, "--tolerance", "1e-12")
        self.assertEqual(s["first"]["name"], "vision.blocks.0.hook_resid_post")

    def test_rounded_references(self):
        """A reference in 16 bits is compared loosely, and a difference from it is said to prove little."""
        file = File(REFERENCE)
        self.assertEqual(file.data.count(b'"dtype": "float32"'), 1)
        file.data = bytearray(bytes(file.data).replace(b'"dtype": "float32"', b'"dtype": "float16"'))
        file.write(self.damaged)
        self.assertEqual(self.summary(0, reference=self.damaged)["tolerance"], 5e-2)
        array = file.names("c0/site/blocks.1.hook_resid_post@")[0]
        index, largest = file.largest(array)
        file.change(array, index, lambda v: v + 0.1 * largest)
        file.write(self.damaged)
        told = self.run_it(reference=self.damaged).stdout.decode().splitlines()
        self.assertRegex(told[-2], "^note: in float16 the reference is off by its own rounding")
        self.assertRegex(told[-1], r"^different from transformers 5\.\S+ \(float16\): first at blocks.1.hook_resid_post of case c0$")
        self.assertNotIn("rounding", self.run_it("--tolerance", "1e-12").stdout.decode())

    def test_damage_is_found_where_it_is(self):
        """One number moved by 0.1 % of its row's largest: the first difference is there, and nowhere else is one."""
        file = File(REFERENCE)
        places = [(n, n.split("/")[-1].split("@")[0]) for n in file.names("c0/site/") + file.names("c1/site/")]
        places += [("c0/logits", "logits"), ("c1/logits", "logits"), ("c0/ablation", "logits without one head"), ("c0/pixels", "pixels")]
        self.assertGreater(len(places), 20)
        for array, site in places[::3] + places[-4:]:
            file = File(REFERENCE)
            index, largest = file.largest(array)
            file.change(array, index, lambda v: v + 1e-3 * largest)
            file.write(self.damaged)
            s = self.summary(1, reference=self.damaged)
            self.assertEqual((s["first"]["case"], s["first"]["name"]), (array[:2], site))
            self.assertAlmostEqual(s["first"]["error"], 1e-3, delta=2e-4)
            # pixels are taken over, and a thousandth of one pixel's value shows behind them too
            self.assertEqual([c["name"] for c in s["checks"] if not c["equal"]][:1], [site])
            if site != "pixels":
                self.assertEqual(sum(not c["equal"] for c in s["checks"]), 1)

    def test_maps_and_tokens(self):
        file = File(REFERENCE)
        index, largest = file.largest("c0/cam")
        self.assertGreater(largest, 0)
        file.change("c0/cam", index, lambda v: v * 1.01)
        file.write(self.damaged)
        self.assertRegex(self.summary(1, reference=self.damaged)["first"]["name"], "^cam of layer")
        for array, name in (("c1/greedy", "greedy tokens"), ("c1/ids", "token ids")):
            file = File(REFERENCE)
            file.change(array, 2, lambda v: v + 1)
            file.write(self.damaged)
            first = self.summary(1, reference=self.damaged)["first"]
            self.assertEqual((first["case"], first["name"]), ("c1", name))
            self.assertIn("token 2 is", first["note"])

    def test_what_is_no_number_is_a_difference(self):
        for array, site in (("c0/pixels", "pixels"), ("c1/logits", "logits")):
            file = File(REFERENCE)
            file.change(array, 5, lambda v: math.nan)
            file.write(self.damaged)
            first = self.summary(1, reference=self.damaged)["first"]
            self.assertEqual((first["name"], first["error"]), (site, None))

    def test_what_is_infinite_is_a_difference(self):
        """A reference that overflowed: its largest value must not make every error a share of nothing."""
        for array, site in (("c0/cam", "^cam of layer"), ("c1/logits", "^logits$"), ("c0/ablation", "^logits without one head$")):
            file = File(REFERENCE)
            file.change(array, 5, lambda v: math.inf)
            file.write(self.damaged)
            first = self.summary(1, reference=self.damaged)["first"]
            self.assertRegex(first["name"], site)
            self.assertIsNone(first["error"])

    def test_small_rows_are_seen(self):
        """Rows count each by itself: one that is far smaller than the largest is still compared."""
        file = File(REFERENCE)
        array = file.names("c1/site/blocks.1.hook_resid_post@")[0]
        start, end = file.header[array]["data_offsets"]
        width = file.header[array]["shape"][1]
        values = struct.unpack(f"<{(end - start) // 4}f", file.data[start:end])
        rows = [max(map(abs, values[r * width: (r + 1) * width])) for r in range(len(values) // width)]
        least = min(range(len(rows)), key=rows.__getitem__)
        self.assertGreater(max(rows), rows[least])
        file.change(array, least * width, lambda v: v + 1.5e-4 * rows[least])
        file.write(self.damaged)
        self.assertEqual(self.summary(1, reference=self.damaged)["first"]["name"], "blocks.1.hook_resid_post")

    def refused(self, message, **kw):
        r = self.run_it(**kw)
        self.assertEqual((r.returncode, r.stdout), (1, b""))
        self.assertIn(message, r.stderr.decode())

    def test_refusals(self):
        self.refused("was made from another folder (\"llava-gqa\"", model=os.path.join(GOLDEN, "llava-mha"))
        copy = os.path.join(self.dir, "copy")
        shutil.copytree(MODEL, copy)
        self.assertEqual(self.run_it(model=copy).returncode, 0)      # the place does not matter, the content does
        with open(os.path.join(copy, "config.json"), "a") as f:
            f.write("\n")
        self.refused("was made from another folder", model=copy)
        self.refused("not a reference file", reference=os.path.join(MODEL, "golden.safetensors"))
        file = File(REFERENCE)
        file.header["__metadata__"] = {"pad": "x" * 8}
        with open(self.damaged, "wb") as f:      # arrays begin at odd addresses
            header = json.dumps(file.header).encode()
            header += b" " * (-len(header) % 8 + 1)
            f.write(struct.pack("<Q", len(header)) + header + file.data)
        self.refused("does not begin at a multiple", reference=self.damaged)
        self.refused("No such file", reference=os.path.join(self.dir, "absent"))
        file = File(REFERENCE)
        file.header["c0/logits"]["shape"] = [1]
        file.header["c0/logits"]["data_offsets"][1] = file.header["c0/logits"]["data_offsets"][0] + 4
        file.write(self.damaged)
        self.refused("damaged.safetensors", reference=self.damaged)
        file = File(REFERENCE)
        del file.header["__metadata__"]
        file.header["c0/lost"] = file.header.pop("c0/logits")
        file.write(self.damaged)
        self.refused("no array \"c0/logits\"", reference=self.damaged)

    def test_usage(self):
        r = subprocess.run([PROGRAM, "verify", "--model", MODEL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=100)
        self.assertEqual(r.returncode, 2)
        for value in ("0", "1", "-1e-3", "x", "1e-3x", "nan"):
            self.assertEqual(self.run_it("--tolerance", value).returncode, 2, value)


if __name__ == "__main__":
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    unittest.main()

"""A full disk: whatever cannot be written, the command says so in one sentence, ends with 1, and leaves nothing half-written.

    python3 tests/test_disk.py path/to/sightline [unittest arguments]

The disk is made small by a limit on the size of files (RLIMIT_FSIZE, its signal ignored): a write then stops in the middle
of a file, as on a full disk, and the next one fails. Which file it hits is chosen from the sizes of an unlimited run.
"""
import os
import resource
import shutil
import signal
import subprocess
import sys
import unittest

import test_cli

SITES = "blocks.*.hook_resid_post,blocks.*.attn.hook_pattern"  # more than run.json takes


def small_disk(limit):
    """What the child does before the program starts."""
    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return before


class FullDisk(test_cli.Cli):
    def command(self, *args, limit=None):
        words = [test_cli.PROGRAM, *args, "--model", test_cli.GOLDEN, "--image", test_cli.PICTURE, "--prompt", test_cli.QUESTION, "--dtype", "f32",
                 "--threads", "1", "--max-tokens", "3", "--quiet", "--out", "run"]
        return subprocess.run(words, cwd=self.dir, capture_output=True, timeout=300, preexec_fn=None if limit is None else small_disk(limit))

    def files(self):
        """{path inside the working folder: bytes}, hidden ones too."""
        found = {}
        for folder, _, names in os.walk(self.dir):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as f:
                    found[os.path.relpath(path, self.dir)] = f.read()
        return found

    def sizes(self, *args):
        """File sizes of the same command with room enough; nothing of it stays."""
        r = self.command(*args)
        self.assertEqual(r.returncode, 0, r.stderr.decode())
        sizes = {name: len(data) for name, data in self.files().items()}
        shutil.rmtree(self.path("run"))
        return sizes

    def says_so(self, result, name):
        self.fails(result, 1, name, "cannot write")
        self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)

    def check_nothing_left(self, args, limit, name):
        self.says_so(self.command(*args, limit=limit), name)
        self.assertEqual(os.listdir(self.dir), [], f"{args} with files of at most {limit} bytes")

    def test_results_do_not_fit(self):
        for args in (["ask", "--record", SITES], ["trace", "--samples", "40"]):
            sizes = self.sizes(*args)
            limits = {0: "run.json", 1: "run.json", sizes["run/run.json"] - 200: "run.json"}  # run times have more or fewer digits
            if args[0] == "ask":
                self.assertGreater(sizes["run/tensors.safetensors"], sizes["run/run.json"] + 64)
                limits[sizes["run/tensors.safetensors"] - 1] = "tensors.safetensors"
            for limit, name in limits.items():
                self.check_nothing_left(args, limit, name)

    def test_old_run_stays_as_it_was(self):
        self.assertEqual(self.command("ask", "--record", SITES).returncode, 0)
        before = self.files()
        for limit in (0, 2000, len(before["run/tensors.safetensors"]) - 1):
            self.says_so(self.command("ask", "--record", SITES, "--force", limit=limit), "cannot write")
            self.assertEqual(self.files(), before)

    def test_report_does_not_fit(self):
        """Results that took hours are not thrown away with it: they are whole, and `report` makes the page from them."""
        args = ["trace", "--samples", "40"]
        sizes = self.sizes(*args)
        results = max(sizes["run/run.json"] + 64, sizes["run/tensors.safetensors"])
        overlay = max(size for name, size in sizes.items() if name.endswith(".png"))
        self.assertLess(results, overlay - 1)
        self.assertLess(overlay, sizes["run/report.html"] - 4096)
        for limit, name in ((overlay - 1, ".png"), (sizes["run/report.html"] - 4096, "report.html")):
            self.says_so(self.command(*args, limit=limit), name)
            left = self.files()
            self.assertNotIn("run/report.html", left)
            self.assertEqual(set(left) - set(sizes), set())  # no temporary, nothing hidden
            for one, data in left.items():
                if one.endswith(".png"):
                    self.assertEqual(data[-8:-4], b"IEND", one)  # whole pictures
            self.assertEqual(test_cli.read_json(self.path("run", "run.json"))["analyses"].keys(), set(test_cli.ANALYSES))
            self.assertTrue(test_cli.read_tensors(self.path("run", "tensors.safetensors")))
            r = self.run_it("report", "run")
            self.assertEqual(r.returncode, 0, r.stderr.decode())
            self.assertEqual(set(self.files()), set(sizes))
            shutil.rmtree(self.path("run"))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    test_cli.PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)

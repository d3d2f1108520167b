"""What `cmake --install` leaves, as a user meets it: the program with its model, and the library through pkg-config.

    python3 tests/test_install.py BUILD_FOLDER [unittest arguments]
"""
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
PICTURE = os.path.join(ROOT, "examples", "cat.png")
BUILD = "build"


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="sightline-install-")
        cls.prefix = os.path.join(cls.dir, "a place")  # another than the one that was configured, and with a blank
        subprocess.run(["cmake", "--install", BUILD, "--prefix", cls.prefix], check=True, stdout=subprocess.DEVNULL)
        found = subprocess.run(["find", cls.prefix, "-name", "sightline.pc"], check=True, capture_output=True, text=True).stdout
        cls.env = {**os.environ, "PKG_CONFIG_PATH": os.path.dirname(found.strip())}
        cls.lib = os.path.dirname(cls.env["PKG_CONFIG_PATH"])

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def run_it(self, *command, **more):
        r = subprocess.run(command, capture_output=True, text=True, cwd=self.dir, timeout=300, **more)
        self.assertEqual(r.returncode, 0, f"{command}: {r.stderr}")
        return r.stdout

    def flags(self, *words):
        return shlex.split(self.run_it("pkg-config", *words, "sightline", env=self.env))

    def build(self, name, *libraries):
        source = os.path.join(ROOT, "examples", "api", "branches.c")
        self.run_it("cc", source, *self.flags("--cflags"), *libraries, "-o", name)

    def answer(self, name, **more):
        return self.run_it(os.path.join(self.dir, name), os.path.join(self.prefix, "share", "sightline", "models", "pocket-llava"), PICTURE, **more)

    def test_program_finds_its_model(self):
        env = {k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"}
        said = self.run_it(os.path.join(self.prefix, "bin", "sightline"), "info", env=env)
        self.assertIn(os.path.join(self.prefix, "share", "sightline", "models", "pocket-llava"), said)

    def test_a_program_with_the_shared_library(self):
        self.build("shared", *self.flags("--libs"))
        self.assertIn("image? cat\n", self.answer("shared", env={**os.environ, "LD_LIBRARY_PATH": self.lib}))

    def test_a_program_with_the_static_library(self):
        whole = ["-Wl,--whole-archive", os.path.join(self.lib, "libsightline.a"), "-Wl,--no-whole-archive"]  # every part finds its library
        self.build("static", *whole, *(word for word in self.flags("--static", "--libs") if word != "-lsightline"))
        self.assertIn("image? cat\n", self.answer("static"))

    def test_only_the_public_names_are_exported(self):
        lines = self.run_it("nm", "-D", "--defined-only", os.path.join(self.lib, "libsightline.so")).splitlines()
        names = [line.split()[-1].split("@")[0] for line in lines]
        self.assertIn("sl_model_open", names)
        headers = ""
        for name in os.listdir(os.path.join(self.prefix, "include", "sightline")):
            with open(os.path.join(self.prefix, "include", "sightline", name), encoding="utf-8") as f:
                headers += f.read()
        self.assertEqual([n for n in names if n not in headers and not n.startswith("SIGHTLINE")], [])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)

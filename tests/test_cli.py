"""The command as a new user meets it: answers, files, messages, exit codes, interruption.

    python3 tests/test_cli.py path/to/sightline [unittest arguments]
"""
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden", "llava-gqa")
PICTURE = os.path.join(GOLDEN, "a.png")
OTHER_PICTURE = os.path.join(GOLDEN, "b.png")
QUESTION = "What is in the picture?"
COMMANDS = ("info", "ask", "trace", "flow", "cam", "cliff", "heads", "tokens", "knockout", "lens", "compare", "report", "convert", "verify", "study", "eval")
ANALYSES = ["cam", "cliff", "flow", "heads", "knockout", "lens", "tokens"]
FEW = ("--samples", "40")  # masks: quick
PROGRAM = "sightline"


def read_tensors(path):
    """{name: (dtype, shape, bytes)} of a safetensors file."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header, data = json.loads(f.read(n)), f.read()
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]])
            for k, v in header.items() if k != "__metadata__"}


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Cli(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="sl-cli-")
        self.addCleanup(shutil.rmtree, self.dir)

    def run_it(self, *args, env=None, stdout=subprocess.PIPE):
        environment = {k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"}
        environment.update(env or {})
        return subprocess.run([PROGRAM, *args], cwd=self.dir, env=environment, stdout=stdout, stderr=subprocess.PIPE, timeout=300)

    def work(self, command, *args, model=GOLDEN, image=PICTURE, prompt=QUESTION, **more):
        given = [x for pair in (("--model", model), ("--image", image), ("--prompt", prompt)) if pair[1] is not None for x in pair]
        # One thread: the model is so small that more only wait for each other.
        return self.run_it(command, *given, "--dtype", "f32", "--max-tokens", "3", "--threads", "1", *args, **more)

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def fails(self, result, code, *words):
        message = result.stderr.decode()
        self.assertEqual(result.returncode, code, message)
        self.assertEqual(result.stdout, b"")
        last = message.rstrip("\n").split("\n")[-1]
        self.assertTrue(last.startswith("sightline: "), message)
        for word in words:
            self.assertIn(word, last)


class Help(Cli):
    def test_no_command_is_usage(self):
        r = self.run_it()
        self.assertEqual((r.returncode, r.stdout), (2, b""))
        self.assertIn(b"usage: sightline COMMAND", r.stderr)

    def test_version_is_the_projects(self):
        with open(os.path.join(HERE, "..", "CMakeLists.txt")) as f:
            version = re.search(r"project\(sightline VERSION ([0-9.]+)", f.read()).group(1)
        for args in (["--version"], ["cam", "--version"]):
            r = self.run_it(*args)
            self.assertEqual((r.returncode, r.stdout.decode()), (0, f"sightline {version}\n"))

    def test_every_command_explains_itself(self):
        overview = self.run_it("--help").stdout.decode()
        for command in COMMANDS:
            self.assertRegex(overview, rf"(?m)^  {command} ")
            for args in ([command, "--help"], ["help", command], [command, "-h"]):
                r = self.run_it(*args)
                self.assertEqual((r.returncode, r.stderr), (0, b""))
                self.assertIn(f"usage: sightline {command}", r.stdout.decode())
            for line in r.stdout.decode().split("\n"):
                self.assertLessEqual(len(line), 112, line)
        trace = self.run_it("trace", "--help").stdout.decode()
        self.assertEqual(trace.count("  --contrast TOKEN "), 1)  # explained once, by the first analysis that has it
        self.assertRegex(trace, r"as above: .*--contrast")
        with open(os.path.join(HERE, "..", "README.md"), encoding="utf-8") as f:
            table = re.findall(r"(?m)^\| `([a-z]+)` \|", f.read())
        self.assertEqual(sorted(table), sorted(re.findall(r"(?m)^  ([a-z]+) ", overview.split("First steps")[0])))

    def test_suggestions(self):
        self.fails(self.run_it("trcae"), 2, "`trcae`", "did you mean `trace`?")
        self.fails(self.run_it("--image"), 2, "expected a command")
        self.fails(self.run_it("xyzzy"), 2, "--help")
        self.fails(self.run_it("cam", "--modle", "x"), 2, "did you mean --model?")
        self.fails(self.run_it("cam", "--pre-token"), 2, "did you mean --per-token?")
        self.fails(self.run_it("flow", "--target", "logit"), 2, "--target", "`trace`, `cam`")
        self.fails(self.run_it("cliff", "--plan", "p.json"), 2, "--plan", "`ask`")
        self.fails(self.run_it("lens", "--resume"), 2, "--resume", "`trace`, `heads`, `tokens`")
        self.fails(self.run_it("ask", "--xyzzy=3"), 2, "--xyzzy", "sightline ask --help")
        self.fails(self.run_it("trace", "--s"), 2, "ambiguous")
        self.fails(self.run_it("cam", "--image"), 2, "--image needs a value")
        self.fails(self.run_it("cam", "--clip=1"), 2, "--clip takes no value")
        self.fails(self.run_it("cam", "-x"), 2, "-x")

    def test_required_and_stray_words(self):
        self.fails(self.work("ask", image=None), 2, "--image FILE")
        self.fails(self.work("ask", prompt=None), 2, "--prompt TEXT")
        self.fails(self.work("ask", "is", "it"), 2, '"is"', "quote")
        self.fails(self.run_it("report"), 2, "run directory")

    def test_values_are_checked(self):
        for option, value, word in (("--max-tokens", "0", "from 1"), ("--seed", "-1", "from 0"), ("--threads", "two", '"two"'),
                                    ("--threads", "1025", "from 1 to 1024"), ("--threads", "0", "from 1 to 1024"),
                                    ("--target", "best", "logprob"), ("--site", "ln7", "resid_pre"), ("--smooth", "1.5", "whole"),
                                    ("--sigma", "0,1", "number"), ("--object-threshold", "0", "share")):
            self.fails(self.work("cam", option, value), 2, option, word)
        self.fails(self.run_it("info", "--threads", "1025"), 2, "--threads", "from 1 to 1024")
        self.fails(self.work("cliff", "--batch_size", "0"), 2, "--batch-size", "from 1 to 65536")
        for time_ in ("soon", "0", "-3s", "5 min", "", "1e9h"):
            self.fails(self.work("heads", "--budget", time_), 2, "--budget", "10min")
        self.fails(self.work("ask", "--dtype", "f8"), 2, "f8")
        self.fails(self.work("ask", "--device", "tpu"), 2, "tpu")


class Ask(Cli):
    def test_prints_the_answer_alone(self):
        with open(os.path.join(GOLDEN, "golden.json")) as f:
            case = json.load(f)["cases"]["c0"]
        r = self.work("ask", "--max-tokens", "8", "--quiet")
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        self.assertEqual(r.stdout.decode(), case["greedy_text"] + "\n")
        self.assertEqual(os.listdir(self.dir), [])
        said = json.loads(self.work("ask", "--max_tokens=8", "--json").stdout)
        self.assertEqual([t["id"] for t in said["answer_tokens"]], case["greedy"])
        self.assertIsNone(said["out"])
        self.assertEqual(said["spans"]["image"], [[case["image_first"], case["image_first"] + case["image_count"]]])
        raw = json.loads(self.work("ask", "--max-tokens", "8", "--json", "--raw-prompt", prompt=case["prompt"]).stdout)
        self.assertEqual(raw["answer_tokens"], said["answer_tokens"])

    def test_forced_answer(self):
        said = json.loads(self.work("ask", "--answer", "the picture", "--json").stdout)
        self.assertEqual(said["prompt"]["answer"], "the picture")
        self.assertEqual(said["prompt"]["answer_source"], "forced")
        self.assertTrue(all(0 < t["prob"] < 1 and len(t["top"]) == 5 for t in said["answer_tokens"]))

    def test_records_and_stores_logits(self):
        r = self.work("ask", "--record", "blocks.*.hook_resid_post@-1,vision.hook_embed", "--logits")
        self.assertEqual(r.returncode, 0, r.stderr)
        tensors = read_tensors(self.path("sightline-ask-a", "tensors.safetensors"))
        run = read_json(self.path("sightline-ask-a", "run.json"))
        self.assertEqual(tensors["logits.all"][1], [len(run["tokens"]), run["model"]["n_vocab"]])
        self.assertEqual(tensors["site/blocks.2.hook_resid_post"][1][0], 1)
        self.assertIn("site/vision.hook_embed", tensors)
        self.assertTrue(os.path.exists(self.path("sightline-ask-a", "report.html")))
        self.fails(self.work("ask", "--record", "blocks.0.hook_resid_pots", "--out", "x"), 1, "hook_resid_pots")

    def test_model_from_the_environment(self):
        r = self.work("ask", "--quiet", model=None, env={"SIGHTLINE_MODEL": GOLDEN})
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(r.stdout, self.work("ask", "--quiet").stdout)

    def test_bad_texts(self):
        self.fails(self.work("ask", prompt=""), 1, "prompt", "empty")
        self.fails(self.work("ask", prompt=" \n "), 1, "prompt", "empty")
        self.fails(self.work("ask", prompt=b"caf\xe9"), 1, "not UTF-8", "byte 3")
        self.fails(self.work("ask", prompt="a <image> b"), 1, "<image>")
        self.fails(self.work("ask", "--answer", ""), 1, "answer", "empty")
        self.fails(self.work("ask", "--answer", b"\xff"), 1, "answer", "UTF-8")
        r = self.work("ask", "--raw-prompt", prompt="no placeholder")
        self.fails(r, 1, "placeholder")
        self.fails(self.work("ask", "--raw-prompt", "--template", "{question} <image>"), 2, "--raw-prompt", "--template")

    def test_long_prompt(self):
        r = self.work("ask", "--quiet", "--max-tokens", "1", prompt="is there a cat " * 30)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.fails(self.work("ask", prompt="is there a cat " * 400), 1, "max_position_embeddings")

    def test_bad_pictures(self):
        with open(self.path("note.png"), "w") as f:
            f.write("not a picture")
        self.fails(self.work("ask", image="missing.png"), 1, "missing.png", "No such file")
        self.fails(self.work("ask", image=self.dir), 1, "not a file")
        self.fails(self.work("ask", image="note.png"), 1, "note.png")

    def test_bad_models(self):
        self.fails(self.work("ask", model="nowhere"), 1, "nowhere")
        os.mkdir(self.path("empty"))
        self.fails(self.work("ask", model="empty"), 1, "config.json")
        self.fails(self.work("ask", model="llava-hf/llava-1.5-7b-hf"), 1, "no such folder", "hf download llava-hf/llava-1.5-7b-hf")
        self.fails(self.work("ask", model=PICTURE), 1, PICTURE, "found a file")

    def test_empty_paths(self):
        for args in (("--image", ""), ("--model", ""), ("--out", ""), ("--plan", "")):
            self.fails(self.work("ask", *args), 2, args[0], "empty")
        self.fails(self.run_it("report", ""), 2, "empty")

    def test_tower_in_a_folder_of_its_own(self):
        for name in ("shikra", "llava-original"):
            folder = os.path.join(HERE, "golden", name)
            case = read_json(os.path.join(folder, "golden.json"))["cases"]["c0"]
            given = {"model": folder, "image": os.path.join(folder, case["picture"]), "prompt": case["prompt"]}
            r = self.work("ask", "--vision-model", os.path.join(folder, "vision"), "--raw-prompt", "--max-tokens", "8", "--json", **given)
            self.assertEqual(r.returncode, 0, r.stderr)
            self.assertEqual([t["id"] for t in json.loads(r.stdout)["answer_tokens"]], case["greedy"])
            nowhere = {"env": {"HF_HUB_CACHE": self.dir}}
            self.fails(self.work("ask", "--raw-prompt", **given, **nowhere), 1, "openai/clip-vit-large-patch14", self.dir, "--vision-model")
        self.fails(self.work("ask", "--vision-model", self.dir), 2, "LLaVA-1.5", "--vision-model")

    def test_without_any_model(self):
        # A copy with nothing beside it, and with other names for the folders where an installed model would be.
        with open(PROGRAM, "rb") as f:
            program = f.read()
        os.mkdir(self.path("bin"))
        with open(self.path("bin", "alone"), "wb") as f:
            f.write(program.replace(b"share/sightline/models", b"share/sightline/absent"))
        os.chmod(self.path("bin", "alone"), 0o755)
        r = subprocess.run([self.path("bin", "alone"), "info"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           env={k: v for k, v in os.environ.items() if k != "SIGHTLINE_MODEL"})
        self.fails(r, 1, "--model", "$SIGHTLINE_MODEL")

    def test_full_disk_on_standard_output(self):
        with open("/dev/full", "wb") as full:
            r = self.work("ask", "--quiet", stdout=full)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"standard output", r.stderr)


    def test_closed_streams(self):
        """Results are whole, and the exit code tells whether standard output was written."""
        whole = self.work("ask", "--out", "whole", "--logits", "--no-report")
        self.assertEqual(whole.returncode, 0, whole.stderr)
        for name, closed in (("out", [1]), ("err", [2]), ("all", [0, 1, 2])):
            words = [PROGRAM, "ask", "--model", GOLDEN, "--image", PICTURE, "--prompt", QUESTION, "--dtype", "f32", "--max-tokens", "3",
                     "--threads", "1", "--out", name, "--logits", "--no-report"]
            shell = " ".join(f"{fd}>&-" if fd else "<&-" for fd in closed)
            r = subprocess.run(["sh", "-c", f'"$@" {shell}', "sh", *words], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self.assertEqual(r.returncode, 1 if 1 in closed else 0, r.stderr)
            self.assertEqual(read_tensors(self.path(name, "tensors.safetensors")), read_tensors(self.path("whole", "tensors.safetensors")))
            read_json(self.path(name, "run.json"))


class Info(Cli):
    def test_tells_what_a_model_is(self):
        r = self.run_it("info", "--model", GOLDEN, "--prompt", QUESTION)
        self.assertEqual(r.returncode, 0, r.stderr)
        for word in ("3 layers, 4 heads (2 key/value heads)", "16 image tokens", "user, final", "8-23"):
            self.assertIn(word, r.stdout.decode())
        said = json.loads(self.run_it("info", "--model", GOLDEN, "--json").stdout)
        self.assertEqual((said["n_layer"], said["n_image_token"]), (3, 16))
        sites = self.run_it("info", "--model", GOLDEN, "--sites").stdout.decode()
        for name in ("blocks.{i}.ln2.hook_normalized", "blocks.{i}.attn.hook_pattern", "projector.hook_out", "ln_final.hook_normalized"):
            self.assertIn(name, sites)
        self.fails(self.run_it("info", GOLDEN), 2, "--model")


class Runs(Cli):
    def test_trace_makes_a_run_directory(self):
        r = self.work("trace", "--object_mask", PICTURE, *FEW)
        self.assertEqual(r.returncode, 0, r.stderr)
        text = r.stdout.decode()
        for word in ("image share", "on object", "attention cliff", "CAM cliff", "no CAM in layer 2", "--site", "hidden from here", "lens prob",
                     "heads: 40 random masks", "image tokens: 40 random masks", "text tokens:", "role+final<-image"):
            self.assertIn(word, text)
        self.assertIn("results in sightline-trace-a/report.html", r.stderr.decode())
        run = read_json(self.path("sightline-trace-a", "run.json"))
        for key in ("sightline", "schema", "command", "model", "compute", "image", "prompt", "tokens", "spans", "grid", "queries",
                    "options", "seed", "analyses", "timings_ms", "peak_memory_bytes", "warnings"):
            self.assertIn(key, run)
        self.assertEqual(run["command"][1], "trace")
        self.assertEqual(run["options"]["cam"]["site"], "ln2")
        self.assertEqual(run["analyses"]["cam"]["undefined"], [2])
        self.assertEqual(run["image"]["object_tokens"], 16)
        self.assertGreater(run["timings_ms"]["total"], 0)
        tensors = read_tensors(self.path("sightline-trace-a", "tensors.safetensors"))
        self.assertEqual(tensors["flow.share"][1], [3, 3, 5])
        self.assertEqual(tensors["flow.share_heads"][1], [3, 4, 3, 5])
        self.assertEqual(tensors["cam.heat"][1], [3, 1, 4, 4])
        self.assertEqual(tensors["cam.defined"][2], b"\x01\x01\x00")
        self.assertEqual(tensors["image.box"][1], [16, 4])
        _, (n_patch, width), rows = read_tensors(os.path.join(GOLDEN, "golden.safetensors"))["c0/projector.hook_in"]
        rows = struct.unpack(f"<{n_patch * width}f", rows)
        feature = struct.unpack(f"<{width}f", tensors["image.feature"][2])
        for k in range(width):
            self.assertAlmostEqual(feature[k], sum(rows[k::width]) / n_patch, delta=1e-4)
        with open(self.path("sightline-trace-a", "report.html"), encoding="utf-8") as f:
            report = f.read()
        self.assertIn("</html>", report)
        self.assertNotRegex(report, r"(?:src|href)=\"https?://")
        for name in ("input.png", "mask.png", "cam_00.png", "attention_00.png"):
            self.assertTrue(os.path.exists(self.path("sightline-trace-a", "images", name)), name)

    def test_json_is_alone_on_standard_output(self):
        for command in ("trace", *ANALYSES):
            few = FEW if command in ("trace", "heads", "tokens") else ()
            r = self.work(command, "--json", "--quiet", "--no-report", *few)
            self.assertEqual((r.returncode, r.stderr), (0, b""))
            all_said = json.loads(r.stdout)
            self.assertEqual(all_said["out"], f"sightline-{command}-a")
            self.assertEqual(sorted(all_said["analyses"]), ANALYSES if command == "trace" else [command])
            if command == "cam":
                said = all_said
        self.assertEqual(len(said["analyses"]["cam"]["mass"]), 3)
        self.assertIsNone(said["analyses"]["cam"]["mass"][2])
        self.assertFalse(os.path.exists(self.path("sightline-cam-a", "report.html")))

    def test_options_reach_the_analysis(self):
        r = self.work("cam", "--per-token", "--site", "resid-pre", "--target", "margin", "--vision", "--out", "run", "--json")
        said = json.loads(r.stdout)["analyses"]["cam"]
        self.assertEqual((said["target"], said["undefined"], len(said["maps"])), ("margin", [], 4))
        tensors = read_tensors(self.path("run", "tensors.safetensors"))
        self.assertEqual(tensors["cam.heat"][1], [3, 4, 4, 4])
        self.assertEqual(tensors["cam.vision"][1], [4, 4, 4])
        self.assertEqual(self.work("cam", "--alpha", "--out", "alpha").returncode, 0)
        self.assertEqual(read_tensors(self.path("alpha", "tensors.safetensors"))["cam.alpha"][1], [3, 1, 48])
        r = self.work("cam", "--contrast", "the", "--out", "contrast", "--json")
        self.assertEqual(json.loads(r.stdout)["analyses"]["cam"]["contrast"]["piece"], "\u2581the")
        r = self.work("flow", "--sink_threshold", "0.2", "--sinks", "3", "--out", "flow", "--json")
        tensors = read_tensors(self.path("flow", "tensors.safetensors"))
        self.assertEqual(tensors["flow.image_heads"][1], [3, 4, 16])
        self.assertEqual(tensors["flow.sinks"][1], [3, 3])

    def test_same_bits_for_a_seed_whatever_the_threads(self):
        results = []
        for out, seed, threads in (("x", "5", "1"), ("y", "5", "2"), ("z", "6", "1")):
            self.assertEqual(self.work("trace", "--smooth", "3", "--seed", seed, "--threads", threads, "--no-report", "--out", out, *FEW,
                                       "--batch-size", str(5 + int(threads))).returncode, 0)
            results.append(read_tensors(self.path(out, "tensors.safetensors")))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0]["flow.share"], results[2]["flow.share"])
        for name in ("cam.heat", "heads.masks", "heads.target", "tokens.image_masks"):
            self.assertNotEqual(results[0][name], results[2][name], name)

    def test_an_existing_folder_is_safe(self):
        self.assertEqual(self.work("flow", "--out", "run", "--no-report").returncode, 0)
        before = os.stat(self.path("run", "run.json"))
        # Said before the model is opened: a model that does not exist is never looked at.
        self.fails(self.work("flow", "--out", "run", model="nowhere"), 1, "run", "--force")
        self.assertEqual(os.stat(self.path("run", "run.json")), before)
        self.assertEqual(self.work("cam", "--out", "run", "--force", "--no-report").returncode, 0)
        self.assertEqual(list(read_json(self.path("run", "run.json"))["analyses"]), ["cam"])
        os.mkdir(self.path("mine"))
        with open(self.path("mine", "thesis.txt"), "w") as f:
            f.write("years of work")
        self.fails(self.work("flow", "--out", "mine", "--force", model="nowhere"), 1, "mine", "run.json")
        self.assertEqual(os.listdir(self.path("mine")), ["thesis.txt"])

    def test_an_out_folder_that_cannot_be_made(self):
        self.fails(self.work("flow", "--out", "no/such/parent", model="nowhere"), 1, "no/such")
        self.fails(self.work("flow", "--out", "/proc/run", model="nowhere"), 1, "/proc")
        self.assertEqual(os.listdir(self.dir), [])

    def test_a_failing_run_leaves_nothing(self):
        self.fails(self.work("cam", "--contrast", "elephant seal"), 1, "elephant seal", "expected one")
        self.fails(self.work("cam", "--contrast", "the", "--target", "logprob"), 1, "--contrast", "logprob")
        for command in ("cam", "cliff", "heads", "tokens"):
            self.fails(self.work(command, "--answer", "the", "--contrast", "the"), 1, "is the answer itself")
        self.assertEqual(os.listdir(self.dir), [])

    def test_mask_of_another_size(self):
        self.fails(self.work("flow", "--object-mask", OTHER_PICTURE, model="nowhere"), 1, "97 x 41", "50 x 50")
        self.fails(self.work("flow", "--object-mask", "none.png", model="nowhere"), 1, "none.png")

    def test_report_is_rebuilt(self):
        self.assertEqual(self.work("flow", "--no-report").returncode, 0)
        r = self.run_it("report", "sightline-flow-a/")
        self.assertEqual((r.returncode, r.stdout), (0, b"sightline-flow-a/report.html\n"))
        self.assertTrue(os.path.exists(self.path("sightline-flow-a", "report.html")))
        self.assertEqual(json.loads(self.run_it("report", "--json", "sightline-flow-a").stdout)["reports"], ["sightline-flow-a/report.html"])
        self.fails(self.run_it("report", "nowhere"), 1, "nowhere")
        name = b"caf\xe9"  # a folder's name is bytes, JSON is UTF-8
        os.rename(os.fsencode(self.path("sightline-flow-a")), os.fsencode(self.dir) + b"/" + name)
        self.assertEqual(self.run_it("report", name).stdout, name + b"/report.html\n")
        self.assertEqual(json.loads(self.run_it("report", "--json", name).stdout)["reports"], ["caf\ufffd/report.html"])


class Plans(Cli):
    """`ask --plan` against transformers under the same plans (tests/golden/branch)."""

    def setUp(self):
        super().setUp()
        with open(os.path.join(HERE, "golden", "branch", "llava-gqa", "golden.json"), encoding="utf-8") as f:
            self.golden = json.load(f)
        logits = read_tensors(os.path.join(HERE, "golden", "branch", "llava-gqa", "golden.safetensors"))["what/logits"]
        self.n_row, self.n_column = logits[1][1:]
        self.logits = struct.unpack(f"<{len(logits[2]) // 4}f", logits[2])

    def plan(self, value):
        with open(self.path("plan.json"), "w", encoding="utf-8") as f:
            f.write(value if isinstance(value, str) else json.dumps(value))
        return "plan.json"

    def case(self, name, kind="cases"):
        """A golden case of trunk "what", and its number among them."""
        return next((c, i) for i, c in enumerate(c for c in self.golden[kind] if c["trunk"] == "what") if c["name"] == name)

    def ask(self, plan, *args):
        r = self.work("ask", "--plan", self.plan(plan), "--json", "--quiet", *args)
        self.assertEqual((r.returncode, r.stderr), (0, b""))
        return json.loads(r.stdout)

    def test_greedy_answers_are_those_of_transformers(self):
        done = 0
        for case in self.golden["greedy"]:
            text = json.dumps(case["plan"])
            if case["trunk"] != "what" or "baseline:2" in text or "baseline:3" in text:
                continue
            plan = {**case["plan"], "baselines": ["zero", "image:" + OTHER_PICTURE], "runs": [{"image": OTHER_PICTURE}, {"prompt": "Is there a cat?"}]}
            said = self.ask(plan, "--max-tokens", str(len(case["ids"])), "--batch-size", "1")
            self.assertEqual([t["id"] for t in said["plan_answer"]["tokens"]], case["ids"], case["name"])
            self.assertEqual(said["plan"], plan)
            done += 1
        self.assertGreater(done, 3)

    def test_logits_are_those_of_transformers(self):
        columns, largest = self.golden["columns"], max(abs(x) for x in self.logits)
        for name in ("empty", "hide-image-from-1"):
            case, number = self.case(name)
            said = self.ask(case["plan"], "--max-tokens", "1")
            first = said["plan_answer"]["tokens"][0]
            row = self.logits[(number * self.n_row + 1) * self.n_column:][:self.n_column]  # row 1: the prompt's last
            for top in first["top"]:
                if top["id"] in columns:
                    self.assertAlmostEqual(top["logit"], row[columns.index(top["id"])], delta=1e-4 * largest)
            self.assertGreaterEqual(max(t["logit"] for t in first["top"]) + 1e-4 * largest, max(row))

    def test_empty_plan_changes_nothing(self):
        said = self.ask({})
        for told, token in zip(said["answer_tokens"], said["plan_answer"]["tokens"], strict=True):
            self.assertEqual(told["id"], token["id"])
            self.assertAlmostEqual(told["logit"], token["logit"], delta=1e-5)
            self.assertEqual((token["logit"], token["prob"]), (token["plain_logit"], token["plain_prob"]))
        self.assertEqual(said["plan_answer"]["text"], said["prompt"]["answer"])

    def test_another_pictures_rows_give_its_answer(self):
        other = json.loads(self.work("ask", "--json", "--quiet", image=OTHER_PICTURE).stdout)
        for plan in ({"edits": [{"site": "blocks.0.hook_resid_pre", "positions": "8-23", "op": "replace", "from": {"run": 0}}],
                      "runs": [{"image": OTHER_PICTURE}]},
                     {"attend": [{"queries": "24-", "keys": "8-23", "source": "baseline:1"}],
                      "baselines": ["zero", "image:" + OTHER_PICTURE]}):
            said = self.ask(plan)
            for told, token in zip(other["answer_tokens"], said["plan_answer"]["tokens"], strict=True):
                self.assertEqual(told["id"], token["id"])
                self.assertAlmostEqual(told["logit"], token["logit"], delta=1e-4)
                self.assertNotAlmostEqual(told["logit"], token["plain_logit"], delta=1e-3)

    def test_forced_answer_and_run_directory(self):
        plan = {"attend": [{"queries": "24-", "keys": "8-23", "source": "hidden"}]}
        r = self.work("ask", "--plan", self.plan(plan), "--answer", "the picture", "--out", "run")
        self.assertEqual(r.returncode, 0, r.stderr)
        run = read_json(self.path("run", "run.json"))
        self.assertEqual(run["options"]["plan"], "plan.json")
        answer = [t for t in run["tokens"] if t["class"] == "generated"]
        for told, token in zip(answer, run["plan_answer"]["tokens"], strict=True):
            self.assertEqual(told["id"], token["id"])
            self.assertAlmostEqual(told["prob"], token["plain_prob"], delta=1e-5)
            self.assertNotAlmostEqual(token["logit"], token["plain_logit"], delta=1e-3)
        self.assertEqual(run["plan_answer"]["answer_source"], "forced")
        lines = r.stdout.decode().split("\n")
        self.assertEqual(lines[0], "unmodified: the picture")
        self.assertEqual(lines[1], "under plan: the picture")
        self.assertEqual(len(lines), 3 + 1 + len(answer) + 1)
        # The plan in run.json is a plan file.
        again = self.ask(run["plan"], "--answer", "the picture")
        self.assertEqual(again["plan_answer"], run["plan_answer"])

    def test_bad_plans_are_told_before_the_model_is_read(self):
        hidden = {"queries": "24-", "keys": "8-23", "source": "hidden"}
        for plan, *words in (("{", "plan.json", "line 1"), ([], "plan.json", "object"), ({"atend": []}, '"atend"'),
                             ({"attend": [{**hidden, "heads": "x"}]}, "plan.json: rule 0", '"heads"'),
                             ({"attend": [hidden], "baselines": ["median"]}, "baseline 0", '"median"'),
                             ({"attend": [hidden], "baselines": ["image:nowhere.png"]}, "baseline 0", "nowhere.png"),
                             ({"attend": [hidden], "baselines": ["zero"] * 5}, "5 baselines", "4"),
                             ({"edits": [], "runs": [{"image": "nowhere.png"}]}, "run 0", "nowhere.png"),
                             ({"edits": [], "runs": [{"picture": "a"}]}, "run 0", '"picture"')):
            self.fails(self.work("ask", "--plan", self.plan(plan), model="nowhere"), 1, *words)
        self.fails(self.work("ask", "--plan", "none.json", model="nowhere"), 1, "none.json")
        self.fails(self.work("ask", "--plan", self.plan({"attend": [{**hidden, "layers": "3"}]})), 1, "plan.json, rule 0: layer 3;")
        self.fails(self.work("ask", "--plan", self.plan({"attend": [{**hidden, "source": "baseline:0"}]})), 1, "baseline 0; 0 given")
        # Positions of a greedy answer have no numbers yet.
        self.fails(self.work("ask", "--plan", self.plan({"attend": [{**hidden, "queries": "52"}]})), 1, "query 52;", "0 to 51")


class Interventions(Cli):
    def test_what_an_analysis_needs_runs_first(self):
        r = self.work("cliff", "--rank", "cam,tokens", "--keep", "4", "--no-report", "--json", "--quiet")
        self.assertEqual(r.returncode, 0, r.stderr)
        said = json.loads(r.stdout)
        self.assertEqual(sorted(said["analyses"]), ["cam", "cliff", "tokens"])
        self.assertEqual(list(said["analyses"])[-1], "cliff")
        self.assertEqual(sorted(k for k in said["options"] if k in ANALYSES), ["cam", "cliff", "tokens"])
        self.assertEqual(said["options"]["cam"]["site"], "ln2")

    def test_batch_size_changes_no_bit(self):
        for command in ("cliff", "heads"):
            tensors = []
            for out, size in (("x", "3"), ("y", "64")):
                few = FEW if command == "heads" else ()
                self.assertEqual(self.work(command, "--batch-size", size, "--out", out, "--force", "--no-report", *few).returncode, 0)
                tensors.append(read_tensors(self.path(out, "tensors.safetensors")))
            self.assertEqual(tensors[0], tensors[1], command)

    def test_budget_limits_the_sampling(self):
        start = time.time()
        r = self.work("trace", "--samples", "1000000", "--all-samples", "--budget", "1.5s", "--no-report", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn(b"the budget cuts it to 2 s", r.stderr)
        self.assertLess(time.time() - start, 30)
        said = json.loads(r.stdout)
        self.assertEqual(said["options"]["budget_s"], 1.5)
        self.assertLess(said["analyses"]["heads"]["regression"]["masks"], 100000)
        self.assertEqual(said["analyses"]["heads"]["regression"]["stopped"], "time was over")

    def test_estimate_names_what_takes_long(self):
        p = subprocess.Popen([PROGRAM, "trace", "--model", GOLDEN, "--image", PICTURE, "--prompt", QUESTION, "--max-tokens", "3",
                              "--samples", "10000000", "--all-samples"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for line in p.stderr:
            if b"this will take" in line:
                break
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=60)
        self.assertRegex(line, rb"this will take about [0-9.]+ (s|min|h) \(.*heads [0-9.]+ (s|min|h)")


class Resume(Cli):
    MASKS = ("--all-samples", "--no-report", "--out", "run")

    def heads(self, *args, **more):
        return self.work("heads", *self.MASKS, *args, **more)

    def read(self, name):
        return {k: v for k, v in read_tensors(self.path(name, "tensors.safetensors")).items() if k.startswith("heads.")}

    def test_more_samples_after_fewer(self):
        self.assertEqual(self.heads("--samples", "40").returncode, 0)
        r = self.heads("--samples", "60", "--resume", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        regression = json.loads(r.stdout)["analyses"]["heads"]["regression"]
        self.assertEqual((regression["resumed"], regression["masks"]), (40, 60))
        self.assertEqual(self.heads("--samples", "60", "--out", "whole").returncode, 0)
        self.assertEqual(self.read("run"), self.read("whole"))
        self.assertEqual(sorted(os.listdir(self.dir)), ["run", "whole"])

    def interrupted(self, seconds, *args):
        """run.json of a run that was interrupted so long after its answer."""
        p = subprocess.Popen([PROGRAM, "heads", "--model", GOLDEN, "--image", PICTURE, "--prompt", QUESTION, "--max-tokens", "3", "--dtype",
                              "f32", *self.MASKS, "--samples", "1000000", *(args or ("--force",))], cwd=self.dir, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        for line in p.stderr:
            if line.startswith(b"sightline: answer: "):
                break
        time.sleep(seconds)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 130, err)
        self.assertIn(b"the same command with --resume goes on", err)
        return read_json(self.path("run", "run.json"))

    def test_an_interrupted_run_goes_on(self):
        # On a busy machine the first masks may take their time.
        run = next(run for run in map(self.interrupted, (0.5, 2, 8, 20)) if "heads" in run["analyses"])
        n_mask = run["analyses"]["heads"]["regression"]["masks"]
        self.assertTrue(run["cancelled"])
        self.assertGreater(n_mask, 0)
        samples = str(n_mask + 40)
        r = self.heads("--samples", samples, "--resume", "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(json.loads(r.stdout)["analyses"]["heads"]["regression"]["resumed"], n_mask)
        self.assertNotIn("cancelled", read_json(self.path("run", "run.json")))
        self.assertEqual(self.heads("--samples", samples, "--out", "whole").returncode, 0)
        self.assertEqual(self.read("run"), self.read("whole"))

    def test_an_interrupted_resume_loses_nothing(self):
        """However early it is interrupted, what the earlier run held is in the new one."""
        record = ("--record", "blocks.1.hook_resid_post@-1")
        self.assertEqual(self.heads("--samples", "40", *record).returncode, 0)
        before, told = read_tensors(self.path("run", "tensors.safetensors")), read_json(self.path("run", "run.json"))["analyses"]["heads"]
        for seconds in (0, 0.02, 0.3):
            run = self.interrupted(seconds, "--resume", *record)
            after = read_tensors(self.path("run", "tensors.safetensors"))
            n_mask = run["analyses"]["heads"]["regression"]["masks"]
            self.assertGreaterEqual(n_mask, 40)
            self.assertEqual(after["heads.masks"][1][0], n_mask)
            self.assertIn("heads.score", after)
            self.assertEqual(after["site/blocks.1.hook_resid_post"], before["site/blocks.1.hook_resid_post"])
            self.assertEqual("curves" in run["analyses"]["heads"], "heads.steps" in after)  # of these scores or not at all
            if n_mask == 40:
                self.assertEqual({k: v for k, v in after.items() if k.startswith("heads.")}, {k: v for k, v in before.items() if k.startswith("heads.")})
                self.assertEqual(run["analyses"]["heads"], told)

    def test_what_differs_is_named(self):
        self.fails(self.heads("--resume", model="nowhere"), 1, "run", "No such file")
        self.assertEqual(self.heads("--samples", "40").returncode, 0)
        before = self.read("run")
        more = ("--samples", "60", "--resume")
        # Before the model is opened:
        self.fails(self.heads(*more, image=OTHER_PICTURE, model="nowhere"), 1, "picture's hash")
        self.fails(self.heads(*more, prompt="Is there a cat?", model="nowhere"), 1, "prompt", QUESTION, "Is there a cat?")
        self.fails(self.heads(*more, "--seed", "3", model="nowhere"), 1, "--seed is 0, now it is 3")
        # and behind that:
        self.fails(self.heads(*more, "--dtype", "bf16x2"), 1, "--dtype", "f32", "bf16x2")
        self.fails(self.heads(*more, "--answer", "the"), 1, "answer")
        self.fails(self.heads(*more, "--keep-probability", "0.75"), 1, "--keep-probability of heads is 0.5, now it is 0.75")
        self.fails(self.heads(*more, "--target", "margin"), 1, "--target of heads")
        self.fails(self.heads(*more, model=os.path.join(HERE, "golden", "llava-mha")), 1, "model's hash")
        self.fails(self.work("tokens", "--resume", "--out", "run"), 1, "results of heads")
        self.assertEqual(self.read("run"), before)
        self.assertEqual(os.listdir(self.dir), ["run"])


class Interrupts(Cli):
    def start(self, command, *args, smooth=True, **more):
        work = ["--max-tokens", "3", "--smooth", "1000000"] if smooth else ["--max-tokens", "65536"]
        return subprocess.Popen([PROGRAM, command, "--model", GOLDEN, "--image", PICTURE, "--prompt", QUESTION, *work, *args],
                                cwd=self.dir, stdout=subprocess.PIPE, **more)

    def test_nothing_to_keep_before_the_answer(self):
        p = self.start("ask", "--out", "run", smooth=False, stderr=subprocess.PIPE)
        for line in p.stderr:
            if line.startswith(b"sightline: picture: "):
                break
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        self.assertEqual((p.returncode, out), (130, b""), err)
        self.assertIn(b"interrupted", err)
        self.assertEqual(os.listdir(self.dir), [])

    def test_partial_results_are_kept(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            p = self.start("trace", "--force", "--json", stderr=subprocess.PIPE)
            for line in p.stderr:
                if line.startswith(b"sightline: flow: "):
                    break
            time.sleep(0.3)
            p.send_signal(number)
            out, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 130, err)
            self.assertIn(b"interrupted; what was complete is in sightline-trace-a", err)
            self.assertIn(b"--resume goes on", err)
            self.assertEqual(list(json.loads(out)["analyses"]), ["flow"])
            run = read_json(self.path("sightline-trace-a", "run.json"))
            self.assertTrue(run["cancelled"])
            self.assertIn("interrupted", run["warnings"][0])
            self.assertIn("flow.share", read_tensors(self.path("sightline-trace-a", "tensors.safetensors")))
            self.assertEqual(os.listdir(self.dir), ["sightline-trace-a"])
            self.assertTrue(os.path.exists(self.path("sightline-trace-a", "report.html")))

    def test_a_second_interrupt_ends_at_once(self):
        p = self.start("cam", "--quiet", stderr=subprocess.PIPE)
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=60)
        self.assertIn(p.returncode, (130, -signal.SIGINT))

    def test_a_killed_run_is_cleared_away_by_the_next(self):
        def partial():
            return [name for name in os.listdir(self.dir) if name.startswith(".run.partial-")]

        def started():
            before, until = set(partial()), time.time() + 60
            p = self.start("cam", "--quiet", "--out", "run", stderr=subprocess.PIPE)
            while set(partial()) <= before and time.time() < until:
                time.sleep(0.01)
            return p

        killed = started()
        killed.kill()
        killed.communicate(timeout=60)
        self.assertEqual(len(partial()), 1)
        alive = started()
        time.sleep(0.5)
        mine = partial()
        self.assertEqual(len(mine), 1)
        self.assertEqual(self.work("flow", "--out", "run", "--no-report").returncode, 0)
        self.assertEqual(partial(), mine)  # a run that goes on keeps its folder
        alive.kill()
        alive.communicate(timeout=60)
        self.assertEqual(self.work("flow", "--out", "run", "--force", "--no-report").returncode, 0)
        self.assertEqual(os.listdir(self.dir), ["run"])

    def test_progress_on_a_terminal(self):
        master, terminal = pty.openpty()
        p = self.start("cam", stderr=terminal)
        os.close(terminal)
        shown, until = b"", time.time() + 60
        while b" left" not in shown and time.time() < until:
            shown += os.read(master, 4096)
        p.send_signal(signal.SIGINT)
        try:
            while True:
                more = os.read(master, 4096)
                shown += more
                if not more:
                    break
        except OSError:  # the other end was closed
            pass
        p.communicate(timeout=60)
        os.close(master)
        self.assertEqual(p.returncode, 130)
        self.assertRegex(shown, rb"\rcam +\[[#.]+\] +\d+ %  [0-9.]+ %/s, .* left")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)

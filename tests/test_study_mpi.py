"""Studies under mpirun: results that do not depend on the number of processes, and that survive a process that dies or hangs.

    python3 tests/test_study_mpi.py path/to/sightline [unittest arguments]

The program must have been built with -DSL_MPI=ON.
"""
import json
import os
import signal
import subprocess
import sys
import time
import unittest

import test_cli
import test_study


def children(pid):
    """Processes started by `pid`, and by those."""
    found = []
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            for child in map(int, f.read().split()):
                found += [child] + children(child)
    except OSError:
        pass
    return found


def rank_of(pid):
    """The MPI rank of a process of sightline, or None."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            environment = dict(item.split(b"=", 1) for item in f.read().split(b"\0") if b"=" in item)
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            name = f.read().split(b"\0")[0]
    except OSError:
        return None
    rank = environment.get(b"OMPI_COMM_WORLD_RANK")
    return int(rank) if rank is not None and name == test_cli.PROGRAM.encode() else None


class Mpi(test_study.Study):
    def command(self, n, out, *args):
        return ["mpirun", "--oversubscribe", "-n", str(n), test_cli.PROGRAM, "study", "run", "--plan", "plan.json", "--out", out, "--quiet", *args]

    def start(self, n, out, *args):
        return self.start_command(self.command(n, out, *args))

    def start_command(self, command):
        # "sh": nothing is started elsewhere, and Open MPI insists on some remote shell even so
        environment = dict(os.environ, OMPI_MCA_plm_rsh_agent="sh", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_WAIT_POLICY="passive")
        return subprocess.Popen(command, cwd=self.dir, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def mpirun(self, n, out, *args):
        return self.result(self.start(n, out, *args))

    def result(self, p):
        stdout, stderr = p.communicate(timeout=100)
        return p.returncode, stdout.decode(), stderr.decode()

    def wait_for(self, n, out):
        for _ in range(6000):
            try:
                if self.ask("SELECT count(*) FROM example", folder=out)[0][0] >= n:
                    return
            except test_study.sqlite3.OperationalError:
                pass
            time.sleep(0.01)
        self.fail("no examples after a minute")

    def pid_of(self, p, rank):
        return next(pid for pid in children(p.pid) if rank_of(pid) == rank)

    def end(self, p):
        """Waits for a job that lost a rank. Now and then mpirun itself hangs when it ends such a job (a deadlock in PMIx_server_finalize): what must be gone is its ranks."""
        try:
            return p.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.assertEqual([pid for pid in children(p.pid) if rank_of(pid) is not None], [])
            p.kill()
            return p.communicate()

    def plan(self, n, **more):
        rows = self.rows(n)
        rows[3]["image"] = "none.png"
        self.write(rows, **{"tensors": ["flow.stats"], "analyses": ["flow", "lens"], **more})
        self.works("--quiet", out="whole")


class Ranks(Mpi):
    def test_results_do_not_depend_on_their_number(self):
        self.plan(12, analyses={"flow": {}, "heads": {"samples": 40}})
        for n in (1, 2, 4):
            code, out, err = self.mpirun(n, f"ranks{n}")
            self.assertEqual(code, 0, err)
            self.assertEqual(out.count("12 of 12 examples done, 1 failed"), 1, out)
            self.same(f"ranks{n}", "whole")

    def test_masks_of_one_example_are_shared_out(self):
        """Two examples on three computing ranks: their masks are handed out in blocks, and the results stay the same."""
        self.write(self.rows(2), analyses={"flow": {}, "heads": {"samples": 120, "all-samples": True}}, **{"mask-block": 16, "tensors": ["heads.*"]})
        self.works("--quiet", out="whole")
        for n, split in ((4, 2), (3, 1), (2, 0)):  # as soon as fewer examples than computing ranks are left
            code, out, err = self.mpirun(n, f"blocks{n}", "--json")
            self.assertEqual(code, 0, err)
            self.assertEqual(json.loads(out)["split"], split)
            self.same(f"blocks{n}", "whole")

    def test_what_cannot_be_split_is_done_whole(self):
        """Examples that fail do so once, with the same message."""
        rows = self.rows(3)
        rows[1]["image"] = "note.png"
        with open(self.path("photos", "note.png"), "w") as f:
            f.write("no picture")
        self.write(rows, analyses={"heads": {"samples": 40}}, **{"mask-block": 16})
        self.works("--quiet", out="whole")
        code, _, err = self.mpirun(5, "blocks")
        self.assertEqual(code, 0, err)
        self.same("blocks", "whole")

    def test_what_is_wrong_is_told_once(self):
        self.plan(6)
        code, out, err = self.mpirun(3, "whole")
        self.assertNotEqual(code, 0)
        self.assertEqual(err.count("already exists"), 1, err)
        self.write(self.rows(4), model=self.path("photos"))
        code, out, err = self.mpirun(3, "other")
        self.assertNotEqual(code, 0)
        self.assertEqual(err.count("config.json"), 1, err)
        self.assertFalse(os.path.exists(self.path("other")))


    def test_a_rank_without_the_pictures_is_left_out(self):
        """Pictures are links to what a process finds in its own folder, and rank 2's is another."""
        os.rename(self.path("photos"), self.path("real"))
        for folder in ("photos", "elsewhere"):
            os.mkdir(self.path(folder))
        for name in ("a.png", "b.png"):
            os.symlink(os.path.join("/proc/self/cwd/real", name), self.path("photos", name))
        self.plan(12)
        each = [test_cli.PROGRAM, "study", "run", "--plan", self.path("plan.json"), "--out", self.path("ranks")]
        code, _, err = self.result(self.start_command(["mpirun", "--oversubscribe", "-n", "2", *each, ":", "-n", "1", "-wdir", self.path("elsewhere"), *each]))
        self.assertEqual(code, 0, err)
        self.assertRegex(err, r"rank 2 is left out: rows that cannot be done \(hash of which\): expected 1 \(\w{16}\) as on rank 0, found 12 \(\w{16}\)")
        self.same("ranks", "whole")

    def test_one_study_in_a_process(self):
        """MPI does not start twice; a program that calls the library is told so, and not ended."""
        self.write(self.rows(3))
        with open(self.path("twice.py"), "w") as f:
            f.write(TWICE)
        library = os.path.join(os.path.dirname(test_cli.PROGRAM), "libsightline.so")
        code, out, err = self.result(self.start_command(["mpirun", "--oversubscribe", "-n", "2", sys.executable, self.path("twice.py"), library]))
        self.assertEqual(code, 0, err)
        self.assertEqual(out.count("first: 0\n"), 2, out)
        self.assertEqual(out.count("second: 4 MPI has ended in this process"), 2, out)


TWICE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
library.sl_error_message.restype = ctypes.c_char_p
P, I, B = ctypes.c_char_p, ctypes.c_int, ctypes.c_bool
class Request(ctypes.Structure):  # sl_study_request
    _fields_ = [("size", ctypes.c_size_t), ("plan_path", P), ("out_dir", P), ("settings", ctypes.c_void_p), ("n_setting", I), ("options", ctypes.c_void_p), ("n_option", I),
                ("default_model", P), ("resume", B), ("retry_failed", B), ("strict", B), ("shard", I), ("n_shard", I)] + [(name, ctypes.c_void_p) for name in ("tell", "progress", "log", "user", "cancel")]
for name in ("first", "second"):
    request = Request(size=ctypes.sizeof(Request), plan_path=b"plan.json", out_dir=name.encode())
    status = library.sl_study_run(ctypes.byref(request), ctypes.byref(ctypes.c_void_p()))
    print(f"{name}: {status} {library.sl_error_message().decode() if status else ''}".strip() + "\\n", end="", flush=True)
"""


def processor_s(pid):
    """Seconds of processor time that a process has taken."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        return sum(map(int, f.read().rsplit(b")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")


class Lost(Mpi):
    def test_work_that_became_idle_is_stopped(self):
        """An example that takes longer than its lease is lent again. When the first rank has done it the study is complete, and the other stops and is none that is lost."""
        self.write([dict(self.rows(1)[0], image="cat.png")], model=test_study.BUNDLED, images=test_study.EXAMPLES, analyses={"heads": {"samples": 300}}, lease=1, **{"mask-block": 0})
        p = self.start(3, "lent")
        self.wait_for(0, "lent")  # one has the example
        time.sleep(0.7)  # and the other has read its model
        ranks = [self.pid_of(p, rank) for rank in (1, 2)]
        before = {pid: processor_s(pid) for pid in ranks}
        time.sleep(0.2)
        idle = min(ranks, key=lambda pid: processor_s(pid) - before[pid])
        since = processor_s(idle)
        while processor_s(idle) - since < 0.2 and p.poll() is None:
            time.sleep(0.01)
        os.kill(idle, signal.SIGSTOP)  # so that it is not done soon after the first
        self.wait_for(1, "lent")
        os.kill(idle, signal.SIGCONT)
        code, out, err = self.result(p)
        self.assertEqual(code, 0, err)
        self.assertIn("1 of 1 examples done, 0 failed", out)

    def test_a_killed_rank_costs_no_result(self):
        """Open MPI ends the job then; the study goes on, on as many ranks as one likes."""
        self.plan(300)
        p = self.start(4, "cut")
        self.wait_for(5, "cut")
        os.kill(self.pid_of(p, 2), signal.SIGKILL)
        self.end(p)
        self.assertNotEqual(p.returncode, 0)
        n = self.ask("SELECT count(*) FROM example", folder="cut")[0][0]
        self.assertTrue(5 <= n < 300, n)
        code, _, err = self.mpirun(2, "cut", "--resume")
        self.assertEqual(code, 0, err)
        self.same("cut", "whole")

    def test_a_hanging_ranks_example_is_lent_again(self):
        self.plan(120, lease=1)
        p = self.start(3, "hung")
        self.wait_for(5, "hung")
        hung = self.pid_of(p, 1)
        os.kill(hung, signal.SIGSTOP)
        self.wait_for(120, "hung")
        self.end(p)
        self.assertEqual(children(p.pid), [])
        self.same("hung", "whole")


if __name__ == "__main__":
    test_cli.PROGRAM = os.path.abspath(sys.argv.pop(1))
    result = unittest.main(exit=False).result
    failed, skipped = len(result.failures) + len(result.errors), len(result.skipped)
    print(f"{result.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    sys.exit(failed > 0)

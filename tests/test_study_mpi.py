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
        # "sh": nothing is started elsewhere, and Open MPI insists on some remote shell even so
        environment = dict(os.environ, OMPI_MCA_plm_rsh_agent="sh", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_WAIT_POLICY="passive")
        return subprocess.Popen(self.command(n, out, *args), cwd=self.dir, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def mpirun(self, n, out, *args):
        p = self.start(n, out, *args)
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


class Lost(Mpi):
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

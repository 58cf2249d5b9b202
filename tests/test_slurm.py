"""The workflow on a real Slurm cluster of one node, this machine; skipped where Slurm cannot run.

Needs root, Debian's slurm-wlm and munge, and the extra `slurm`. Writes /etc/slurm/slurm.conf, the
only path where jobs look for it, and removes it at the end; skipped where one is there already.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from test_workflow import ENVIRONMENT, TINY, copy_workflow, tool

from repro.results.record import read

ETC = Path("/etc/slurm")
TOOLS = {
    name: shutil.which(name, path="/usr/sbin:/usr/bin")
    for name in ("sbatch", "sinfo", "squeue", "scancel", "munged", "slurmctld", "slurmd")
}
pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(
        os.geteuid() != 0
        or None in TOOLS.values()
        or importlib.util.find_spec("snakemake_executor_plugin_slurm") is None
        or (ETC / "slurm.conf").exists(),
        reason="needs root, slurm-wlm and munge, no slurm.conf, and pip install -e '.[slurm]'",
    ),
]

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge/sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MinJobAge=3600
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000
PartitionName=main Nodes={host} Default=YES State=UP
"""


def run(name, *arguments):
    command = [TOOLS[name], *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def wait_for_a_node():
    deadline = time.monotonic() + 30
    while "idle" not in run("sinfo", "-h", "-o", "%T"):
        if time.monotonic() > deadline:
            raise TimeoutError("no node is idle after 30 seconds")
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster():
    """A controller and one node, for as long as the tests of this file run."""
    folder = Path("/tmp") / f"repro-slurm-{os.getpid()}"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    munge = folder / "munge"
    munge.chmod(0o700)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    ETC.mkdir(exist_ok=True)
    host = socket.gethostname().partition(".")[0]
    (ETC / "slurm.conf").write_text(CONF.format(host=host, folder=folder, cpus=os.cpu_count()))
    try:
        flags = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log",
                 "seed-file": "seed"}  # fmt: skip
        try:
            run("munged", "--force", *(f"--{flag}={munge / name}" for flag, name in flags.items()))
            run("slurmctld")
            run("slurmd", "-N", host)
            wait_for_a_node()
        except (subprocess.CalledProcessError, TimeoutError) as error:
            pytest.skip(f"Slurm does not start on this machine: {error}")
        yield
    finally:
        for pid in (folder / "d.pid", folder / "ctld.pid", munge / "pid"):
            if pid.exists():
                os.kill(int(pid.read_text()), signal.SIGTERM)
        (ETC / "slurm.conf").unlink()
        time.sleep(1)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cancelled_training_is_submitted_again_and_continues(cluster, tmp_path):
    """What one result needs, with the profile; Slurm's SIGTERM ends the training midway."""
    home = tmp_path / "home"
    copy_workflow(home)
    config = {**TINY, "experiments": [dict(e) for e in TINY["experiments"]]}
    config["experiments"][0]["training"] = {
        "max_epochs": 150, "validate_every": 1, "batch_size": 4, "patience": None
    }  # fmt: skip
    (home / "tiny.yaml").write_text(yaml.safe_dump(config))
    profile = yaml.safe_load((home / "profiles/slurm/config.yaml").read_text())
    profile |= {  # a cluster without accounting, and one that is looked at often
        "slurm-no-account": True,
        "slurm-status-command": "squeue",
        "slurm-init-seconds-before-status-checks": 8,
        "latency-wait": 5,
    }
    del profile["default-resources"]["slurm_account"]
    for rule in ("train", "evaluate"):
        profile["set-resources"][rule]["mem_mb"] = 2000
    profile["default-resources"]["mem_mb"] = 2000
    (home / "profiles/slurm/config.yaml").write_text(yaml.safe_dump(profile))
    target = "runs/smoke/linear_gaussian/dmm/seed0.json"
    command = [
        tool("snakemake"),
        target,
        "--profile",
        "profiles/slurm",
        "--configfile",
        "tiny.yaml",
    ]
    with (home / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=home, env=ENVIRONMENT, stdout=output, stderr=subprocess.STDOUT
        )
        state = home / "runs/smoke/linear_gaussian/dmm/seed0/state/last.pt"
        deadline = time.monotonic() + 180
        while not state.exists() and time.monotonic() < deadline:
            assert process.poll() is None, (home / "output.txt").read_text()
            time.sleep(0.1)
        (line,) = [
            line
            for line in run("squeue", "-h", "-o", "%i %k").splitlines()
            if "train" in line and "dmm" in line
        ]
        run("scancel", "--signal=TERM", "--full", line.split()[0])
        assert process.wait(timeout=400) == 0, (home / "output.txt").read_text()
    log = (home / "runs/smoke/linear_gaussian/dmm/seed0/train.log").read_text()
    assert "resumes after epoch" in log
    assert read(home / target).training["epochs"] == 150
    assert list((home / "runs/slurm-logs").rglob("*.log"))

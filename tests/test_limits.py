"""Machines as containers, schedulers and network disks present them."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from filelock import Timeout
from lightning_fabric.plugins.environments import MPIEnvironment

from cilkit import limits
from cilkit.data import store
from cilkit.files import ROOT
from cilkit.limits import free_memory, usable_cores
from cilkit.study import study as study_module
from cilkit.study.study import Study
from cilkit.toyscapes import write
from cilkit.training import evaluation, loop
from cilkit.training.loop import Training

SCHEDULERS = {
    "SLURM": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "train"},
    "SLURM nodes": {"SLURM_NTASKS": "1", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2"},
    "LSF": {
        "LSB_JOBID": "1",
        "LSB_DJOB_RANKFILE": "nowhere",
        "JSM_NAMESPACE_LOCAL_RANK": "1",
        "JSM_NAMESPACE_RANK": "1",
        "JSM_NAMESPACE_SIZE": "4",
    },
    "MPI": {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "4"},
    "PBS": {"PBS_JOBID": "3", "PBS_NODEFILE": "nowhere", "PBS_NP": "4"},
    "launchers": {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "MASTER_PORT": "2"},
}
SMALL_DISK = "mount -t tmpfs -o size=16k tmpfs /dev/shm"  # seen by one process and its children
CAN_MOUNT = shutil.which("unshare") and not subprocess.call(
    ["unshare", "-m", "sh", "-c", f"{SMALL_DISK} 2>/dev/null"], stderr=subprocess.DEVNULL
)
TRAIN = """
import sys
from cilkit.study.study import Study
from cilkit.training import loop

loop.usable_cores = lambda: 2
print(Study(*sys.argv[1:3], "smoke", batch=1, precision="32-true", workers=2).run("T1").digest())
"""


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups(own, files) are control groups: the text of /proc/self/cgroup, and files' contents."""

    def write_groups(own, files):
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    monkeypatch.setattr(limits, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(
        limits.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * 10**9)
    )
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(48)), raising=False)
    return write_groups


# memory and cores


def test_without_control_groups_the_machine_is_ours(groups, monkeypatch):
    assert (usable_cores(), free_memory()) == (48, 64 * 10**9)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert usable_cores() == 1


def test_a_group_without_a_limit_limits_nothing(groups):
    unlimited = str(2**63 - 4096)  # what version 1 says for none
    files = {"memory/memory.limit_in_bytes": unlimited, "memory/memory.usage_in_bytes": "4096"}
    files |= {"memory/memory.stat": "", "cpu/cpu.cfs_quota_us": "-1"}
    files |= {"memory.max": "max", "memory.current": "4096", "cpu.max": "max 100000"}
    groups("4:memory:/\n1:cpu:/\n0::/\n", files | {"cpu/cpu.cfs_period_us": "100000"})
    assert (usable_cores(), free_memory()) == (48, 64 * 10**9)


@pytest.mark.parametrize("own", ["/", "/job/step", "/not/mounted/here"])
def test_the_tightest_of_the_groups_above_counts(groups, own):
    files = {"job/memory.max": "max", "job/cpu.max": "max 100000"}
    files |= {"memory.max": "4000000000", "memory.current": "3000000000"}
    files |= {"memory.stat": "anon 1\ninactive_file 500000000\n", "cpu.max": "150000 100000"}
    groups(f"0::{own}\n", files)
    assert (usable_cores(), free_memory()) == (2, 1_500_000_000)


def test_version_1_of_control_groups_is_read_too(groups):
    files = {"memory.limit_in_bytes": "2000000000", "memory.usage_in_bytes": "1900000000"}
    files |= {"memory.stat": "inactive_file 9\ntotal_inactive_file 400000000\n"}
    files = {f"memory/docker/{name}": content for name, content in files.items()}
    files |= {"cpu/docker/cpu.cfs_quota_us": "50000", "cpu/docker/cpu.cfs_period_us": "100000"}
    groups("5:memory:/docker\n4:cpu,cpuacct:/docker\n0::/docker\n", files)
    assert (usable_cores(), free_memory()) == (1, 500_000_000)


@pytest.mark.parametrize(("asked", "wanted"), [(None, [2]), ("64", [])])
def test_torch_computes_with_the_cores_of_a_container_unless_told(monkeypatch, asked, wanted):
    monkeypatch.setattr(evaluation, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    evaluation._use_own_cores.__wrapped__()
    assert used == wanted


# schedulers


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_a_scheduler_sets_starts_no_second_process(tiny, monkeypatch, scheduler):
    monkeypatch.setattr(MPIEnvironment, "detect", lambda: pytest.fail("it was asked"))
    for name, value in SCHEDULERS[scheduler].items():
        monkeypatch.setenv(name, value)
    evaluation.best_device.cache_clear()
    assert evaluation.used_precision(replace(tiny, precision="auto")) in ("32-true", "bf16-mixed")
    fabric = evaluation.make_fabric(tiny)
    assert (fabric.world_size, fabric.global_rank) == (1, 0)


# worker processes


@pytest.mark.skipif(not CAN_MOUNT, reason="no mount of our own: unshare -m needs root, on Linux")
def test_a_training_without_shared_memory_has_the_same_weights(scenes, tmp_path):
    wanted = Study(scenes.root, tmp_path / "1", "smoke", batch=1, precision="32-true").run("T1")
    command = [sys.executable, "-c", TRAIN, str(scenes.root), str(tmp_path / "2")]
    schedulers = {name: value for each in SCHEDULERS.values() for name, value in each.items()}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{SMALL_DISK} && exec "$@"', "sh", *command],
        env=os.environ | schedulers | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("T1: the worker processes failed (") == 1
    assert "shared memory" in done.stdout
    assert done.stdout.split()[-1] == wanted.digest()


def failing(batches, error, failures):
    """The batches of a training whose workers fail after two; without workers, if always."""

    def few(parts, config, seed, done):
        for k, batch in enumerate(batches(parts, replace(config, workers=0), seed, done)):
            if config.workers and k == 2 or len(failures) > 1:
                failures.append(config.workers)
                raise error
            yield batch

    return few


def train(scenes, tiny, make_network, workers):
    """The weights and the history of a training of four steps an epoch."""
    config = replace(tiny, batch=1, epochs=2, workers=workers)
    torch.manual_seed(0)

    def loss(logits, *_):
        return {"ce": logits.square().mean()}

    training = Training(make_network(5), scenes.stage("T1", "new", 32), loss, config, 0, "T1")
    history = training.run().drop(columns="seconds")
    return torch.cat([w.flatten() for w in training.network.state_dict().values()]), history


def test_where_workers_fail_the_same_training_goes_on_without(
    scenes, tiny, make_network, monkeypatch, capsys
):
    weights, history = train(scenes, tiny, make_network, 0)
    failures = []
    error = RuntimeError("Caught OSError in DataLoader worker\nOSError: Too many open files\n")
    monkeypatch.setattr(loop, "_batches", failing(loop._batches, error, failures))
    found, others = train(scenes, tiny, make_network, 2)
    assert found.equal(weights) and others.equals(history)
    assert failures == [2]  # not again in the next epoch
    said = capsys.readouterr().out
    assert said.count("T1: the worker processes failed (OSError: Too many open files). ") == 1


def test_an_error_that_is_not_of_the_workers_is_raised(scenes, tiny, make_network, monkeypatch):
    batches, failures = loop._batches, [0, 0]
    monkeypatch.setattr(loop, "_batches", failing(batches, OSError("no such image"), failures))
    with pytest.raises(OSError, match="no such image"):
        train(scenes, tiny, make_network, 2)
    assert failures == [0, 0, 2, 0]


def test_toyscapes_are_drawn_without_semaphores(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(write, "ProcessPoolExecutor", refuse)
    write.draw_all(tmp_path / "alone", 0, 10**4, (64, 128))
    cities = {city for city, _ in write.SPLIT.images}
    images = [file.parent.name for file in (tmp_path / "alone").rglob("*_leftImg8bit.png")]
    assert sorted(images) == sorted(cities)


# locks


@pytest.fixture
def no_locks(monkeypatch):
    """As a network disk answers whose server keeps no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = pytest.importorskip("fcntl", reason="Windows has no flock")
    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_disk_without_locks_is_named_with_the_way_out(no_locks, tmp_path):
    text = r"the disk of .* has no file locks \(.*No locks.*\).*; choose RUNS on another disk"
    with pytest.raises(OSError, match=text), study_module._exclusive(tmp_path / "runs" / "T1"):
        pass


def test_on_a_disk_without_locks_images_are_decoded_each_time(no_locks, tmp_path, capsys):
    store.fill(tmp_path, {tmp_path / "entry": {}}, lambda _: pytest.fail("it was made"), 1)
    assert "No locks available); images are decoded each time. Set CILKIT_CACHE" in (
        capsys.readouterr().out
    )


def test_who_waits_for_another_process_says_so_once(monkeypatch, tmp_path, capsys):
    tries = []

    class Busy:
        def __init__(self, file):
            self.file = file

        def acquire(self, timeout):
            tries.append(timeout)
            if len(tries) < 4:
                raise Timeout(self.file)

        def release(self):
            pass

    monkeypatch.setattr(study_module, "FileLock", Busy)
    with study_module._exclusive(tmp_path / "T1"):
        pass
    lock = tmp_path / ".T1.lock"
    text = f"T1: another process trains it; waiting. If none does, delete {lock}\n"
    assert capsys.readouterr().out == text

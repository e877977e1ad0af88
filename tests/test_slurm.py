"""docs/slurm/train.sbatch between stand-ins for Slurm's commands: what it starts, and when it queues itself again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fast, pytest.mark.skipif(os.name != "posix", reason="bash is POSIX's")]

SCRIPT = Path(__file__).parents[1] / "docs" / "slurm" / "train.sbatch"

# Four tasks on two nodes; as the true one it ends with the highest code of its tasks.
SRUN = """
highest=0
for task in 0 1 2 3; do
    code=0
    SLURM_PROCID=$task SLURM_LOCALID=$((task % 2)) SLURM_NTASKS=4 "$@" || code=$?
    if [ $code -gt $highest ]; then highest=$code; fi
done
exit $highest
"""
SCONTROL = """
echo "scontrol $*" >> calls
if [ "$1 $2" = "show hostnames" ]; then printf "node-a\\nnode-b\\n"; fi
"""
SPHERECTL = """
echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR:$MASTER_PORT" "$@" >> calls
exit $CODE
"""


@pytest.mark.parametrize(("code", "queued"), [(0, False), (75, True), (143, False)])
def test_the_script_starts_a_process_a_gpu_and_goes_on_after_75_alone(code: int, queued: bool, tmp_path: Path) -> None:
    for name, body in (("srun", SRUN), ("scontrol", SCONTROL), ("spherectl", SPHERECTL)):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}")
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_JOB_ID": "40123", "SLURM_JOB_NODELIST": "node-[a-b]", "CODE": str(code)}
    ended = subprocess.run(
        ["bash", SCRIPT, "imagenet256", "--data", "my images"],
        cwd=tmp_path,
        env=os.environ | variables | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    for option in ("--signal=USR1@120", "--requeue"):  # Slurm warns the processes, and queues a preempted job again
        assert f"\n#SBATCH {option} " in SCRIPT.read_text()
    numbers = ["0 0 4", "1 1 4", "2 0 4", "3 1 4"]
    assert (tmp_path / "calls").read_text().splitlines() == [
        "scontrol show hostnames node-[a-b]",
        *(f"{three} node-a:20123 train imagenet256 --data my images" for three in numbers),
        *(["scontrol requeue 40123"] if queued else []),
    ]

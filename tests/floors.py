#!/usr/bin/env python3
"""Fails when a source file includes something of a floor above its own, or of a sibling on its floor.

The floors are those of docs/architecture.md. Run from anywhere: tests/floors.py [ROOT].
"""
import pathlib
import re
import sys

# The longest matching prefix decides. Siblings share a number and differ in prefix.
FLOORS = {
    "proto/": 0, "runtime/base/": 0,
    "runtime/device/": 1, "runtime/metrics/": 1,
    "runtime/model/": 2,
    "kernels/": 3, "runtime/comm/": 3,
    "runtime/pipeline/": 4, "runtime/requests/": 4,
    "stages/": 5,
    "launch/": 6, "slurm/": 6,
}
CUDA_ONLY = re.compile(r"cuda_|nccl_|^kernels/cuda/")
CUDA_HEADER = re.compile(r"^(cuda|cublas|nccl|nvml|cooperative_groups|mma\.h)")
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)


def floor_of(path):
    matches = [prefix for prefix in FLOORS if path.startswith(prefix)]
    return max(matches, key=len) if matches else None


def faults_of(path, text):
    own = floor_of(path)
    for quote, included in INCLUDE.findall(text):
        if quote == "<":
            if CUDA_HEADER.match(included) and not CUDA_ONLY.search(path):
                yield f"{path} includes <{included}>: only cuda_*, nccl_* and kernels/cuda/ may"
            continue
        other = floor_of(included)
        if other is None:
            yield f'{path} includes "{included}", which is on no floor: write paths from the root'
        elif FLOORS[other] > FLOORS[own]:
            yield f'{path} (floor {FLOORS[own]}) includes "{included}" (floor {FLOORS[other]})'
        elif FLOORS[other] == FLOORS[own] and other != own and FLOORS[own] > 0:
            yield f'{path} includes "{included}" of a sibling on floor {FLOORS[own]}'


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent).resolve()
    faults, seen = [], 0
    for file in sorted(root.rglob("*")):
        path = file.relative_to(root).as_posix()
        if file.suffix in {".h", ".cpp", ".cu", ".cuh"} and floor_of(path):
            seen += 1
            faults += faults_of(path, file.read_text())
    if not seen:
        faults.append(f"no source file found under {root}")
    print("\n".join(faults) or f"floors hold in {seen} files")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())

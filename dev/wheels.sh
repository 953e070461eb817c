#!/usr/bin/env bash
# Wheels for a host that has torch and CUDA but no network: what the project needs beside torch, transformers, numpy,
# pandas, pyarrow, tqdm, matplotlib and pytest. bitsandbytes is packed anew with the one CUDA library that fits.
#
#   bash dev/wheels.sh                                 # into out/wheels, for Python 3.12 and CUDA 13.0
#   PYTHON_VERSION=3.11 CUDA=128 bash dev/wheels.sh    # for another host
#   MORE="transformers tokenizers" bash dev/wheels.sh  # further packages
#
# There, with the folder copied, and PYTHONPATH=site from then on:
#   pip install --no-index --no-deps --target site out/wheels/*.whl
set -euo pipefail
cd -- "$(dirname -- "$0")/.."
PYTHON=${PYTHON:-python} PYTHON_VERSION=${PYTHON_VERSION:-3.12} CUDA=${CUDA:-130} out=${OUT:-out/wheels}
mkdir -p -- "$out" && rm -f -- "$out"/*.whl

# Bounds as in requirements.txt. The lines below the first are what those need and a bare host seldom has.
names=("bitsandbytes>=0.50,<1" "peft>=0.21,<1" "datasets>=4.0,<6" "jsonargparse>=4.40,<5" "hypothesis>=6.100,<7"
       "accelerate>=1.0" "dill<0.4.2" "multiprocess<0.70.20" xxhash
       sortedcontainers docstring-parser typeshed-client ${MORE:-})
platforms=()
for glibc in 2_28 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
"$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version "$PYTHON_VERSION" \
    --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$out" "${names[@]}"

"$PYTHON" - "$out" "$CUDA" <<'END'
import sys, zipfile
from pathlib import Path

(path,), kept = Path(sys.argv[1]).glob("bitsandbytes-*.whl"), f"libbitsandbytes_cuda{sys.argv[2]}.so"
small = path.with_suffix(".tmp")
with zipfile.ZipFile(path) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
    names = [n for n in old.namelist() if not n.endswith(".so") or Path(n).name in (kept, "libbitsandbytes_cpu.so")]
    if not any(n.endswith(kept) for n in names):
        sys.exit(f"error: {path.name} has no {kept}; CUDA is one of " + ", ".join(
            n.split("_cuda")[1][:-3] for n in old.namelist() if "_cuda" in n and n.endswith(".so")))
    for name in names:
        text = old.read(name)
        if name.endswith(".dist-info/RECORD"):
            text = b"".join(x for x in text.splitlines(True) if x.decode().split(",")[0] in names)
        new.writestr(old.getinfo(name), text)
small.replace(path)
END

du -b -- "$out"/*.whl | sort -rn | awk '{ printf "%6.2f MiB  %s\n", $1 / 2^20, $2; sum += $1 }
    END { printf "%6.2f MiB in all\n", sum / 2^20; exit sum > 60 * 2^20 }' ||
    { echo "error: more than 60 MiB" >&2; exit 1; }

#!/usr/bin/env python3
"""Makes the images of the kernels: PTX and machine code, with what the compiler says of each kernel.

    kernels/cuda/images/make.py [--check] [--compilers DIR]

No device and no toolkit are needed: NVRTC and ptxas come from the registry of Python packages, in the versions
below, into a folder of their own (by default `target/cuda-compilers`). Every kernel is compiled for every
target, without a warning, and without spilling registers. `--check` writes nothing and fails where an image
would differ from the one that is checked in.
"""

import argparse
import ctypes
import hashlib
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = HERE.parent / "kernels"
WHEELS = ["nvidia-cuda-nvrtc-cu12==12.8.93", "nvidia-cuda-nvcc-cu12==12.8.93"]

# Which form is written for which architectures: text that a newer driver compiles, and machine code.
TARGETS = {
    "descent_f32": ["compute_70", "sm_70", "sm_75", "sm_80", "sm_90a", "sm_100a"],
    "descent_f16": ["compute_80", "compute_90", "sm_80", "sm_90a", "sm_100a"],
    "descent_sm90": ["sm_90a"],
}


def install(folder):
    if not (folder / "nvidia").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run(command + WHEELS, check=True)
    found = {name: next(folder.rglob(name)) for name in ("libnvrtc.so.12", "ptxas")}
    found["ptxas"].chmod(0o755)
    return ctypes.CDLL(str(found["libnvrtc.so.12"])), found["ptxas"]


def closure(name):
    """A source and what it includes, in the order of the includes."""
    text = (SOURCES / name).read_text()
    files = [name]
    for included in re.findall(r'^#include "(.+)"', text, re.M):
        files += [file for file in closure(included) if file not in files]
    return files


def digest(source):
    """SHA-256 over the names and texts of a source and what it includes."""
    whole = hashlib.sha256()
    for name in sorted(closure(source)):
        text = (SOURCES / name).read_bytes()
        whole.update(f"{name} {len(text)}\n".encode() + text)
    return whole.hexdigest()


def to_ptx(nvrtc, source, architecture):
    program = ctypes.c_void_p()
    headers = closure(source)[1:]
    texts = (ctypes.c_char_p * len(headers))(*[(SOURCES / name).read_bytes() for name in headers])
    names = (ctypes.c_char_p * len(headers))(*[name.encode() for name in headers])
    text = (SOURCES / source).read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.encode(), len(headers), texts, names)
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    flags = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    status = nvrtc.nvrtcCompileProgram(program, len(options), flags)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    said = log.value.decode().strip()
    # That 7.0 will go in a later compiler is no fault of a source.
    lines = [line for line in said.splitlines() if "Architectures prior to" not in line]
    if status != 0 or "".join(lines).strip():
        sys.exit(f"{source} for {architecture}:\n{said}")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value


def to_code(ptxas, ptx, architecture):
    command = [str(ptxas), "-v", "--warn-on-spills", f"-arch={architecture}", "-o", "/dev/stdout", "-"]
    run = subprocess.run(command, input=ptx, capture_output=True)
    said = run.stderr.decode()
    warnings = [line for line in said.splitlines() if "warning" in line or "error" in line]
    if run.returncode != 0 or warnings:
        sys.exit(f"{architecture}:\n{said}")
    return run.stdout, said


def resources(said):
    """Of each kernel: registers, static shared memory, and bytes spilled."""
    rows = []
    pattern = r"Compiling entry function '(\w+)'(.*?)Used (\d+) registers(.*?)$"
    for name, before, registers, after in re.findall(pattern, said, re.S | re.M):
        spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", before))
        shared = re.search(r"(\d+) bytes smem", after)
        rows.append((name, int(registers), int(shared[1]) if shared else 0, spilled))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where an image differs")
    parser.add_argument("--compilers", type=pathlib.Path, help="where the compilers are installed")
    arguments = parser.parse_args()
    folder = arguments.compilers or HERE.parents[2] / "target" / "cuda-compilers"
    nvrtc, ptxas = install(folder)

    made = {}
    table = ["# Made by images/make.py with " + ", ".join(WHEELS), ""]
    for source, targets in TARGETS.items():
        table.append(f"source {source} {digest(source + '.cu')}")
        for target in targets:
            virtual = target.replace("sm_", "compute_")
            ptx = to_ptx(nvrtc, source + ".cu", virtual)
            if target.startswith("compute_"):
                image, name = ptx, f"{source}.{target}.ptx"
            else:
                image, said = to_code(ptxas, ptx, target)
                name = f"{source}.{target}.cubin"
                for kernel, registers, shared, spilled in resources(said):
                    row = f"kernel {kernel} {target} registers {registers} shared {shared} spilled {spilled}"
                    table.append(row)
            made[name] = image
            table.append(f"image {name} {hashlib.sha256(image).hexdigest()}")
        table.append("")
    made["images.txt"] = ("\n".join(table).strip() + "\n").encode()

    if not arguments.check:
        for old in [*HERE.glob("*.cubin"), *HERE.glob("*.ptx")]:
            old.unlink()
        for name, image in made.items():
            (HERE / name).write_bytes(image)
    present = {path.name: path.read_bytes() for path in HERE.iterdir() if path.suffix != ".py"}
    differing = sorted(name for name in made.keys() | present.keys() if made.get(name) != present.get(name))
    if differing:
        sys.exit("images differ from their sources: " + ", ".join(differing))
    print(made["images.txt"].decode(), end="")


if __name__ == "__main__":
    main()

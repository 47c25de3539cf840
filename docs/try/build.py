"""Makes what the page docs/try.md runs: the packaged model as an ONNX file, and the runtime from npm.

    python docs/try/build.py

Writes `docs/try/built/`, which the build of the site copies. Needs Node.js with npm, and the extra `deploy`. Nothing
of it is committed: the runtime takes 42 MB, and the bytes of the model depend on the versions of PyTorch and of its
exporter.
"""

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import vov3d
from vov3d.files import replacing

HERE = Path(__file__).parent
TARGET = HERE / "built"
MODEL = "vov3d_n"
RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""Files of onnxruntime-web: for WebAssembly, and for WebGPU, which is loaded only when it is chosen."""


def write_model(target: Path) -> None:
    """Writes the model as ONNX, of 2D convolutions only, and its configuration as a module of JavaScript."""
    model: Any = vov3d.create_model(MODEL, pretrained=True).eval()
    cfg = model.pretrained_cfg
    file = target / f"{MODEL}.onnx"
    vov3d.export(model, file, form="conv2d")
    configuration = {
        "file": file.name,
        "labels": vov3d.class_names(model),
        "frames": cfg["num_frames"],
        "size": cfg["test_input_size"][-1],
        "mean": cfg["mean"],
        "std": cfg["std"],
        "scores": "probabilities",
    }
    if cfg["sampling"] != "segment" or cfg["interpolation"] != "bilinear":
        raise ValueError(
            f"{MODEL} has sampling {cfg['sampling']!r} and interpolation {cfg['interpolation']!r}: the page knows"
            " only 'segment' and 'bilinear'"
        )
    with replacing(target / "model.js") as draft:
        draft.write_text(f"export default {json.dumps(configuration, indent=2)};\n", encoding="utf-8")


def write_runtime(target: Path) -> None:
    """Fetches the locked version of the runtime from npm, and copies the files that the page needs."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("npm was not found: install Node.js, which brings it")
    with TemporaryDirectory(prefix="vov3d-npm-") as folder:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        if subprocess.run(command, cwd=folder, check=False).returncode:
            raise SystemExit(f"{' '.join(command)} failed, see above; nothing was changed in {target}")
        package = Path(folder, "node_modules", "onnxruntime-web")
        for name in RUNTIME:
            with replacing(target / name) as draft:
                shutil.copyfile(package / "dist" / name, draft)


def main() -> None:
    """Makes both, or what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("model", "runtime"), help="make only one of the two")
    args = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    if args.only != "model":
        write_runtime(TARGET)
    if args.only != "runtime":
        write_model(TARGET)
    for path in sorted(TARGET.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.2f} MB  {path.relative_to(HERE.parent.parent)}")


if __name__ == "__main__":
    main()

"""Nothing heavy is imported: not by `import porter`, not by a conversion, not by `--help`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FRAMEWORKS = {"torch", "paddle", "onnx", "onnxruntime", "onnxscript"}


def modules_after(code: str, cwd: Path) -> set[str]:
    """Return the top-level modules that are imported after some code has run."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.partition(".")[0] for line in done.stdout.splitlines()}


def test_a_conversion_imports_no_framework(tmp_path: Path) -> None:
    """Reading, mapping, writing and the weight-level proof need none."""
    code = (
        "import porter\n"
        "done = porter.convert('shunted-t', from_='paddle', to='torch', verify=False)\n"
        "from porter.verification.weights import prove_weights\n"
        "proof = prove_weights(done.plan, porter.open(done.source), porter.open(done.output))\n"
        "assert proof.holds and proof.compared == 259"
    )
    assert not modules_after(code, tmp_path) & FRAMEWORKS


def test_what_few_files_need_is_loaded_for_them_alone(tmp_path: Path) -> None:
    """A small model is converted sooner than the tools for odd files would be loaded."""
    code = (
        "import porter, sys\n"
        "porter.init('shunted-t', 'a.pdparams', to='paddle')\n"
        "done = ['hashlib', 'ml_dtypes', 'concurrent.futures', 'importlib.resources', 'logging']\n"
        "for name in [n for n in sys.modules if n.startswith(('porter', *done))]:\n"
        "    del sys.modules[name]\n"
        "sys.argv = 'porter convert shunted-t a.pdparams --from paddle --to torch'.split()\n"
        "sys.argv.append('--no-verify')\n"
        "from porter.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not set(done) & set(sys.modules), set(done) & set(sys.modules)"
    )
    assert not modules_after(code, tmp_path) & {*FRAMEWORKS, "rich"}


def test_importing_porter_is_light(tmp_path: Path) -> None:
    """`import porter` pulls in no third-party module at all."""
    assert not modules_after("import porter", tmp_path) & {*FRAMEWORKS, "numpy", "click", "rich"}


def test_help_is_light(tmp_path: Path) -> None:
    """`porter --help` imports click and nothing else of weight."""
    code = (
        "import sys; sys.argv = ['porter', '--help']\n"
        "from porter.cli import main\n"
        "try: main()\nexcept SystemExit: pass"
    )
    assert not modules_after(code, tmp_path) & {*FRAMEWORKS, "numpy", "rich"}


def test_inspecting_a_stranger_reads_no_table(tmp_path: Path) -> None:
    """What resembles no architecture is described without tables, hashes and pools of rich."""
    code = (
        "import sys, numpy; from porter import codecs\n"
        "from porter.tensors.state_dict import StateDict\n"
        "codecs.write(StateDict.of({'alien': numpy.ones(3)}), 'x.pth', 'torch')\n"
        "for name in [n for n in sys.modules if n.startswith(('porter', 'hashlib'))]:\n"
        "    del sys.modules[name]\n"
        "sys.argv = ['porter', 'inspect', 'x.pth']\n"
        "from porter.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert 'porter.codecs.torch.zip_file' in sys.modules\n"
        "unwanted = {'porter.mapping.table', 'porter.tensors.operations', 'hashlib'}\n"
        "assert not unwanted & set(sys.modules)"
    )
    assert not modules_after(code, tmp_path) & {*FRAMEWORKS, "tomllib", "rich"}


def test_public_functions_are_callable_beside_their_modules(tmp_path: Path) -> None:
    """`porter.convert(...)` and `import porter.convert` do not get in each other's way."""
    code = (
        "import porter\n"
        "import porter.commands.convert, porter.verification, porter.commands.diff\n"
        "from porter.commands.convert import Conversion\n"
        "assert all(callable(getattr(porter, n)) for n in porter.__all__ if n[0] != '_')"
    )
    modules_after(code, tmp_path)

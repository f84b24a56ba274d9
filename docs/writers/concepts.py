"""The drawings of `docs/concepts.md`, one for each word."""

from __future__ import annotations

from pathlib import Path

from writers.drawing import Drawing


def drawings(folder: Path) -> dict[Path, str]:
    """Return {path: SVG} of every drawing."""
    made = {
        "variant": _variant(),
        "dialect": _dialect(),
        "canonical": _canonical(),
        "kind": _kind(),
        "table": _table(),
        "plan": _plan(),
        "travel": _travel(),
        "behaviour": _behaviour(),
        "trace": _trace(),
        "template": _template(),
        "verdict": _verdict(),
        "words": _words(),
    }
    return {folder / f"{name}.svg": drawing.svg() for name, drawing in made.items()}


def _variant() -> Drawing:
    return (
        Drawing("A family has one table and several variants, which differ in sizes", 150)
        .box(20, 50, 150, "*family\n`deit\n~one table")
        .box(260, 12, 400, "*variant\n`deit-tiny-224   192 wide, 3 heads", "key")
        .box(260, 82, 195, "*variant\n`deit-base-224", "key")
        .box(465, 82, 195, "*variant\n`deit-base-384", "key")
        .arrow(170, 75, 258, 40)
        .arrow(170, 85, 258, 105)
    )


def _dialect() -> Drawing:
    return (
        Drawing("One tensor of a ViT and its name in four dialects", 196)
        .text(20, 26, "~the weight of the first norm of block 3, in four dialects")
        .box(20, 40, 640, "`torch             blocks.3.norm1.weight", "key")
        .box(20, 78, 640, "`torch:hf          vit.encoder.layer.3.layernorm_before.weight")
        .box(20, 116, 640, "`paddle:paddlevit  encoder.layers.3.attn_norm.weight")
        .box(20, 154, 640, "`numpy:google      Transformer/encoderblock_3/LayerNorm_0/scale")
    )


def _canonical() -> Drawing:
    return (
        Drawing("Every conversion goes through the canonical names", 170)
        .box(20, 12, 170, "`torch:timm")
        .box(20, 68, 170, "`torch:hf")
        .box(20, 124, 170, "`paddle:paddlevit")
        .box(255, 50, 170, "*canonical names\n~the official\n~checkpoint's", "key")
        .box(490, 12, 170, "`paddle")
        .box(490, 68, 170, "`numpy:google")
        .box(490, 124, 170, "`onnx")
        .arrow(190, 28, 253, 72)
        .arrow(190, 84, 253, 84)
        .arrow(190, 140, 253, 100)
        .arrow(425, 72, 488, 28)
        .arrow(425, 84, 488, 84)
        .arrow(425, 100, 488, 140)
    )


def _kind() -> Drawing:
    return (
        Drawing("The kind of a layer says what each framework stores", 172)
        .text(20, 26, "*kind")
        .text(150, 26, "*PyTorch")
        .text(330, 26, "*Paddle")
        .text(510, 26, "*Flax")
        .box(20, 40, 110, "`linear", "key")
        .box(150, 40, 160, "(out, in)")
        .box(330, 40, 160, "(in, out)")
        .box(510, 40, 150, "(in, out)")
        .box(20, 84, 110, "`embedding", "key")
        .box(150, 84, 160, "(entries, dim)")
        .box(330, 84, 160, "(entries, dim)")
        .box(510, 84, 150, "(entries, dim)")
        .box(20, 128, 110, "`conv", "key")
        .box(150, 128, 160, "(out, in, h, w)")
        .box(330, 128, 160, "(out, in, h, w)")
        .box(510, 128, 150, "(h, w, in, out)")
    )


def _table() -> Drawing:
    return (
        Drawing("Rows of a table with placeholders are linked to the tensors of a variant", 182)
        .box(20, 12, 300, '*table, for the family\n`"blocks.{i}.norm1" = "norm"', "key")
        .box(20, 88, 300, "*skeleton, for the variant\n`blocks.0 … blocks.11\n`float32 [192]")
        .box(
            400,
            40,
            260,
            "*links\n`blocks.0.norm1.weight\n`blocks.0.norm1.bias\n`…\n~every tensor, once",
        )
        .arrow(320, 38, 398, 72)
        .arrow(320, 120, 398, 106)
    )


def _plan() -> Drawing:
    return (
        Drawing("A plan is made from names and shapes before a byte of a tensor is read", 150)
        .box(20, 12, 170, "*names and shapes\n~of the file")
        .box(20, 80, 170, "*links\n~of table, variant")
        .box(260, 40, 190, "*plan\n~what becomes of each\n~tensor, and why", "key")
        .box(520, 12, 140, "*written\n~lazily", "good")
        .box(520, 80, 140, "*refused\n~all problems", "bad")
        .arrow(190, 36, 258, 66)
        .arrow(190, 104, 258, 84)
        .arrow(450, 66, 518, 36)
        .arrow(450, 84, 518, 104)
    )


def _travel() -> Drawing:
    return (
        Drawing("How a tensor travels from one file to the other", 204)
        .box(20, 20, 130, "*file\n~checked header")
        .box(190, 20, 130, "*lazy tensor\n~nothing read")
        .box(360, 20, 130, "*operations\n~names, layout")
        .box(530, 20, 130, "*blocks\n~a few in memory")
        .box(530, 110, 130, "*temporary file\n~written, synced")
        .box(360, 110, 130, "*read back\n~mapped back")
        .box(190, 110, 130, "*digests equal?\n~else discarded", "key")
        .box(20, 110, 130, "*output\n~appears whole", "good")
        .arrow(150, 45, 188, 45)
        .arrow(320, 45, 358, 45)
        .arrow(490, 45, 528, 45)
        .arrow(595, 70, 595, 108)
        .arrow(530, 135, 492, 135)
        .arrow(360, 135, 322, 135)
        .arrow(190, 135, 152, 135)
        .arrow(255, 70, 255, 108)
        .text(20, 190, "~The source is read once; its digests are kept for the comparison.")
    )


def _behaviour() -> Drawing:
    return (
        Drawing("Two programs with the same weights compute different outputs", 150)
        .box(20, 48, 160, "*the same bytes\n~every tensor equal")
        .box(250, 12, 220, "*canonical model\n~eps 1e-6")
        .box(250, 84, 220, "*the dialect's code\n~eps 1e-12", "key")
        .box(530, 12, 130, "*outputs")
        .box(530, 84, 130, "*others\n~by 2e-6", "bad")
        .arrow(180, 66, 248, 40)
        .arrow(180, 82, 248, 108)
        .arrow(470, 36, 528, 30)
        .arrow(470, 108, 528, 108)
    )


def _trace() -> Drawing:
    return (
        Drawing("A trace is recorded on one machine and compared on another", 150)
        .box(20, 20, 200, "*machine with Paddle\n`verify --save-trace")
        .box(260, 20, 160, "*trace\n~inputs, outputs\n~of every layer", "key")
        .box(460, 20, 200, "*machine with torch\n`verify TRACE a.pth")
        .arrow(220, 45, 258, 45)
        .arrow(420, 45, 458, 45)
        .text(20, 128, "~The weights and the other framework stay where they are.")
    )


def _template() -> Drawing:
    return (
        Drawing("A template is a graph without weights; an export fills it", 158)
        .box(20, 12, 190, "*template\n~graph, traced once,\n~no weights", "key")
        .box(20, 94, 190, "*checkpoint\n~any dialect")
        .box(290, 44, 150, "*export\n~no torch needed")
        .box(510, 44, 150, "`model.onnx\n~canonical names")
        .arrow(210, 46, 288, 62)
        .arrow(210, 112, 288, 80)
        .arrow(440, 70, 508, 70)
    )


def _verdict() -> Drawing:
    return (
        Drawing("A verdict compares the target's error with the source's own", 196)
        .box(20, 12, 190, "*source in float64\n~the reference", "key")
        .box(20, 76, 190, "*source in float32\n~own error 1.7e-6")
        .box(20, 140, 190, "*target in float32\n~error 1.2e-6")
        .box(300, 76, 160, "*limit 1.5e-5\n~8 × own error,\n~or the floor's")
        .box(540, 60, 120, "*PASSED\n~at most", "good")
        .box(540, 124, 120, "*FAILED\n~above, or NaN", "bad")
        .arrow(210, 38, 330, 74)
        .arrow(210, 100, 298, 100)
        .arrow(210, 166, 330, 146)
        .arrow(460, 96, 538, 84)
        .arrow(460, 116, 538, 146)
    )


def _words() -> Drawing:
    return (
        Drawing("Total, exact and proven: three claims, three kinds of evidence", 180)
        .box(20, 20, 200, "*total\n~every tensor has a place\n~or a stated reason")
        .box(240, 20, 200, "*exact\n~there and back:\n~the same bytes")
        .box(460, 20, 200, "*proven\n~both models ran:\n~the same outputs", "good")
        .text(20, 118, "names, shapes")
        .text(240, 118, "bytes")
        .text(460, 118, "outputs, or equal values")
        .text(20, 146, "~before reading")
        .text(240, 146, "~while the output is read back")
        .text(460, 146, "~after writing, in two processes")
    )

# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""Make a folder of hostile, broken and merely awkward model-weight files.

    python badfiles.py OUTDIR [--big] [--special] [--only SUBSTRING]

Standard library only; deterministic; every "payload" is harmless: the only
thing a pickle in here would do, if somebody executed it, is create an empty
directory OUTDIR/MARKERS/<case>.  A marker that exists after a run is the proof
that some reader executed code.

Writes OUTDIR/manifest.json: {"marker_root": ..., "cases": [ ... ]}, each case

    name      unique
    format    torch-zip | torch-legacy | paddle | safetensors | npy | npz |
              onnx | sharded | any
    path      the file to hand to the reader, relative to OUTDIR
    cls       exec | dos | corrupt | ambiguous | unsupported | path | benign
    why       one line: what is wrong with the bytes (or what must survive)
    expected  'reject'              -> exit 2, one line naming file and reason,
                                       nothing written, no marker
              'accept-and-preserve' -> every tensor in "tensors" comes out with
                                       this dtype, shape and these bytes
    tensors   (accept only) name -> {dtype, shape, sha256 of the little-endian
              C-order bytes} ; a reader may say so and refuse only where
              "may_refuse" is true (then exit 2 and a reason, never silence)
    marker    (exec only) directory that must not come into being

--big      adds sparse >4 GB files and 100k-tensor archives
--special  adds a FIFO and a link to /dev/zero (readers that do not check will
           hang on them)
"""
from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import zipfile
import zlib

# --------------------------------------------------------------------------
# small pieces

FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def sha(b: bytes) -> str:
    return hashlib.sha256(b).hexdigest()


def t(dtype: str, shape, data: bytes) -> dict:
    return {"dtype": dtype, "shape": list(shape), "sha256": sha(data)}


F4 = struct.pack("<4f", 1.0, 2.0, 3.0, 4.0)          # the usual payload
F4T = struct.pack("<4f", 1.0, 3.0, 2.0, 4.0)         # its 2x2 transpose
NANS = struct.pack("<6I", 0x7FC00000, 0x7FC01234, 0xFFC00001, 0x7F800001, 0x7F800000, 0x80000000)


# --------------------------------------------------------------------------
# pickle assembler

class Pk:
    """Opcodes by hand, so that any malformed stream can be made."""

    def __init__(self, proto: int | None = 2):
        self.b = bytearray()
        if proto is not None:
            self.b += b"\x80" + bytes([proto])

    def raw(self, x: bytes) -> "Pk":
        self.b += x
        return self

    def v(self, x) -> "Pk":
        if callable(x):
            x(self)
        elif x is None:
            self.b += b"N"
        elif x is True:
            self.b += b"\x88"
        elif x is False:
            self.b += b"\x89"
        elif isinstance(x, int):
            if -(2 ** 31) <= x < 2 ** 31:
                self.b += b"J" + struct.pack("<i", x)
            else:
                n = x.to_bytes((x.bit_length() + 8) // 8, "little", signed=True)
                self.b += b"\x8a" + bytes([len(n)]) + n
        elif isinstance(x, float):
            self.b += b"G" + struct.pack(">d", x)
        elif isinstance(x, str):
            u = x.encode("utf-8", "surrogatepass")
            self.b += b"X" + struct.pack("<I", len(u)) + u
        elif isinstance(x, (bytes, bytearray)):     # protocol 3+
            self.b += b"B" + struct.pack("<I", len(x)) + bytes(x)
        elif isinstance(x, tuple):
            self.b += b"("
            for y in x:
                self.v(y)
            self.b += b"t"
        elif isinstance(x, list):
            self.b += b"]("
            for y in x:
                self.v(y)
            self.b += b"e"
        elif isinstance(x, dict):
            self.b += b"}("
            for k, y in x.items():
                self.v(k)
                self.v(y)
            self.b += b"u"
        else:
            raise TypeError(type(x))
        return self

    def pairs(self, items) -> "Pk":
        """a dict written from pairs, so that a key can occur twice"""
        self.b += b"}("
        for k, y in items:
            self.v(k)
            self.v(y)
        self.b += b"u"
        return self

    def end(self) -> bytes:
        return bytes(self.b) + b"."


def g(mod: str, name: str):
    return lambda p: p.raw(b"c" + mod.encode() + b"\n" + name.encode() + b"\n")


def sg(mod: str, name: str):
    """STACK_GLOBAL (protocol 4): the name may be dotted"""
    def emit(p: Pk):
        for s in (mod, name):
            u = s.encode()
            p.raw(b"\x8c" + bytes([len(u)]) + u)
        p.raw(b"\x93")
    return emit


def call(fn, *args):
    def emit(p: Pk):
        p.v(fn)
        p.v(tuple(args))
        p.raw(b"R")
    return emit


def odict_empty(p: Pk):
    p.v(call(g("collections", "OrderedDict")))


def storage(st: str, key, numel, loc="cpu", mod="torch"):
    def emit(p: Pk):
        p.v(("storage", g(mod, st), key, loc, numel))
        p.raw(b"Q")
    return emit


def tensor(key="0", numel=4, off=0, size=(2, 2), stride=(2, 1), st="FloatStorage",
           meta=None, grad=False):
    args = [storage(st, key, numel), off, tuple(size), tuple(stride), grad, odict_empty]
    if meta is not None:
        args.append(meta)
    return call(g("torch._utils", "_rebuild_tensor_v2"), *args)


def tensor3(dtype: str, nbytes, key="0", off=0, size=(2, 2), stride=(2, 1)):
    return call(g("torch._utils", "_rebuild_tensor_v3"),
                storage("UntypedStorage", key, nbytes, mod="torch.storage"),
                off, tuple(size), tuple(stride), False, odict_empty, g("torch", dtype))


def sd(**kw) -> bytes:
    return Pk().v(dict(kw)).end()


# --------------------------------------------------------------------------
# containers

def zip_bytes(members, compress=zipfile.ZIP_STORED) -> bytes:
    """members: list of (name, bytes) -- duplicates allowed"""
    buf = io.BytesIO()
    with zipfile.ZipFile(buf, "w", compress) as z:
        for name, data in members:
            zi = zipfile.ZipInfo(name, FIXED_DATE)
            zi.compress_type = compress
            import warnings
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                z.writestr(zi, data)
    return buf.getvalue()


def torch_members(data_pkl: bytes, storages=None, root="archive", byteorder=b"little"):
    m = [(f"{root}/data.pkl", data_pkl)]
    if byteorder is not None:
        m.append((f"{root}/byteorder", byteorder))
    for k, b in (storages or {}).items():
        m.append((f"{root}/data/{k}", b))
    m.append((f"{root}/version", b"3\n"))
    return m


def torch_zip(data_pkl: bytes, storages=None, **kw) -> bytes:
    comp = kw.pop("compress", zipfile.ZIP_STORED)
    return zip_bytes(torch_members(data_pkl, storages, **kw), comp)


MAGIC = 0x1950A86A20F9469CFC6C


def legacy_storage(st, key, numel, view=None):
    def emit(p: Pk):
        p.v(("storage", g("torch", st), key, "cpu", numel, view))
        p.raw(b"Q")
    return emit


def legacy_tensor(key="0", numel=4, off=0, size=(2, 2), stride=(2, 1), st="FloatStorage"):
    return call(g("torch._utils", "_rebuild_tensor_v2"), legacy_storage(st, key, numel),
                off, tuple(size), tuple(stride), False, odict_empty)


def torch_legacy(obj, keys, blobs, magic=None, proto=1001, sysinfo=None, tail=b"") -> bytes:
    out = b""
    out += magic if magic is not None else Pk().v(MAGIC).end()
    out += Pk().v(proto).end()
    out += Pk().v(sysinfo or {"protocol_version": 1001, "little_endian": True,
                              "type_sizes": {"short": 2, "int": 4, "long": 4}}).end()
    out += Pk().v(obj).end()
    out += Pk().v(list(keys)).end()
    for numel, data in blobs:
        out += struct.pack("<q", numel) + data
    return out + tail


def nd_dtype(code: str, order: str, state=None):
    def emit(p: Pk):
        p.v(call(g("numpy", "dtype"), code, False, True))
        p.v(state or (3, order, None, None, None, -1, -1, 0))
        p.raw(b"b")
    return emit


def ndarray(shape, data, code="f4", order="<", fortran=False, mod="numpy.core.multiarray",
            cls=("numpy", "ndarray"), dtype=None):
    def emit(p: Pk):
        p.v(call(g(mod, "_reconstruct"), g(*cls), (0,), b"b"))
        p.v((1, tuple(shape), dtype or nd_dtype(code, order), fortran, data))
        p.raw(b"b")
    return emit


def paddle(obj, proto=4) -> bytes:
    return Pk(proto).v(obj).end()


def st_file(header, data=b"", n=None, pad=True) -> bytes:
    h = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    if pad and len(h) % 8:
        h += b" " * (8 - len(h) % 8)
    return struct.pack("<Q", len(h) if n is None else n) + h + data


def ti(dtype, shape, a, b):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [a, b]}


def npy(descr="'<f4'", shape="(2, 2)", data=F4, fortran=False, version=(1, 0), header=None, hlen=None):
    h = header if header is not None else (
        "{'descr': %s, 'fortran_order': %s, 'shape': %s, }" % (descr, fortran, shape))
    hb = h.encode("latin1") if isinstance(h, str) else h
    ln = 2 if version[0] == 1 else 4
    total = 6 + 2 + ln + len(hb) + 1
    hb += b" " * (-total % 64) + b"\n"
    n = len(hb) if hlen is None else hlen
    return (b"\x93NUMPY" + bytes(version) + (struct.pack("<H", n) if ln == 2 else struct.pack("<I", n))
            + hb + data)


def npz(members, **kw) -> bytes:
    return zip_bytes(members, **kw)


# protobuf, just enough for onnx
def vi(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while True:
        if n < 0x80:
            out.append(n)
            return bytes(out)
        out.append(n & 0x7F | 0x80)
        n >>= 7


def fv(field, n):
    return vi(field << 3) + vi(n)


def fb(field, b):
    b = b.encode() if isinstance(b, str) else b
    return vi(field << 3 | 2) + vi(len(b)) + b


def tp(name="w", dims=(2, 2), dt=1, raw=F4, ext=None, extra=b""):
    out = b"".join(fv(1, d) for d in dims)
    if dt is not None:
        out += fv(2, dt)
    out += fb(8, name)
    if raw is not None:
        out += fb(9, raw)
    if ext is not None:
        for k, v in ext:
            out += fb(13, fb(1, k) + fb(2, v))
        out += fv(14, 1)
    return out + extra


def vinfo(name, dims=(2, 2), dt=1):
    shape = b"".join(fb(1, fv(1, d)) for d in dims)
    return fb(1, name) + fb(2, fb(1, fv(1, dt) + fb(2, shape)))


def node(op, ins, outs, attrs=b""):
    return b"".join(fb(1, i) for i in ins) + b"".join(fb(2, o) for o in outs) + fb(4, op) + attrs


def model(inits=(), nodes=None, graph_extra=b"", outputs=("y",), extra=b""):
    names = ["w"]
    nodes = nodes if nodes is not None else [node("Identity", ["w"], ["y"])]
    gr = b"".join(fb(1, n) for n in nodes) + fb(2, "g")
    gr += b"".join(fb(5, i) for i in inits)
    gr += b"".join(fb(12, vinfo(o)) for o in outputs)
    gr += graph_extra
    return fv(1, 8) + fb(2, "badfiles") + fb(7, gr) + fb(8, fb(1, "") + fv(2, 17)) + extra


# --------------------------------------------------------------------------
# the collection

class Maker:
    def __init__(self, out: str, only: str | None):
        self.out = os.path.abspath(out)
        self.only = only
        self.cases: list[dict] = []
        self.markers = os.path.join(self.out, "MARKERS")
        os.makedirs(self.markers, exist_ok=True)

    def marker(self, name):
        return os.path.join(self.markers, name)

    def add(self, name, fmt, ext, data, cls, why, expected="reject", tensors=None, extra=None,
            may_refuse=False, marker=False, note=None, special=None):
        if self.only and self.only not in name:
            return
        assert name not in {c["name"] for c in self.cases}, name
        folder = os.path.join(self.out, fmt, name)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "model" + ext)
        if special is not None:
            special(path)
        elif callable(data):
            data(path)
        else:
            with open(path, "wb") as f:
                f.write(data)
        for rel, b in (extra or {}).items():
            p = os.path.join(folder, rel)
            os.makedirs(os.path.dirname(p), exist_ok=True)
            if callable(b):
                b(p)
            else:
                with open(p, "wb") as f:
                    f.write(b)
        c = {"name": name, "format": fmt, "path": os.path.relpath(path, self.out), "cls": cls,
             "why": why, "expected": expected}
        if tensors is not None:
            c["tensors"] = tensors
        if may_refuse:
            c["may_refuse"] = True
        if marker:
            c["marker"] = self.marker(name)
        if note:
            c["note"] = note
        self.cases.append(c)

    def ok(self, name, fmt, ext, data, why, tensors, **kw):
        self.add(name, fmt, ext, data, "benign", why, "accept-and-preserve", tensors, **kw)


def make(m: Maker, big: bool, special: bool):
    any_formats(m, special)
    pickle_exec(m)
    torch_structure(m, big)
    torch_benign(m, big)
    torch_legacy_cases(m)
    paddle_cases(m)
    safetensors_cases(m, big)
    numpy_cases(m)
    onnx_cases(m)
    sharded_cases(m)


def any_formats(m: Maker, special: bool):
    for ext in (".pth", ".pdparams", ".safetensors", ".onnx", ".npz", ".npy"):
        m.add("empty" + ext.replace(".", "-"), "any", ext, b"", "corrupt", "zero bytes")
    lfs = (b"version https://git-lfs.github.com/spec/v1\n"
           b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n")
    html = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
    for ext in (".pth", ".pdparams", ".safetensors", ".onnx", ".npz"):
        m.add("lfs-pointer" + ext.replace(".", "-"), "any", ext, lfs, "corrupt",
              "a Git LFS pointer text file in place of the weights (clone without lfs pull)")
    for ext in (".pth", ".safetensors", ".onnx"):
        m.add("html-page" + ext.replace(".", "-"), "any", ext, html, "corrupt",
              "an HTML error page saved under the model's name")
    m.add("safetensors-named-pth", "any", ".pth", st_file({"w": ti("F32", [2, 2], 0, 16)}, F4), "ambiguous",
          "content is safetensors, extension says torch: say so, do not guess")
    m.add("zip-named-safetensors", "any", ".safetensors", torch_zip(sd(w=tensor()), {"0": F4}), "ambiguous",
          "content is a torch zip, extension says safetensors")
    m.add("directory-as-file", "any", ".pth", None, "path", "a directory where a file is expected",
          special=lambda p: os.makedirs(p, exist_ok=True))
    m.add("dangling-symlink", "any", ".safetensors", None, "path", "a symlink to nothing",
          special=lambda p: (os.path.lexists(p) and os.unlink(p), os.symlink("nowhere.safetensors", p)))
    import gzip
    m.add("gzip-wrapped-pth", "any", ".pth",
          gzip.compress(torch_zip(sd(w=tensor()), {"0": F4}), mtime=0), "ambiguous", "gzip around a torch zip")
    if special:
        m.add("fifo", "any", ".safetensors", None, "path", "a FIFO: opening it blocks for ever",
              special=lambda p: (os.path.lexists(p) and os.unlink(p), os.mkfifo(p)))
        m.add("dev-zero", "any", ".npz", None, "path", "a link to /dev/zero: endless input",
              special=lambda p: (os.path.lexists(p) and os.unlink(p), os.symlink("/dev/zero", p)))


def pickle_exec(m: Maker):
    """every known way to reach a call, in the torch zip, torch legacy and paddle containers"""

    def payloads(mk):
        """name -> (pickle bytes, why). mk = marker path"""
        d = {}
        d["reduce-os-mkdir"] = (Pk().v({"w": call(g("os", "mkdir"), mk)}).end(),
                                "GLOBAL os.mkdir + REDUCE")
        d["reduce-posix-mkdir"] = (Pk().v({"w": call(g("posix", "mkdir"), mk)}).end(),
                                   "the same function under its C module name")
        d["reduce-eval"] = (Pk().v({"w": call(g("builtins", "eval"), f"__import__('os').mkdir({mk!r})")}).end(),
                            "GLOBAL builtins.eval + REDUCE")
        d["reduce-exec-py2-name"] = (Pk().v({"w": call(g("__builtin__", "eval"), f"__import__('os').mkdir({mk!r})")}).end(),
                                     "python-2 module name, mapped to builtins on load")
        d["stack-global"] = (Pk(4).v({"w": call(sg("os", "mkdir"), mk)}).end(), "STACK_GLOBAL (protocol 4)")
        d["stack-global-dotted"] = (Pk(4).v({"w": call(sg("collections", "OrderedDict.fromkeys.__class__"))}).end(),
                                    "dotted STACK_GLOBAL name walks attributes of an allowed module")
        d["dotted-through-torch"] = (Pk(4).v({"w": call(sg("torch.serialization", "os.mkdir"), mk)}).end(),
                                     "allowed package prefix, dotted name leads to os.mkdir")
        d["dotted-through-numpy"] = (
            Pk(4).v({"w": call(sg("numpy._core.numeric", "builtins.eval"), f"__import__('os').mkdir({mk!r})")}).end(),
            "numpy._core.numeric + 'builtins.eval' (the Paddle RestrictedUnpickler bypass, PR 79764)")
        d["memo-indirect-name"] = (
            Pk(4).raw(b"Vos\np2\n0Vmkdir\np3\n0Vtorch\np0\n0VLongStorage\np1\n0g2\ng3\n\x93").v((mk,)).raw(b"R").end(),
            "module and name fetched from the memo, harmless names nearby")
        d["inst-opcode"] = (b"(S" + repr(mk).encode() + b"\nios\nmkdir\n.", "INST opcode (protocol 0)")
        d["obj-opcode"] = (Pk(1).raw(b"(").v(g("os", "mkdir")).v(mk).raw(b"o").end(), "OBJ opcode")
        d["obj-then-pop"] = (Pk(1).raw(b"(").v(g("os", "mkdir")).v(mk).raw(b"o0").v({"w": 1}).end(),
                             "OBJ call whose result is popped: invisible in the result (fickling GHSA-mxhj)")
        d["partial-setstate"] = (
            Pk().v({"w": call(lambda p: p.v(call(g("functools", "partial"), g("os", "mkdir"), mk)))}).end(),
            "functools.partial holding the function, then called")
        d["build-setstate"] = (
            Pk().v(call(lambda p: (p.v(call(g("functools", "partial"), g("builtins", "id"))),
                                   p.v((g("os", "mkdir"), (mk,), {}, None)).raw(b"b")))).end(),
            "BUILD on functools.partial swaps the function in through __setstate__")
        d["getattr-chain"] = (
            Pk().v(call(lambda p: p.v(call(g("builtins", "getattr"),
                                           call(g("builtins", "__import__"), "os"), "mkdir")), mk)).end(),
            "getattr(__import__('os'), 'mkdir')(...)")
        d["defaultdict-factory"] = (
            Pk().v(call(g("collections", "defaultdict"), call(g("functools", "partial"), g("os", "mkdir"), mk))).end(),
            "a container whose factory is a live function")
        d["payload-then-garbage"] = (Pk().v(call(g("os", "mkdir"), mk)).raw(b"\xff\xff\xff").end(),
                                     "the call comes before the broken byte: a scan-after-load never sees it")
        d["payload-then-truncated"] = (bytes(Pk().v(call(g("os", "mkdir"), mk)).b),
                                       "no STOP opcode: error only after the call has run")
        d["frame-straddle"] = (
            b"\x80\x04\x95" + struct.pack("<Q", 3) + bytes(Pk(None).v({"w": call(sg("os", "mkdir"), mk)}).b) + b".",
            "FRAME length ends inside an opcode: parsers disagree where the stream continues (fickling #317)")
        d["ext-registry"] = (Pk(2).raw(b"\x82\x01").v(()).raw(b"R").end(), "EXT1: a code from copyreg's registry")
        d["torch-load-again"] = (
            Pk().v(call(g("torch.serialization", "load"), mk + "-inner.pth")).end(),
            "torch.load named inside the pickle")
        d["module-class"] = (
            Pk().v({"w": lambda p: p.v(g("torch.nn.modules.linear", "Linear")).raw(b")\x81").v({"in_features": 1}).raw(b"b")}).end(),
            "a whole nn.Module pickled by class (NEWOBJ+BUILD)")
        d["operator-methodcaller"] = (
            Pk().v(call(lambda p: p.v(call(g("_operator", "methodcaller"), "mkdir", mk)),
                        call(g("builtins", "__import__"), "os"))).end(),
            "private C module name (_operator) instead of operator")
        return d

    for where, fmt, ext in (("torch", "torch-zip", ".pth"), ("paddle", "paddle", ".pdparams")):
        names = payloads("x").keys()
        for key in names:
            full = f"{where}-exec-{key}"
            pk, why = payloads(m.marker(full))[key]
            data = torch_zip(pk) if where == "torch" else pk
            m.add(full, fmt, ext, data, "exec", why, marker=True)

    # container-level hiding places
    n = "torch-exec-second-pickle-in-zip"
    m.add(n, "torch-zip", ".pth",
          zip_bytes(torch_members(sd(w=tensor()), {"0": F4})
                    + [("archive/evil.pkl", sd(w=call(g("os", "mkdir"), m.marker(n))))]),
          "exec", "a good data.pkl and an extra pickle nobody should read", marker=True,
          note="tensors readable; refusing unknown members is the strict reading")
    n = "torch-exec-duplicate-data-pkl"
    good, evil = sd(w=tensor()), sd(w=call(g("os", "mkdir"), m.marker(n)))
    m.add(n, "torch-zip", ".pth", zip_bytes(
        [("archive/data.pkl", good), ("archive/byteorder", b"little"), ("archive/data/0", F4),
         ("archive/data.pkl", evil), ("archive/version", b"3\n")]),
        "exec", "two members named archive/data.pkl: scanner and loader may each take another one", marker=True)
    n = "torch-exec-two-roots"
    m.add(n, "torch-zip", ".pth", zip_bytes(
        torch_members(sd(w=tensor()), {"0": F4}) + torch_members(sd(w=call(g("os", "mkdir"), m.marker(n))), root="other")),
        "exec", "two archive roots, each with its own data.pkl", marker=True)
    n = "torch-exec-local-name-differs"
    b = torch_zip(sd(w=call(g("os", "mkdir"), m.marker(n))))
    m.add(n, "torch-zip", ".pth", b.replace(b"archive/data.pkl", b"archive/datap.kl", 1), "exec",
          "local header says archive/datap.kl, central directory says archive/data.pkl (CVE-2025-1944)", marker=True)
    n = "torch-exec-encrypted-flag"
    b = bytearray(torch_zip(sd(w=call(g("os", "mkdir"), m.marker(n)))))
    b[6] |= 1
    i = b.find(b"PK\x01\x02")
    b[i + 8] |= 1
    m.add(n, "torch-zip", ".pth", bytes(b), "exec",
          "encryption bit set on plain bytes (CVE-2025-1945 class: scanner and loader disagree)", marker=True)
    n = "torch-exec-patched-flag"
    b = bytearray(torch_zip(sd(w=call(g("os", "mkdir"), m.marker(n)))))
    b[6] |= 0x20
    i = b.find(b"PK\x01\x02")
    b[i + 8] |= 0x20
    m.add(n, "torch-zip", ".pth", bytes(b), "exec",
          "flag bit 5 (compressed patched data) set: zipfile raises, other readers read on (CVE-2025-1945)", marker=True)
    n = "torch-exec-crc-mismatch"
    b = torch_zip(sd(w=call(g("os", "mkdir"), m.marker(n))))
    crc = struct.pack("<I", zlib.crc32(sd(w=call(g("os", "mkdir"), m.marker(n)))))
    m.add(n, "torch-zip", ".pth", b.replace(crc, b"\1\2\3\4"), "exec",
          "wrong CRC on data.pkl: zipfile refuses, torch does not look (CVE-2025-10156)", marker=True)
    n = "torch-legacy-exec-magic"
    m.add(n, "torch-legacy", ".pth",
          torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)],
                       magic=Pk().v(call(g("os", "mkdir"), m.marker(n))).end()),
          "exec", "the first (magic number) pickle of the legacy stream is itself a call", marker=True)
    n = "torch-legacy-exec-sysinfo"
    m.add(n, "torch-legacy", ".pth",
          torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)], sysinfo=call(g("os", "mkdir"), m.marker(n))),
          "exec", "payload in the third (sys_info) pickle", marker=True)
    n = "torch-legacy-exec-object"
    m.add(n, "torch-legacy", ".pth", torch_legacy({"w": call(g("os", "mkdir"), m.marker(n))}, [], []),
          "exec", "payload in the object pickle of the legacy stream", marker=True)
    n = "torch-legacy-exec-trailing"
    m.add(n, "torch-legacy", ".pth",
          torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)], tail=Pk().v(call(g("os", "mkdir"), m.marker(n))).end()),
          "exec", "a sixth pickle after the storages", marker=True)
    n = "torch-legacy-container-source"
    def mod(p):
        p.v(("module", g("torch", "FloatStorage"), "/nonexistent/source.py", "class X: pass"))
        p.raw(b"Q")
    m.add(n, "torch-legacy", ".pth", torch_legacy({"w": mod}, [], []), "unsupported",
          "persistent id 'module': legacy container with source text")
    n = "torch-legacy-tar"
    buf = io.BytesIO()
    with tarfile.open(fileobj=buf, mode="w") as tf:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            b = Pk().v(call(g("os", "mkdir"), m.marker(n))).end()
            tinfo = tarfile.TarInfo(name)
            tinfo.size = len(b)
            tf.addfile(tinfo, io.BytesIO(b))
    m.add(n, "torch-legacy", ".pth", buf.getvalue(), "exec",
          "torch 0.1.1 tar container (closed to weights_only in torch 2.6, the release that fixed CVE-2025-32434)", marker=True)
    n = "torchscript-archive"
    m.add(n, "torch-zip", ".pth", zip_bytes(
        [("archive/data.pkl", sd(w=1)), ("archive/constants.pkl", Pk().v(()).end()),
         ("archive/code/__torch__.py", b"op_version_set = 1\n"), ("archive/version", b"3\n")]),
        "unsupported", "TorchScript archive (code/, constants.pkl): holds a program, not only weights")
    n = "torch-7z-wrapped"
    m.add(n, "any", ".pth", b"7z\xbc\xaf\x27\x1c\x00\x04" + b"\0" * 24, "unsupported",
          "7z magic (the nullifAI trick): not a torch container")
    n = "bare-pickle-pth"
    m.add(n, "torch-legacy", ".pth", Pk(4).v({"w": 1}).end(), "corrupt",
          "a plain pickle without torch's magic number")
    n = "paddle-eval-tampered"
    m.add(n, "paddle", ".pdparams", paddle(
        {"w": call(g("builtins", "eval"), f"data if __import__('os').mkdir({m.marker(n)!r}) else data",
                   lambda p: p.v({"data": ndarray((2, 2), F4)}))}),
        "exec", "looks like paddle's own eval('data', {'data': array}) for a DenseTensor, other expression", marker=True)
    n = "npy-object-array"
    m.add(n, "npy", ".npy", npy("'|O'", "(1,)", Pk().v([call(g("os", "mkdir"), m.marker(n))]).end()),
          "exec", "dtype object: the data is a pickle", marker=True)
    n = "npz-object-array"
    m.add(n, "npz", ".npz", npz([("w.npy", npy("'|O'", "(1,)", Pk().v([call(g("os", "mkdir"), m.marker(n))]).end()))]),
          "exec", "an object array inside an npz", marker=True)
    n = "npz-pickle-member"
    m.add(n, "npz", ".npz", npz([("w.npy", Pk().v(call(g("os", "mkdir"), m.marker(n))).end())]),
          "exec", "member called .npy that is a bare pickle", marker=True)


def torch_structure(m: Maker, big: bool):
    Z = "torch-zip"
    good = torch_zip(sd(w=tensor()), {"0": F4})
    m.add("torch-truncated-tail", Z, ".pth", good[:-30], "corrupt", "end of central directory cut off")
    m.add("torch-truncated-half", Z, ".pth", good[: len(good) // 2], "corrupt", "half a download")
    big_store = bytes(range(256)) * 256
    gb = torch_zip(sd(w=tensor(numel=16384, size=(16384,), stride=(1,))), {"0": big_store})
    i = gb.find(big_store[:64]) + 30000
    m.add("torch-bitflip-storage", Z, ".pth", gb[:i] + bytes([gb[i] ^ 0x40]) + gb[i + 1:], "corrupt",
          "one bit flipped in a storage; the zip CRC says so, torch.load does not look")
    m.add("torch-storage-short", Z, ".pth", torch_zip(sd(w=tensor()), {"0": F4[:12]}), "corrupt",
          "pickle says 4 floats, the record holds 3")
    m.add("torch-storage-long", Z, ".pth", torch_zip(sd(w=tensor()), {"0": F4 + F4}), "corrupt",
          "the record holds more bytes than declared: bytes would be lost")
    m.add("torch-storage-missing", Z, ".pth", torch_zip(sd(w=tensor()), {}), "corrupt", "no record data/0")
    m.add("torch-storage-unreferenced", Z, ".pth", torch_zip(sd(w=tensor()), {"0": F4, "1": F4}), "ambiguous",
          "a record no tensor refers to: data would be dropped unseen")
    m.add("torch-numel-disagrees", Z, ".pth", torch_zip(sd(a=tensor(), b=tensor(numel=2, size=(2,), stride=(1,))), {"0": F4}),
          "corrupt", "the same storage key declared with two different lengths")
    m.add("torch-dtype-disagrees", Z, ".pth",
          torch_zip(sd(a=tensor(), b=tensor(st="IntStorage")), {"0": F4}), "ambiguous",
          "the same storage key declared with two dtypes (typed storages)")
    m.add("torch-view-offset-oob", Z, ".pth", torch_zip(sd(w=tensor(off=3)), {"0": F4}), "corrupt", "view ends past its storage")
    m.add("torch-view-stride-oob", Z, ".pth", torch_zip(sd(w=tensor(stride=(1000, 1))), {"0": F4}), "corrupt",
          "stride leads past the storage")
    m.add("torch-negative-size", Z, ".pth", torch_zip(sd(w=tensor(size=(-2, -2))), {"0": F4}), "corrupt", "negative sizes")
    m.add("torch-negative-stride", Z, ".pth", torch_zip(sd(w=tensor(off=3, stride=(-2, -1))), {"0": F4}), "corrupt", "negative strides")
    m.add("torch-negative-offset", Z, ".pth", torch_zip(sd(w=tensor(off=-1)), {"0": F4}), "corrupt", "negative storage offset")
    m.add("torch-size-stride-rank", Z, ".pth", torch_zip(sd(w=tensor(size=(4,), stride=(2, 1))), {"0": F4}), "corrupt",
          "size and stride of different rank")
    m.add("torch-numel-huge", Z, ".pth", torch_zip(sd(w=tensor(numel=2 ** 61, size=(2 ** 61,), stride=(1,))), {"0": F4}),
          "dos", "numel 2**61: size arithmetic overflows 64 bits")
    m.add("torch-numel-negative", Z, ".pth", torch_zip(sd(w=tensor(numel=-4)), {"0": F4}), "corrupt", "negative numel")
    m.add("torch-expand-bomb", Z, ".pth",
          torch_zip(sd(w=tensor(numel=1, size=(2 ** 21, 2 ** 21), stride=(0, 0))), {"0": F4[:4]}),
          "dos", "stride-0 view: 4 bytes on disk, 17.6 TB when made contiguous (tracel-ai/burn #5506)")
    m.add("torch-byteorder-unknown", Z, ".pth", torch_zip(sd(w=tensor()), {"0": F4}, byteorder=b"middle"), "corrupt",
          "byteorder record is neither little nor big")
    m.add("torch-duplicate-storage-member", Z, ".pth", zip_bytes(
        [("archive/data.pkl", sd(w=tensor())), ("archive/data/0", F4), ("archive/data/0", F4[::-1]),
         ("archive/version", b"3\n")]), "ambiguous", "two members named archive/data/0 with different bytes")
    b = bytearray(zip_bytes(torch_members(sd(a=tensor(key="0"), b=tensor(key="1")), {"0": F4, "1": F4T})))
    # point the second storage's central entry at the first one's local header
    offs = []
    i = b.find(b"PK\x01\x02")
    while i != -1:
        nl, xl, cl = struct.unpack("<HHH", b[i + 28:i + 34])
        offs.append((bytes(b[i + 46:i + 46 + nl]), i))
        i = b.find(b"PK\x01\x02", i + 46 + nl + xl + cl)
    pos = dict(offs)
    b[pos[b"archive/data/1"] + 42: pos[b"archive/data/1"] + 46] = b[pos[b"archive/data/0"] + 42: pos[b"archive/data/0"] + 46]
    m.add("torch-overlapping-members", Z, ".pth", bytes(b), "ambiguous",
          "two central entries share one local record (overlap bomb, CVE-2024-0450): b silently becomes a")
    m.add("torch-prefix-junk", Z, ".pth", b"#!/bin/sh\nexit 0\n" + good, "ambiguous", "bytes before the zip: a polyglot")
    m.add("torch-trailing-junk", Z, ".pth", good + b"MZ-trailing-junk", "ambiguous", "bytes after the zip: a polyglot")
    m.add("torch-pickle-trailing", Z, ".pth", torch_zip(sd(w=tensor()) + b"cos\nsystem\n.", {"0": F4}), "ambiguous",
          "data.pkl goes on after STOP")
    m.add("torch-key-traversal", Z, ".pth",
          zip_bytes([("archive/data.pkl", sd(w=tensor(key="../../../../etc/passwd"))), ("archive/version", b"3\n")]),
          "path", "storage key with ../ in it")
    m.add("torch-nonstring-key", Z, ".pth", torch_zip(Pk().pairs([(7, tensor())]).end(), {"0": F4}), "ambiguous",
          "a tensor under an integer key")
    m.add("torch-key-collision", Z, ".pth",
          torch_zip(Pk().pairs([(1, tensor()), ("1", tensor(key="1"))]).end(), {"0": F4, "1": F4T}), "ambiguous",
          "keys 1 and '1' become one name when written as text")
    m.add("torch-flatten-collision", Z, ".pth",
          torch_zip(Pk().v({"a": {"b": tensor()}, "a.b": tensor(key="1")}).end(), {"0": F4, "1": F4T}), "ambiguous",
          "nested a -> b and flat 'a.b' become one name when flattened")
    m.add("torch-duplicate-key", Z, ".pth",
          torch_zip(Pk().pairs([("w", tensor()), ("w", tensor(key="1"))]).end(), {"0": F4, "1": F4T}), "ambiguous",
          "one dict key set twice: a dict keeps the last, the first tensor vanishes")
    m.add("torch-key-surrogate", Z, ".pth", torch_zip(Pk().pairs([("w\ud800", tensor())]).end(), {"0": F4}), "corrupt",
          "a lone surrogate in a name: not valid UTF-8")
    m.add("torch-key-nul", Z, ".pth", torch_zip(Pk().pairs([("w\0hidden", tensor())]).end(), {"0": F4}), "ambiguous",
          "NUL in a name: C readers see another name (safetensors #748)")
    m.add("torch-key-control", Z, ".pth", torch_zip(Pk().pairs([("w\x1b[2J\n", tensor())]).end(), {"0": F4}), "ambiguous",
          "terminal escape and newline in a name: must not reach the terminal raw",
          note="accepting is right if the report prints it escaped")
    m.add("torch-no-tensors", Z, ".pth", torch_zip(sd(epoch=3, note="hi")), "unsupported", "a dict without a single tensor")
    m.add("torch-self-reference", Z, ".pth", torch_zip(Pk().raw(b"}q\x00").v("me").raw(b"h\x00s").end()), "dos",
          "a dict that contains itself: naive flattening never ends")
    # hash bomb: t0=(), t(n)=(t(n-1),t(n-1)), as dict key -> 2**60 hash steps
    p = Pk().raw(b"}(").raw(b")")
    for i in range(60):
        p.raw(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86")
    m.add("torch-hash-bomb", Z, ".pth", torch_zip(p.v(1).raw(b"u").end()), "dos",
          "nested tuple as dict key, 2**60 hash steps from 300 bytes")
    p = Pk().raw(b"}(").raw(b")")
    m.add("torch-deep-nesting", Z, ".pth", torch_zip(Pk().raw(b"}(" + b")" + b"\x85" * 300000).v(1).raw(b"u").end()), "dos",
          "300,000-deep tuple as dict key: C stack overflow when hashed")
    p = Pk().raw(b"](")
    body = b"]q\x00"
    for i in range(1, 40):
        body += b"]q" + bytes([i]) + b"(" + (b"h" + bytes([i - 1])) * 10 + b"e"
    m.add("torch-billion-laughs", Z, ".pth", torch_zip(Pk().raw(body).end()), "dos",
          "10**39 paths through shared lists: printing or walking it never ends")
    m.add("torch-bytearray-bomb", Z, ".pth", torch_zip(sd(w=call(g("builtins", "bytearray"), 1 << 36))), "dos",
          "REDUCE bytearray(64 GiB): an allowed global that allocates")
    m.add("torch-uninitialised", Z, ".pth", torch_zip(sd(w=call(g("torch", "Tensor"), 64, 64))), "corrupt",
          "REDUCE torch.Tensor(64, 64): an allowed global that returns whatever the heap held")
    m.add("torch-memo-bomb", Z, ".pth", torch_zip(Pk().v({}).raw(b"r\xff\xff\xff\x7f").end()), "dos",
          "LONG_BINPUT 0x7fffffff: CPython < 3.15's C unpickler sizes an array by it (gh-115952)")
    m.add("torch-string-4gb", Z, ".pth", torch_zip(Pk().raw(b"X\xff\xff\xff\xffabc").end()), "dos",
          "BINUNICODE that promises 4 GiB and holds 3 bytes")
    m.add("torch-memo-missing", Z, ".pth", torch_zip(Pk().raw(b"h\x07").end()), "corrupt", "BINGET of a memo slot never set")
    m.add("torch-stack-underflow", Z, ".pth", torch_zip(Pk().raw(b"tR").end()), "corrupt", "TUPLE without MARK")
    m.add("torch-setitem-on-tensor", Z, ".pth",
          torch_zip(Pk().v(tensor()).v(0).v(5.0).raw(b"s").end(), {"0": F4}), "exec",
          "SETITEM with a tensor as target (CVE-2026-24747): writes into tensor memory")
    m.add("torch-quantized", Z, ".pth", torch_zip(
        sd(w=call(g("torch._utils", "_rebuild_qtensor"), storage("QInt8Storage", "0", 4), 0, (2, 2), (2, 1),
                  (g("torch", "per_tensor_affine"), 0.5, 3), False, odict_empty)), {"0": b"\1\2\3\4"}), "unsupported",
        "quantized tensor: scale and zero point have no place in the targets")
    m.add("torch-quantized-stride-oob", Z, ".pth", torch_zip(
        sd(w=call(g("torch._utils", "_rebuild_qtensor"), storage("QInt8Storage", "0", 4), 0, (2, 2), (1 << 40, 1),
                  (g("torch", "per_tensor_affine"), 0.5, 3), False, odict_empty)), {"0": b"\1\2\3\4"}), "corrupt",
        "quantized tensor with an unchecked stride (pytorch #184652: reads outside the heap block)")
    m.add("torch-sparse-oob", Z, ".pth", torch_zip(
        sd(w=call(g("torch._utils", "_rebuild_sparse_tensor"), call(g("torch.serialization", "_get_layout"), "torch.sparse_coo"),
                  (tensor("0", 1, size=(1, 1), stride=(1, 1), st="LongStorage"),
                   tensor("1", 1, size=(1,), stride=(1,)), (2,), False))),
        {"0": struct.pack("<q", 99), "1": F4[:4]}), "unsupported", "sparse tensor whose index is outside its shape")
    m.add("torch-meta-tensor", Z, ".pth", torch_zip(
        sd(w=call(g("torch._utils", "_rebuild_meta_tensor_no_storage"), g("torch", "float32"), (2, 2), (2, 1), False))),
        "unsupported", "a meta tensor has a shape and no data: there is nothing to write")
    m.add("torch-subclass-unknown", Z, ".pth", torch_zip(
        sd(w=call(g("torch._tensor", "_rebuild_from_type_v2"), g("torch._utils", "_rebuild_tensor_v2"),
                  g("my_project.quant", "PackedTensor"),
                  (storage("FloatStorage", "0", 4), 0, (2, 2), (2, 1), False, odict_empty), {})), {"0": F4}), "unsupported",
        "a tensor subclass of a class nobody here knows")
    m.add("torch-storage-type-unknown", Z, ".pth", torch_zip(sd(w=tensor(st="EvilStorage")), {"0": F4}), "unsupported",
          "a storage type that does not exist")
    m.add("torch-persid-not-storage", Z, ".pth", torch_zip(Pk().v({"w": lambda p: p.v(("file", "/etc/passwd")).raw(b"Q")}).end()),
          "corrupt", "persistent id of an unknown kind")
    m.add("torch-data-pkl-missing", Z, ".pth", zip_bytes([("archive/data/0", F4), ("archive/version", b"3\n")]), "corrupt",
          "a zip without data.pkl")
    m.add("torch-not-a-torch-zip", Z, ".pth", zip_bytes([("hello.txt", b"hi")]), "corrupt", "some other zip file")
    m.add("torch-protocol-0", Z, ".pth", torch_zip(b"(dp0\nVw\np1\nI5\ns."), "unsupported", "text (protocol 0) pickle without tensors")
    if big:
        n = 100_000
        p = Pk().raw(b"}(")
        for i in range(n):
            p.v(f"layer.{i:06d}.weight").v(tensor(key=str(i), numel=1, size=(1,), stride=(1,)))
        tz = zip_bytes(torch_members(p.raw(b"u").end(), {str(i): struct.pack("<f", i) for i in range(n)}))
        m.ok("torch-100k-tensors", Z, ".pth", tz, "100,000 one-element tensors",
             {f"layer.{i:06d}.weight": t("F32", [1], struct.pack("<f", i)) for i in (0, 1, n - 1)},
             note="only three of the tensors are listed")


def torch_benign(m: Maker, big: bool):
    Z = "torch-zip"
    ok = lambda n, d, why, ts, **kw: m.ok(n, Z, ".pth", d, why, ts, **kw)
    W = {"w": t("F32", [2, 2], F4)}
    ok("torch-ok-plain", torch_zip(sd(w=tensor()), {"0": F4}), "a plain state dict", W)
    ok("torch-ok-deflated", torch_zip(sd(w=tensor()), {"0": F4}, compress=zipfile.ZIP_DEFLATED),
       "members deflated (re-zipped by hand): legal zip, torch reads it", W)
    ok("torch-ok-no-byteorder", torch_zip(sd(w=tensor()), {"0": F4}, byteorder=None), "torch < 2.1: no byteorder record", W)
    ok("torch-ok-big-endian", torch_zip(sd(w=tensor()), {"0": struct.pack(">4f", 1, 2, 3, 4)}, byteorder=b"big"),
       "saved on a big-endian machine: bytes must be swapped", W)
    ok("torch-ok-other-root", torch_zip(sd(w=tensor()), {"0": F4}, root="my model.v2"), "archive root is not 'archive'", W)
    b = torch_zip(sd(w=tensor()), {"0": F4})
    for blob in (F4, sd(w=tensor()), b"little", b"3\n"):
        b = b.replace(struct.pack("<I", zlib.crc32(blob)), b"\0\0\0\0")
    ok("torch-ok-crc-zero", b, "saved with compute_crc32=False: all CRC fields 0 mean 'not computed' (burn #5712)", W,
       note="say that there was no checksum to verify")
    ok("torch-ok-transposed", torch_zip(sd(w=tensor(stride=(1, 2))), {"0": F4}), "a transposed view: strides must be honoured",
       {"w": t("F32", [2, 2], F4T)})
    ok("torch-ok-shared", torch_zip(Pk().v({"a": tensor(), "b": tensor(), "row": tensor(off=2, size=(2,), stride=(1,))}).end(), {"0": F4}),
       "two names and a slice on one storage (tied weights)",
       {"a": t("F32", [2, 2], F4), "b": t("F32", [2, 2], F4), "row": t("F32", [2], F4[8:])})
    ok("torch-ok-expand-small", torch_zip(sd(w=tensor(numel=2, size=(3, 2), stride=(0, 1))), {"0": F4[:8]}),
       "an honest expand(): stride 0, small", {"w": t("F32", [3, 2], F4[:8] * 3)})
    ok("torch-ok-scalar", torch_zip(sd(w=tensor(numel=1, size=(), stride=())), {"0": F4[:4]}), "0-d tensor", {"w": t("F32", [], F4[:4])})
    ok("torch-ok-empty", torch_zip(sd(w=tensor(numel=0, size=(0, 3), stride=(3, 1))), {"0": b""}), "0-size tensor", {"w": t("F32", [0, 3], b"")})
    ok("torch-ok-nan-payload", torch_zip(sd(w=tensor(numel=6, size=(6,), stride=(1,))), {"0": NANS}),
       "quiet and signalling NaNs with payloads, Inf, -0.0: bit-exact or it is not a copy", {"w": t("F32", [6], NANS)})
    ok("torch-ok-name-empty", torch_zip(Pk().pairs([("", tensor())]).end(), {"0": F4}), "the empty name is a name", {"": t("F32", [2, 2], F4)},
       may_refuse=True)
    ok("torch-ok-name-unicode", torch_zip(Pk().pairs([("权重.é.🙂", tensor())]).end(), {"0": F4}), "non-ASCII name", {"权重.é.🙂": t("F32", [2, 2], F4)})
    ok("torch-ok-name-long", torch_zip(Pk().pairs([("k" * 70000, tensor())]).end(), {"0": F4}), "70,000-character name",
       {"k" * 70000: t("F32", [2, 2], F4)}, may_refuse=True)
    ok("torch-ok-conj-bit", torch_zip(sd(w=tensor(numel=2, size=(2,), stride=(1,), st="ComplexFloatStorage", meta={"conj": True})), {"0": F4}),
       "lazy conjugate: the stored bytes are not the values (metadata {'conj': True})",
       {"w": t("C64", [2], struct.pack("<4f", 1, -2, 3, -4))}, may_refuse=True)
    ok("torch-ok-neg-bit", torch_zip(sd(w=tensor(meta={"neg": True})), {"0": F4}), "lazy negation bit",
       {"w": t("F32", [2, 2], struct.pack("<4f", -1, -2, -3, -4))}, may_refuse=True)
    ok("torch-ok-parameter", torch_zip(sd(w=call(g("torch._utils", "_rebuild_parameter"), tensor(), True, odict_empty)), {"0": F4}),
       "nn.Parameter", W)
    ok("torch-ok-cuda-location", torch_zip(
        sd(w=call(g("torch._utils", "_rebuild_tensor_v2"), storage("FloatStorage", "0", 4, loc="cuda:3"), 0, (2, 2), (2, 1), False, odict_empty)),
        {"0": F4}), "saved from cuda:3: no GPU needed to port it", W)
    ok("torch-ok-ordereddict-metadata", torch_zip(
        Pk().v(lambda p: (p.v(call(g("collections", "OrderedDict"))).raw(b"(").v("w").v(tensor()).raw(b"u"),
                          p.v({"_metadata": call(g("collections", "OrderedDict"))}).raw(b"b"))).end(), {"0": F4}),
       "OrderedDict with the _metadata attribute state_dict() sets", W)
    ok("torch-ok-nested-with-extras", torch_zip(
        Pk().v({"epoch": 3, "lr": 0.1, "model": {"w": tensor()}, "optimizer": {"state": {0: {"exp_avg": tensor(key="1")}}}}).end(),
        {"0": F4, "1": F4T}), "training checkpoint: nested, with numbers; nothing may go missing unsaid",
       {"model.w": t("F32", [2, 2], F4)}, note="the report must name what was left out")
    kinds = [("HalfStorage", "F16", 2), ("BFloat16Storage", "BF16", 2), ("DoubleStorage", "F64", 8), ("CharStorage", "I8", 1),
             ("ByteStorage", "U8", 1), ("ShortStorage", "I16", 2), ("IntStorage", "I32", 4), ("LongStorage", "I64", 8),
             ("BoolStorage", "BOOL", 1), ("ComplexFloatStorage", "C64", 8), ("ComplexDoubleStorage", "C128", 16)]
    items, blobs, want = [], {}, {}
    for i, (stn, dt, w) in enumerate(kinds):
        raw = bytes([1, 0, 1, 1]) if dt == "BOOL" else bytes(range(1, 4 * w + 1))
        items.append((dt.lower(), tensor(key=str(i), st=stn)))
        blobs[str(i)] = raw
        want[dt.lower()] = t(dt, [2, 2], raw)
    ok("torch-ok-dtypes-typed", torch_zip(Pk().pairs(items).end(), blobs), "every dtype with a typed storage", want)
    kinds3 = [("uint16", "U16", 2), ("uint32", "U32", 4), ("uint64", "U64", 8), ("float8_e4m3fn", "F8_E4M3", 1),
              ("float8_e5m2", "F8_E5M2", 1), ("float8_e4m3fnuz", "F8_E4M3FNUZ", 1), ("float8_e5m2fnuz", "F8_E5M2FNUZ", 1)]
    items, blobs, want = [], {}, {}
    for i, (tdt, dt, w) in enumerate(kinds3):
        raw = bytes((0x81 + j * 7) & 0xFF for j in range(4 * w))
        items.append((tdt, tensor3(tdt, 4 * w, key=str(i))))
        blobs[str(i)] = raw
        want[tdt] = t(dt, [2, 2], raw)
    ok("torch-ok-dtypes-v3", torch_zip(Pk().pairs(items).end(), blobs), "uint16/32/64 and fp8 through _rebuild_tensor_v3", want)
    ok("torch-ok-protocol-4", torch_zip(
        b"\x80\x04" + bytes(Pk(None).v({"w": tensor()}).b) + b".", {"0": F4}), "pickle_protocol=4 given to torch.save", W)


def torch_legacy_cases(m: Maker):
    L = "torch-legacy"
    ok = torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)])
    m.ok("legacy-ok", L, ".pth", ok, "torch < 1.6 stream", {"w": t("F32", [2, 2], F4)})
    m.ok("legacy-ok-two-storages", L, ".pth",
         torch_legacy({"a": legacy_tensor("k1"), "b": legacy_tensor("k2")}, ["k2", "k1"], [(4, F4T), (4, F4)]),
         "storages follow in the order of the key list, not of use", {"a": t("F32", [2, 2], F4), "b": t("F32", [2, 2], F4T)})
    m.add("legacy-magic-wrong", L, ".pth", torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)], magic=Pk().v(123456789).end()),
          "corrupt", "magic number is another number")
    m.add("legacy-protocol-wrong", L, ".pth", torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)], proto=9999), "corrupt",
          "protocol version 9999")
    m.add("legacy-truncated", L, ".pth", ok[:-6], "corrupt", "last storage cut short")
    m.add("legacy-no-storages", L, ".pth", ok[:-24], "corrupt", "storages missing altogether")
    m.add("legacy-key-missing", L, ".pth", torch_legacy({"w": legacy_tensor()}, [], []), "corrupt",
          "a tensor's storage is not in the key list: its bytes are nowhere, memory stays uninitialised")
    m.add("legacy-key-unknown", L, ".pth", torch_legacy({"w": legacy_tensor()}, ["0", "9"], [(4, F4), (4, F4)]), "corrupt",
          "the key list names a storage no tensor uses")
    m.add("legacy-key-twice", L, ".pth", torch_legacy({"w": legacy_tensor()}, ["0", "0"], [(4, F4), (4, F4T)]), "ambiguous",
          "one storage key twice: the second bytes overwrite the first")
    m.add("legacy-numel-mismatch", L, ".pth", torch_legacy({"w": legacy_tensor()}, ["0"], [(3, F4[:12])]), "corrupt",
          "pickle says 4, storage header says 3")
    m.add("legacy-numel-huge", L, ".pth", torch_legacy({"w": legacy_tensor(numel=2 ** 40, size=(2 ** 40,), stride=(1,))}, ["0"], [(2 ** 40, F4)]),
          "dos", "4 TiB storage declared in a 500-byte file: allocated before it is read")
    m.add("legacy-big-endian-flag", L, ".pth",
          torch_legacy({"w": legacy_tensor()}, ["0"], [(4, F4)], sysinfo={"protocol_version": 1001, "little_endian": False,
                                                                     "type_sizes": {"short": 2, "int": 4, "long": 4}}),
          "ambiguous", "sys_info says big-endian: torch ignores it and returns other numbers")
    m.add("legacy-trailing", L, ".pth", ok + b"trailing", "ambiguous", "bytes after the last storage")


def paddle_cases(m: Maker):
    P = "paddle"
    nt = {"w": "linear_0.w_0"}
    good = {"w": ndarray((2, 2), F4), "StructuredToParameterName@@": nt}
    W = {"w": t("F32", [2, 2], F4)}
    ok = lambda n, d, why, ts, **kw: m.ok(n, P, ".pdparams", d, why, ts, **kw)
    ok("paddle-ok", paddle(good), "what paddle.save(layer.state_dict()) writes (protocol 4)", W)
    ok("paddle-ok-numpy2-path", paddle({"w": ndarray((2, 2), F4, mod="numpy._core.multiarray"), "StructuredToParameterName@@": nt}),
       "the same from numpy >= 2 (module moved)", W)
    enc = "".join(map(chr, bytes(range(128, 144))))
    raw = bytes(range(128, 144))
    def nd2(p):
        p.v(call(g("numpy.core.multiarray", "_reconstruct"), g("numpy", "ndarray"), (0,), call(g("_codecs", "encode"), "b", "latin1")))
        p.v((1, (2, 2), nd_dtype("f4", "<"), False, call(g("_codecs", "encode"), enc, "latin1")))
        p.raw(b"b")
    ok("paddle-ok-protocol-2", paddle({"w": nd2, "StructuredToParameterName@@": nt}, 2),
       "protocol 2: bytes travel as latin-1 text through _codecs.encode", {"w": t("F32", [2, 2], raw)})
    def nd_py2(p):
        p.v(call(g("numpy.core.multiarray", "_reconstruct"), g("numpy", "ndarray"), (0,), lambda q: q.raw(b"U\x01b")))
        p.v((1, (2, 2), lambda q: (q.v(call(g("numpy", "dtype"), lambda r: r.raw(b"U\x02f4"), 0, 1)),
                                   q.v((3, lambda r: r.raw(b"U\x01<"), None, None, None, -1, -1, 0)).raw(b"b")),
             False, lambda q: q.raw(b"U" + bytes([len(raw)]) + raw)))
        p.raw(b"b")
    ok("paddle-ok-python2", paddle({"w": nd_py2}, 2), "written by Python 2: SHORT_BINSTRING needs encoding='latin1'", {"w": t("F32", [2, 2], raw)})
    ok("paddle-ok-varbase-tuple", paddle({"model": {"w": ("linear_0.w_0", ndarray((2, 2), F4))}, "epoch": 1}),
       "paddle 2.1+ nested object: tensors as (name, array) tuples", {"model.w": t("F32", [2, 2], F4)})
    def reduced_varbase(p):
        p.v(call(g("builtins", "tuple"), ("linear_0.w_0", ndarray((2, 2), F4))))
    ok("paddle-ok-varbase-reduce", paddle({"model": {"w": reduced_varbase}, "epoch": 1}),
       "the same as it is really written: REDUCE builtins.tuple", {"model.w": t("F32", [2, 2], F4)})
    ok("paddle-ok-densetensor-eval", paddle({"w": call(g("builtins", "eval"), "data", lambda p: p.v({"data": ndarray((2, 2), F4)}))}),
       "paddle <= 3.3 writes a DenseTensor as eval('data', {'data': array}): recognise the shape, call nothing", W, may_refuse=True)
    ok("paddle-ok-fortran", paddle({"w": ndarray((2, 2), F4, fortran=True), "StructuredToParameterName@@": nt}),
       "Fortran-ordered array in the pickle", {"w": t("F32", [2, 2], F4T)})
    ok("paddle-ok-big-endian", paddle({"w": ndarray((2, 2), struct.pack(">4f", 1, 2, 3, 4), order=">"), "StructuredToParameterName@@": nt}),
       "big-endian dtype", W)
    ok("paddle-ok-uint16-bf16", paddle({"w": ndarray((2, 2), bytes(range(8)), code="u2"), "StructuredToParameterName@@": nt}),
       "paddle stores bfloat16 as numpy uint16: the file alone does not say which", {"w": t("U16", [2, 2], bytes(range(8)))}, may_refuse=True,
       note="keep the 16-bit patterns; call it BF16 only under a documented rule or flag")
    half = F4[:8]
    big_ok = {"w@@.0": ndarray((2,), half), "w@@.1": ndarray((2,), F4[8:]), "StructuredToParameterName@@": nt,
              "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 2), "slices": ["w@@.0", "w@@.1"]}}}
    ok("paddle-ok-big-param-slices", paddle(big_ok, 4), "a parameter over 1 GiB cut in slices (protocol 2/3 writers)", W)
    ok("paddle-ok-scalar-empty", paddle({"s": ndarray((), F4[:4]), "e": ndarray((0, 3), b""), "StructuredToParameterName@@": {}}),
       "0-d and 0-size arrays", {"s": t("F32", [], F4[:4]), "e": t("F32", [0, 3], b"")})
    ok("paddle-ok-nan-payload", paddle({"w": ndarray((6,), NANS)}), "NaN payloads", {"w": t("F32", [6], NANS)})

    bad = lambda n, d, cls, why, **kw: m.add(n, P, ".pdparams", d, cls, why, **kw)
    g4 = paddle(good)
    bad("paddle-truncated", g4[:-20], "corrupt", "cut short")
    bad("paddle-trailing", g4 + b"more", "ambiguous", "bytes after STOP")
    bad("paddle-two-pickles", g4 + paddle({"v": ndarray((2, 2), F4)}), "ambiguous", "a second pickle after the first: half the tensors would be lost")
    bad("paddle-shape-mismatch", paddle({"w": ndarray((3, 3), F4)}), "corrupt", "shape needs 36 bytes, 16 are there")
    bad("paddle-shape-negative", paddle({"w": ndarray((-2, -2), F4)}), "corrupt", "negative shape")
    bad("paddle-shape-overflow", paddle({"w": ndarray((2 ** 33, 2 ** 33), F4)}), "dos", "shape product overflows 64 bits")
    bad("paddle-object-dtype", paddle({"w": ndarray((1,), [1], code="O", order="|")}), "unsupported", "object array")
    bad("paddle-object-dtype-bytes", paddle({"w": ndarray((1,), b"\x41" * 8, code="O", order="|", dtype=nd_dtype("O8", "|", (3, "|", None, None, None, -1, -1, 0)))}),
        "exec", "object dtype whose flags were cleared, with raw bytes as pointers (type confusion)")
    bad("paddle-structured-dtype", paddle({"w": ndarray((1,), F4[:8], dtype=nd_dtype("V8", "|", (3, "|", None, ("a", "b"), {"a": (nd_dtype("f4", "<"), 0), "b": (nd_dtype("f4", "<"), 4)}, 8, 1, 16)))}),
        "unsupported", "structured dtype")
    bad("paddle-string-dtype", paddle({"w": ndarray((1,), b"abcd", code="S4", order="|", dtype=nd_dtype("S4", "|", (3, "|", None, None, None, 4, 1, 0)))}), "unsupported", "string array")
    bad("paddle-ndarray-subclass", paddle({"w": ndarray((2, 2), F4, cls=("numpy", "matrix"))}), "unsupported", "numpy.matrix instead of ndarray")
    bad("paddle-nametable-missing", paddle({"w": ndarray((2, 2), F4), "StructuredToParameterName@@": {"w": "a", "ghost": "b"}}), "corrupt",
        "name table names a parameter that is not there")
    bad("paddle-slice-missing", paddle({k: v for k, v in big_ok.items() if k != "w@@.1"}), "corrupt", "a slice of a big parameter is missing")
    bad("paddle-slice-shape", paddle({**big_ok, "UnpackBigParamInfor@@": {"w": {"OriginShape": (5, 5), "slices": ["w@@.0", "w@@.1"]}}}), "corrupt",
        "slices do not add up to OriginShape")
    bad("paddle-slice-shadow", paddle({**big_ok, "w": ndarray((2, 2), F4T)}), "ambiguous",
        "'w' is there whole and in slices: paddle.load overwrites one with the other")
    bad("paddle-duplicate-key", Pk(4).pairs([("w", ndarray((2, 2), F4)), ("w", ndarray((2, 2), F4T))]).end(), "ambiguous", "one key set twice")
    bad("paddle-no-tensors", paddle({"epoch": 3}), "unsupported", "no arrays at all")
    bad("paddle-memo-bomb", Pk(4).v({}).raw(b"r\xff\xff\xff\x3f").end(), "dos", "LONG_BINPUT 0x3fffffff: 16 GiB memo in CPython's C unpickler")
    bad("paddle-bytes8-huge", Pk(4).raw(b"\x8e" + struct.pack("<Q", 1 << 40)).raw(b"abc").end(), "dos", "BINBYTES8 promises 1 TiB")
    p = Pk(4).raw(b"}(").raw(b")")
    for i in range(60):
        p.raw(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86")
    bad("paddle-hash-bomb", p.v(1).raw(b"u").end(), "dos", "nested tuple as dict key")
    bad("paddle-bytes-bomb", paddle({"w": call(g("builtins", "bytearray"), 1 << 36)}), "dos", "REDUCE bytearray(64 GiB)")
    bad("paddle-lod-binary", struct.pack("<IQI", 0, 0, 0) + struct.pack("<i", 6) + b"\x08\x05\x10\x02\x10\x02" + F4, "unsupported",
        "C++ LoDTensor stream (.pdiparams style): another format under this name; support it or say so",
        note="paddle.load reads it as one nameless tensor")


def safetensors_cases(m: Maker, big: bool):
    S = "safetensors"
    bad = lambda n, d, cls, why, **kw: m.add(n, S, ".safetensors", d, cls, why, **kw)
    ok = lambda n, d, why, ts, **kw: m.ok(n, S, ".safetensors", d, why, ts, **kw)
    w = ti("F32", [2, 2], 0, 16)
    bad("st-too-short", b"\x10\0\0", "corrupt", "fewer than 8 bytes")
    bad("st-header-past-eof", struct.pack("<Q", 5000) + b'{"w":', "corrupt", "header length beyond the file")
    bad("st-header-2-63", struct.pack("<Q", 1 << 63) + b"{}", "dos", "header length 2**63")
    def sparse(path):
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", 101_000_000) + b"{")
            f.truncate(8 + 101_000_000)
    bad("st-header-over-cap", sparse, "dos", "header of 101 MB (sparse file): over the 100 MB cap, refuse before reading it")
    bad("st-header-zero", struct.pack("<Q", 0), "corrupt", "header length 0")
    bad("st-not-utf8", st_file(b'{"\xff\xfe":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "corrupt", "header is not UTF-8")
    bad("st-not-json", st_file(b"{not json}"), "corrupt", "header is not JSON")
    bad("st-json-array", st_file(b"[1,2]"), "corrupt", "header is a JSON array")
    bad("st-json-truncated", st_file(b'{"w":{"dtype":"F32","shape":[2,2],"data_off', F4, pad=False), "corrupt", "JSON ends early")
    bad("st-bom", st_file(b'\xef\xbb\xbf{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "corrupt", "byte order mark before {")
    bad("st-nul-padding", st_file(b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}\0\0\0', F4, pad=False), "corrupt", "padded with NUL instead of space")
    dup = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-key-same", st_file(dup, F4), "ambiguous", "a name twice, same bytes (TOB-SFTN-7)")
    dup2 = b'{"w":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-key-dtype", st_file(dup2, F4), "ambiguous", "a name twice with two dtypes over one range: which reader takes which?")
    dup3 = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[16,32]}}'
    bad("st-duplicate-key-ranges", st_file(dup3, F4 + F4T), "ambiguous", "a name twice with two ranges: one tensor would vanish")
    dup4 = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"\\u0077":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-key-escaped", st_file(dup4, F4), "ambiguous", "'w' and '\\u0077' are one name")
    dup5 = b'{"__metadata__":{"a":"1"},"__metadata__":{"a":"2"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-metadata", st_file(dup5, F4), "ambiguous", "__metadata__ twice")
    dup6 = b'{"w":{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-field", st_file(dup6, F4), "ambiguous", "dtype twice inside one tensor")
    dup7 = b'{"__metadata__":{"a":"1","a":"2"},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    bad("st-duplicate-metadata-key", st_file(dup7, F4), "ambiguous", "one metadata key twice")
    bad("st-overlap", st_file({"a": w, "b": w}, F4), "ambiguous", "two tensors over one range (also the small-file-many-tensors bomb)")
    bad("st-overlap-partial", st_file({"a": w, "b": ti("F32", [2, 2], 8, 24)}, F4 + F4[:8]), "ambiguous", "ranges overlap by half")
    bad("st-hole", st_file({"a": w, "b": ti("F32", [2, 2], 20, 36)}, F4 + b"HIDE" + F4), "ambiguous", "4 bytes no tensor owns")
    bad("st-hole-at-start", st_file({"a": ti("F32", [2, 2], 4, 20)}, b"HIDE" + F4), "ambiguous", "data does not begin at 0")
    bad("st-trailing", st_file({"w": w}, F4 + b"PK\x05\x06" + b"\0" * 18), "ambiguous", "bytes after the last tensor (here an empty zip: a polyglot)")
    bad("st-truncated-data", st_file({"w": w}, F4[:10]), "corrupt", "data cut short")
    bad("st-offsets-reversed", st_file({"w": ti("F32", [2, 2], 16, 0)}, F4), "corrupt", "end before begin")
    bad("st-offsets-past-eof", st_file({"w": ti("F32", [2, 2], 16, 32)}, F4), "corrupt", "range beyond the file")
    bad("st-offsets-negative", st_file({"w": ti("F32", [2, 2], -16, 0)}, F4), "corrupt", "negative offset")
    bad("st-offsets-three", st_file({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16, 32]}}, F4), "corrupt", "three offsets")
    bad("st-size-mismatch", st_file({"w": ti("F32", [3, 3], 0, 16)}, F4), "corrupt", "shape and dtype need 36 bytes, range has 16")
    bad("st-shape-overflow", st_file({"w": ti("F32", [2, 1 << 63], 0, 16)}, F4), "dos", "shape product overflows to something small")
    bad("st-shape-overflow-wrap", st_file({"w": ti("F32", [1 << 32, 1 << 32], 0, 0)}, b""), "dos", "2**64 elements wrap to 0 bytes in 64-bit arithmetic")
    bad("st-shape-negative", st_file({"w": ti("F32", [-2, -2], 0, 16)}, F4), "corrupt", "negative shape whose product is right")
    bad("st-shape-float", st_file(b'{"w":{"dtype":"F32","shape":[2.0,2],"data_offsets":[0,16]}}', F4), "corrupt", "shape 2.0")
    bad("st-shape-exp", st_file(b'{"w":{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}}', F4), "corrupt", "shape 4e0")
    bad("st-shape-bool", st_file(b'{"w":{"dtype":"F32","shape":[true,4],"data_offsets":[0,16]}}', F4), "corrupt", "shape true (Python: True == 1)")
    bad("st-shape-string", st_file(b'{"w":{"dtype":"F32","shape":["4"],"data_offsets":[0,16]}}', F4), "corrupt", "shape '4'")
    bad("st-shape-bigint", st_file(b'{"w":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}', F4), "dos", "a 5,000-digit integer")
    bad("st-dtype-unknown", st_file({"w": ti("F33", [2, 2], 0, 16)}, F4), "unsupported", "dtype F33")
    bad("st-dtype-lowercase", st_file({"w": ti("f32", [2, 2], 0, 16)}, F4), "corrupt", "dtype in lower case")
    bad("st-missing-field", st_file(b'{"w":{"dtype":"F32","shape":[2,2]}}', F4), "corrupt", "no data_offsets")
    bad("st-extra-field", st_file(b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"strides":[1,2]}}', F4), "ambiguous",
        "an unknown field that could change the meaning (strides)")
    bad("st-metadata-nonstring", st_file(b'{"__metadata__":{"epoch":3},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "corrupt", "metadata value is a number")
    bad("st-metadata-list", st_file(b'{"__metadata__":[],"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "corrupt", "metadata is a list")
    bad("st-json-nan", st_file(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}', F4), "corrupt", "NaN literal (Python's json takes it)")
    bad("st-json-deep", st_file(b'{"w":' + b"[" * 200000 + b"]" * 200000 + b"}", F4), "dos", "200,000-deep JSON: recursion")
    bad("st-name-surrogate", st_file(b'{"\\ud800":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "corrupt", "lone surrogate escape (Python's json takes it)")
    bad("st-name-nul", st_file(b'{"w\\u0000x":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4), "ambiguous", "NUL in a name (safetensors #748)")
    bad("st-subbyte-misaligned", st_file({"w": ti("F4", [3], 0, 1)}, b"\x12"), "unsupported", "3 four-bit values do not fill bytes")
    ok("st-ok-plain", st_file({"w": w}, F4), "a plain file", {"w": t("F32", [2, 2], F4)})
    ok("st-ok-metadata", st_file({"__metadata__": {"format": "pt", "note": "é🙂\n"}, "w": w}, F4), "metadata must come through", {"w": t("F32", [2, 2], F4)})
    ok("st-ok-unsorted", st_file({"b": ti("F32", [2, 2], 16, 32), "a": w}, F4 + F4T), "header order is not offset order",
       {"a": t("F32", [2, 2], F4), "b": t("F32", [2, 2], F4T)})
    ok("st-ok-misaligned", st_file(b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}   ', F4, pad=False), "data begins at an odd offset",
       {"w": t("F32", [2, 2], F4)})
    ok("st-ok-leading-space", st_file(b'  {"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', F4),
       "spec: header MUST begin with '{'; the reference reader tolerates leading white space", {"w": t("F32", [2, 2], F4)}, may_refuse=True)
    ok("st-ok-scalar-empty", st_file({"s": ti("F32", [], 0, 4), "e": ti("F32", [0, 3], 4, 4)}, F4[:4]), "0-d and 0-size tensors",
       {"s": t("F32", [], F4[:4]), "e": t("F32", [0, 3], b"")})
    ok("st-ok-no-tensors", st_file({"__metadata__": {"a": "b"}}, b""), "valid, no tensors", {}, may_refuse=True)
    ok("st-ok-zip-inside", st_file({"w": ti("U8", [len(F4)], 0, 16), "z": ti("U8", [22], 16, 38)}, F4 + b"PK\x05\x06" + b"\0" * 18),
       "a tensor whose bytes happen to be a zip: data is data; sniff at offset 0 only",
       {"w": t("U8", [16], F4), "z": t("U8", [22], b"PK\x05\x06" + b"\0" * 18)})
    ok("st-ok-nan-payload", st_file({"w": ti("F32", [6], 0, 24)}, NANS), "NaN payloads", {"w": t("F32", [6], NANS)})
    ok("st-ok-name-dots", st_file({"../../etc/passwd": w}, F4), "a path-like name is only a name; it must never become a path", {"../../etc/passwd": t("F32", [2, 2], F4)})
    ok("st-ok-name-control", st_file({"w\u001b[2J\n": w}, F4), "escape sequence in a name: print it escaped", {"w\u001b[2J\n": t("F32", [2, 2], F4)}, may_refuse=True)
    kinds = [("BOOL", 1), ("U8", 1), ("I8", 1), ("F8_E5M2", 1), ("F8_E4M3", 1), ("F8_E8M0", 1), ("I16", 2), ("U16", 2), ("F16", 2), ("BF16", 2),
             ("I32", 4), ("U32", 4), ("F32", 4), ("C64", 8), ("F64", 8), ("I64", 8), ("U64", 8)]
    h, d, want, o = {}, b"", {}, 0
    for name, wd in kinds:
        raw = bytes([1, 0, 1, 1]) if name == "BOOL" else bytes((0x81 + j * 5) & 0xFF for j in range(4 * wd))
        h[name.lower()] = ti(name, [2, 2], o, o + len(raw))
        want[name.lower()] = t(name, [2, 2], raw)
        d += raw
        o += len(raw)
    ok("st-ok-dtypes", st_file(h, d), "every dtype of the format with bytes of its own", want)
    n = 100_000 if big else 20_000
    hdr = {f"layer.{i:06d}.weight": ti("F32", [1], 4 * i, 4 * i + 4) for i in range(n)}
    ok("st-ok-many-tensors", st_file(hdr, b"".join(struct.pack("<f", i) for i in range(n))), f"{n} one-element tensors",
       {f"layer.{i:06d}.weight": t("F32", [1], struct.pack("<f", i)) for i in (0, 1, n - 1)}, note="only three of the tensors are listed")
    if big:
        def huge(path, nb=(1 << 32) + 4096):
            with open(path, "wb") as f:
                f.write(st_file({"w": ti("U8", [nb], 0, nb)}))
                base = f.tell()
                f.write(b"HEAD")
                f.seek(base + nb - 4)
                f.write(b"TAIL")
        ok("st-ok-over-4gb", huge, "one tensor over 4 GiB (sparse file): HEAD at its start, TAIL at its end", {}, note="check first and last four bytes")


def numpy_cases(m: Maker):
    N, Y = "npz", "npy"
    W = {"w": t("F32", [2, 2], F4)}
    bad = lambda n, d, cls, why, **kw: m.add(n, N, ".npz", d, cls, why, **kw)
    ok = lambda n, d, why, ts, **kw: m.ok(n, N, ".npz", d, why, ts, **kw)
    ok("npz-ok", npz([("w.npy", npy())]), "np.savez", W)
    ok("npz-ok-deflated", npz([("w.npy", npy())], compress=zipfile.ZIP_DEFLATED), "np.savez_compressed", W)
    ok("npz-ok-fortran", npz([("w.npy", npy(fortran=True))]), "fortran_order: True", {"w": t("F32", [2, 2], F4T)})
    ok("npz-ok-big-endian", npz([("w.npy", npy("'>f4'", data=struct.pack(">4f", 1, 2, 3, 4)))]), "big-endian descr", W)
    ok("npz-ok-scalar-empty", npz([("s.npy", npy(shape="()", data=F4[:4])), ("e.npy", npy(shape="(0, 3)", data=b""))]), "0-d and 0-size",
       {"s": t("F32", [], F4[:4]), "e": t("F32", [0, 3], b"")})
    ok("npz-ok-nested-name", npz([("layer/0/w.npy", npy())]), "a slash in the key", {"layer/0/w": t("F32", [2, 2], F4)})
    ok("npz-ok-zeros-compressed", npz([("w.npy", npy(shape="(4194304,)", data=b"\0" * (4 << 22)))], compress=zipfile.ZIP_DEFLATED),
       "16 MB of zeros in 16 kB: 1000:1, and honest; streaming, not refusing, is the answer", {"w": t("F32", [1 << 22], b"\0" * (4 << 22))})
    ok("npz-ok-version-3", npz([("w.npy", npy(version=(3, 0)))]), "npy format 3.0", W)
    bad("npz-claims-more", npz([("w.npy", npy(shape="(1099511627776,)", data=F4))]), "dos", "header claims 4 TiB, member holds 16 bytes: refuse before allocating")
    bad("npz-claims-more-deflated", npz([("w.npy", npy(shape="(268435456,)", data=b"\0" * (1 << 20)))], compress=zipfile.ZIP_DEFLATED), "dos",
        "header claims 1 GiB, member inflates to 1 MiB")
    bad("npz-bomb-trailing", npz([("w.npy", npy(data=F4 + b"\0" * (64 << 20)))], compress=zipfile.ZIP_DEFLATED), "dos",
        "16 bytes declared, 64 MB of trailing zeros inflate behind them")
    bad("npz-trailing", npz([("w.npy", npy(data=F4 + b"junk"))]), "ambiguous", "bytes after the array inside the member")
    bad("npz-truncated-array", npz([("w.npy", npy(data=F4[:9]))]), "corrupt", "array cut short inside a sound zip")
    bad("npz-truncated-file", npz([("w.npy", npy())])[:-40], "corrupt", "zip cut short")
    b = npz([("w.npy", npy(shape="(4096,)", data=bytes(range(256)) * 64))])
    i = b.find(bytes(range(256))) + 5000
    bad("npz-bitflip", b[:i] + bytes([b[i] ^ 1]) + b[i + 1:], "corrupt", "one bit flipped: the CRC tells")
    bad("npz-duplicate-member", npz([("w.npy", npy()), ("w.npy", npy(data=F4T))]), "ambiguous", "member w.npy twice")
    b = bytearray(npz([("a.npy", npy()), ("b.npy", npy(data=F4T))]))
    i = b.find(b"PK\x01\x02")
    j = b.find(b"PK\x01\x02", i + 1)
    b[j + 42:j + 46] = b[i + 42:i + 46]
    b = bytes(b).replace(b"b.npy", b"a.npy")     # same name in both, so that zipfile's name check passes
    bad("npz-overlapping-members", b, "ambiguous", "two central entries on one local record (CVE-2024-0450; Python < 3.11.8 does not look)")
    bad("npz-key-collision", npz([("w.npy", npy()), ("w", npy(data=F4T))]), "ambiguous", "members 'w.npy' and 'w' are both key 'w'")
    bad("npz-not-npy", npz([("w.npy", npy()), ("readme.txt", b"hello")]), "ambiguous", "a member that is not an array")
    bad("npz-traversal", npz([("../../../tmp/w.npy", npy())]), "path", "../ in a member name",
        note="accepting is right if the name can never become a path")
    bad("npz-structured", npz([("w.npy", npy("[('a', '<f4'), ('b', '<f4')]", "(2,)"))]), "unsupported", "structured dtype")
    bad("npz-unicode-dtype", npz([("w.npy", npy("'<U1'", "(4,)"))]), "unsupported", "text dtype")
    bad("npz-datetime", npz([("w.npy", npy("'<M8[ns]'", "(2,)"))]), "unsupported", "datetime64")
    bad("npz-void-bf16", npz([("w.npy", npy("'|V2'", "(2, 4)", F4))]), "ambiguous", "|V2: what np.savez makes of bfloat16, the type is lost")
    bad("npz-longdouble", npz([("w.npy", npy("'<f16'", "(1,)", F4))]), "unsupported", "80-bit floats: no target holds them")
    bad("npz-shape-negative", npz([("w.npy", npy(shape="(-2, -2)"))]), "corrupt", "negative shape")
    bad("npz-shape-bool", npz([("w.npy", npy(shape="(True, 4)"))]), "corrupt", "shape True")
    bad("npz-shape-overflow", npz([("w.npy", npy(shape="(4294967296, 4294967296)"))]), "dos", "2**64 elements")
    bad("npz-header-extra-key", npz([("w.npy", npy(header="{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), 'x': 1}"))]), "corrupt", "unknown header key")
    bad("npz-header-code", npz([("w.npy", npy(header="{'descr': '<f4', 'fortran_order': __import__('os').getpid()==0, 'shape': (2, 2)}"))]), "exec",
        "an expression in the header: must be parsed, never evaluated")
    bad("npz-header-deep", npz([("w.npy", npy(version=(2, 0), header="(" * 9000 + ")" * 9000))]), "dos", "9,000-deep literal")
    bad("npz-header-4gb", npz([("w.npy", npy(version=(2, 0), hlen=0xFFFFFFF0))]), "dos", "4 GiB header length")
    bad("npz-version-9", npz([("w.npy", npy(version=(9, 0)))]), "unsupported", "npy format version 9")
    bad("npz-subarray", npz([("w.npy", npy("('<f4', (1000000, 1000000))", "(0,)", b""))]), "dos", "subarray dtype multiplies the size")
    m.add("npy-truncated", Y, ".npy", npy()[:-4], "corrupt", "npy cut short")
    m.add("npy-trailing", Y, ".npy", npy() + b"junk", "ambiguous", "bytes after the array")
    m.ok("npy-ok", Y, ".npy", npy(), "np.save", {"": t("F32", [2, 2], F4)}, note="one nameless array")


def onnx_cases(m: Maker):
    O = "onnx"
    bad = lambda n, d, cls, why, **kw: m.add(n, O, ".onnx", d, cls, why, **kw)
    ok = lambda n, d, why, ts, **kw: m.ok(n, O, ".onnx", d, why, ts, **kw)
    W = {"w": t("F32", [2, 2], F4)}
    ext = lambda loc, off="0", ln="16", more=(): tp(raw=None, ext=[("location", loc), ("offset", off), ("length", ln), *more])
    good = model([tp()])
    ok("onnx-ok", good, "one raw initializer", W)
    ok("onnx-ok-float-data", model([tp(raw=None, extra=fb(4, F4))]), "values in packed float_data instead of raw_data", W)
    ok("onnx-ok-fp16-int32", model([tp(dt=10, raw=None, extra=fb(5, b"".join(vi(x) for x in (0x3C00, 0x7E01, 0xFC00, 0x8000))))]),
       "float16 carried in int32_data", {"w": t("F16", [2, 2], struct.pack("<4H", 0x3C00, 0x7E01, 0xFC00, 0x8000))})
    ok("onnx-ok-external", model([ext("w.bin")]), "external data beside the model", W, extra={"w.bin": F4})
    ok("onnx-ok-external-subdir", model([ext("sub/w.bin", "4")]), "external data in a subfolder, at an offset", W, extra={"sub/w.bin": b"PAD!" + F4})
    ok("onnx-ok-external-shared", model([ext("w.bin"), tp("v", raw=None, ext=[("location", "w.bin"), ("offset", "0"), ("length", "16")])]),
       "two initializers on one external range (tied): allowed by onnx", {"w": t("F32", [2, 2], F4), "v": t("F32", [2, 2], F4)}, extra={"w.bin": F4})
    ok("onnx-ok-scalar-empty", model([tp("s", (), raw=F4[:4]), tp("e", (0, 3), raw=b"")]), "0-d and 0-size initializers",
       {"s": t("F32", [], F4[:4]), "e": t("F32", [0, 3], b"")})
    kinds = [(16, "BF16", 2), (10, "F16", 2), (11, "F64", 8), (3, "I8", 1), (2, "U8", 1), (5, "I16", 2), (4, "U16", 2), (6, "I32", 4), (12, "U32", 4),
             (7, "I64", 8), (13, "U64", 8), (9, "BOOL", 1), (14, "C64", 8), (15, "C128", 16), (17, "F8_E4M3", 1), (19, "F8_E5M2", 1)]
    ins, want = [], {}
    for dt, name, wd in kinds:
        raw = bytes([1, 0, 1, 1]) if name == "BOOL" else bytes((0x81 + j * 5) & 0xFF for j in range(4 * wd))
        ins.append(tp(name.lower(), dt=dt, raw=raw))
        want[name.lower()] = t(name, [2, 2], raw)
    ok("onnx-ok-dtypes", model(ins), "every fixed-width dtype, raw", want)
    ok("onnx-ok-nan-payload", model([tp(dims=(6,), raw=NANS)]), "NaN payloads in raw_data", {"w": t("F32", [6], NANS)})
    sub = fb(1, node("Constant", [], ["y"], fb(5, fb(1, "value") + fv(20, 4) + fb(5, tp("", raw=F4T))))) + fb(2, "then") + fb(5, tp("inner")) + fb(12, vinfo("y"))
    ok("onnx-ok-subgraph", model([tp(), tp("cond", (), 9, b"\1")],
                               [node("If", ["cond"], ["y"], fb(5, fb(1, "then_branch") + fv(20, 5) + fb(6, sub)) + fb(5, fb(1, "else_branch") + fv(20, 5) + fb(6, sub)))]),
       "initializers inside If branches and a Constant node: they are weights too", W, note="inner weights must be ported or named in the report")
    bad("onnx-truncated", good[:-9], "corrupt", "cut short")
    bad("onnx-garbage", bytes(range(255, 0, -1)) * 3, "corrupt", "not protobuf")
    bad("onnx-concatenated", good + model([tp("v", raw=F4T)]), "ambiguous", "two models end to end: protobuf merges them silently")
    bad("onnx-no-graph", fv(1, 8), "corrupt", "a model without graph")
    bad("onnx-no-initializers", model([], [node("Identity", ["x"], ["y"])]), "unsupported", "no weights at all")
    bad("onnx-raw-short", model([tp(raw=F4[:12])]), "corrupt", "raw_data shorter than dims say")
    bad("onnx-raw-long", model([tp(raw=F4 + F4)]), "corrupt", "raw_data longer than dims say")
    bad("onnx-both-fields", model([tp(extra=fb(4, F4T))]), "ambiguous", "raw_data and float_data both set, and different")
    bad("onnx-wrong-field", model([tp(raw=None, extra=fb(7, b"\1\2\3\4"))]), "corrupt", "float tensor with int64_data only")
    bad("onnx-no-data", model([tp(raw=None)]), "corrupt", "dims but no data in any field")
    bad("onnx-duplicate-name", model([tp(), tp(raw=F4T)]), "ambiguous", "two initializers called w")
    bad("onnx-empty-name", model([tp(""), tp("w")]), "ambiguous", "an initializer without name")
    bad("onnx-dtype-undefined", model([tp(dt=0)]), "corrupt", "data_type UNDEFINED")
    bad("onnx-dtype-unknown", model([tp(dt=999)]), "unsupported", "data_type 999")
    bad("onnx-dims-negative", model([tp(dims=(-2, -2))]), "corrupt", "negative dims")
    bad("onnx-dims-overflow", model([tp(dims=(1 << 32, 1 << 32), raw=b"")]), "dos", "2**64 elements wrap to 0")
    bad("onnx-string-tensor", model([tp(dims=(2,), dt=8, raw=None, extra=fb(6, "a") + fb(6, "b"))]), "unsupported", "string tensor")
    bad("onnx-segment", model([tp(extra=fb(3, fv(1, 0) + fv(2, 2)))]), "unsupported", "tensor in segments (deprecated)")
    bad("onnx-int4", model([tp(dims=(3,), dt=22, raw=b"\x21\x03")]), "unsupported", "packed 4-bit tensor",
        note="accept where the target has the type")
    bad("onnx-sparse", model([tp()], graph_extra=fb(15, fb(1, tp("sp", (1,), raw=F4[:4])) + fb(2, tp("", (1,), 7, struct.pack("<q", 99))) + fv(3, 4))), "unsupported",
        "sparse_initializer (index out of range): must not be skipped in silence")
    bad("onnx-deep", fv(1, 8) + fb(7, deep_graph(500)), "dos", "500 nested subgraphs")
    bad("onnx-ext-traversal", model([ext("../secret.bin")]), "path", "external data ../ (CVE-2022-25882)", extra={"../secret.bin": F4})
    bad("onnx-ext-traversal-nested", model([ext("sub/../../secret.bin")]), "path", "sub/../../ (CVE-2024-27318)", extra={"../secret.bin": F4, "sub/x": b""})
    bad("onnx-ext-absolute", model([ext("/etc/hostname", "0", "1")]), "path", "absolute external path")
    bad("onnx-ext-backslash", model([ext("..\\secret.bin")]), "path", "backslash traversal for Windows readers", extra={"../secret.bin": F4})
    bad("onnx-ext-symlink", model([ext("w.bin")]), "path", "external file is a symlink to outside (CVE-2026-27489)",
        extra={"../secret.bin": F4, "w.bin": lambda p: (os.path.lexists(p) and os.unlink(p), os.symlink("../secret.bin", p))})
    def hard(p):
        src = os.path.join(os.path.dirname(p), "..", "hard-secret.bin")
        with open(src, "wb") as f:
            f.write(F4)
        if os.path.lexists(p):
            os.unlink(p)
        os.link(src, p)
    bad("onnx-ext-hardlink", model([ext("w.bin")]), "path", "external file is a hard link (CVE-2026-34446)", extra={"w.bin": hard},
        note="onnx refuses hard links; many dedup stores use them: porter may accept and say so")
    bad("onnx-ext-self", model([ext("model.onnx")]), "ambiguous", "external data is the model file itself")
    bad("onnx-ext-missing", model([ext("gone.bin")]), "corrupt", "external file missing")
    bad("onnx-ext-short", model([ext("w.bin")]), "corrupt", "external file shorter than length", extra={"w.bin": F4[:8]})
    bad("onnx-ext-length-mismatch", model([ext("w.bin", "0", "8")]), "corrupt", "length says 8, dims need 16", extra={"w.bin": F4})
    bad("onnx-ext-length-huge", model([ext("w.bin", "0", str(1 << 60))]), "dos", "length 2**60 (CVE-2026-34445)", extra={"w.bin": F4})
    bad("onnx-ext-offset-negative", model([ext("w.bin", "-16")]), "corrupt", "negative offset", extra={"w.bin": F4})
    bad("onnx-ext-offset-text", model([ext("w.bin", "zero")]), "corrupt", "offset is not a number", extra={"w.bin": F4})
    bad("onnx-ext-no-location", model([tp(raw=None, ext=[("offset", "0")])]), "corrupt", "external without location")
    bad("onnx-ext-key-twice", model([tp(raw=None, ext=[("location", "w.bin"), ("location", "v.bin"), ("length", "16")])]), "ambiguous", "location twice",
        extra={"w.bin": F4, "v.bin": F4T})
    bad("onnx-ext-unknown-key", model([ext("w.bin", more=[("__class__", "x")])]), "ambiguous", "unknown external key (attribute injection, CVE-2026-34445)", extra={"w.bin": F4})
    bad("onnx-ext-checksum", model([ext("w.bin", more=[("checksum", "0" * 40)])]), "corrupt", "SHA1 checksum that does not match", extra={"w.bin": F4})
    bad("onnx-ext-directory", model([ext("w.bin")]), "path", "external location is a directory", extra={"w.bin/x": b""})


def deep_graph(depth: int) -> bytes:
    gr = fb(2, "leaf") + fb(5, tp())
    for _ in range(depth):
        gr = fb(1, node("If", ["c"], ["y"], fb(5, fb(1, "then_branch") + fv(20, 5) + fb(6, gr)))) + fb(2, "g")
    return gr


def sharded_cases(m: Maker):
    X = "sharded"
    s1 = st_file({"a": ti("F32", [2, 2], 0, 16)}, F4)
    s2 = st_file({"b": ti("F32", [2, 2], 0, 16)}, F4T)
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

    def idx(wm, total=32, raw=None):
        return raw or json.dumps({"metadata": {"total_size": total}, "weight_map": wm}).encode()

    wm = {"a": names[0], "b": names[1]}
    ext = ".safetensors.index.json"
    bad = lambda n, d, cls, why, **kw: m.add(n, X, ext, d, cls, why, **kw)
    sh = {names[0]: s1, names[1]: s2}
    m.ok("shard-ok", X, ext, idx(wm), "two shards and their index", {"a": t("F32", [2, 2], F4), "b": t("F32", [2, 2], F4T)}, extra=sh)
    bad("shard-missing-file", idx(wm), "corrupt", "second shard is not there", extra={names[0]: s1})
    bad("shard-missing-tensor", idx({**wm, "c": names[1]}), "corrupt", "index lists a tensor no shard has", extra=sh)
    bad("shard-orphan-tensor", idx({"a": names[0]}), "ambiguous", "a shard beside the index holds a tensor the index does not list", extra=sh)
    bad("shard-wrong-shard", idx({"a": names[1], "b": names[0]}), "corrupt", "index points at the other shard", extra=sh)
    bad("shard-duplicate-tensor", idx(wm), "ambiguous", "'a' is in both shards, with different bytes",
        extra={names[0]: s1, names[1]: st_file({"a": ti("F32", [2, 2], 16, 32), "b": ti("F32", [2, 2], 0, 16)}, F4T + F4T)})
    bad("shard-traversal", idx({"a": "../shard-traversal-outside.safetensors", "b": names[1]}), "path", "../ in weight_map",
        extra={"../shard-traversal-outside.safetensors": s1, names[1]: s2})
    bad("shard-absolute", idx({"a": "/etc/passwd", "b": names[1]}), "path", "absolute path in weight_map", extra=sh)
    bad("shard-duplicate-json-key", idx(None, raw=b'{"weight_map":{"a":"%s","a":"%s","b":"%s"}}' % (names[1].encode(), names[0].encode(), names[1].encode())),
        "ambiguous", "'a' twice in weight_map", extra=sh)
    m.ok("shard-total-size-wrong", X, ext, idx(wm, 9999), "metadata.total_size disagrees with the shards: a note, many published indexes are wrong here",
         {"a": t("F32", [2, 2], F4), "b": t("F32", [2, 2], F4T)}, extra=sh)
    bad("shard-truncated-shard", idx(wm), "corrupt", "second shard cut short (interrupted download)", extra={names[0]: s1, names[1]: s2[:-5]})
    bad("shard-not-json", b"{weight_map", "corrupt", "index is not JSON", extra=sh)
    bad("shard-map-not-strings", b'{"weight_map":{"a":1}}', "corrupt", "weight_map value is a number", extra=sh)


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("outdir")
    ap.add_argument("--big", action="store_true")
    ap.add_argument("--special", action="store_true")
    ap.add_argument("--only")
    a = ap.parse_args(argv)
    m = Maker(a.outdir, a.only)
    make(m, a.big, a.special)
    man = {"marker_root": m.markers, "made_by": "badfiles.py", "cases": m.cases}
    with open(os.path.join(m.out, "manifest.json"), "w", encoding="utf-8") as f:
        # names may hold lone surrogates or NUL: keep the manifest pure ASCII
        json.dump(man, f, indent=1, ensure_ascii=True)
    n = len(m.cases)
    r = sum(c["expected"] == "reject" for c in m.cases)
    print(f"{n} cases ({r} reject, {n - r} accept-and-preserve) in {m.out}")


if __name__ == "__main__":
    main()

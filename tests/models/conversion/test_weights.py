"""Files of weights: every format read alike, and nothing of a hostile one is run."""

from __future__ import annotations

import io
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from testkit import checkpoints
from upscaled.models.conversion.converting import converted
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.recognition import recognise
from upscaled.models.conversion.weights import read_weights

TENSORS = checkpoints.compact("prelu")
WRITERS: list[Callable[..., bytes]] = [
    checkpoints.pth, checkpoints.legacy_pth, checkpoints.safetensors
]  # fmt: skip


def written(tmp_path: Path, content: bytes) -> Path:
    """Put content into a file."""
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(("kind", "error"), [("<f4", 0.0), ("<f2", 1e-3), ("bfloat16", 1e-2)])
def test_every_format_and_type_gives_the_weights(
    tmp_path: Path, write: Callable[..., bytes], kind: str, error: float
) -> None:
    found = read_weights(written(tmp_path, write(TENSORS, kind)))
    assert list(found) == list(TENSORS)
    for name, values in TENSORS.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], values, rtol=error, atol=error / 10)


def test_the_averaged_weights_are_preferred(tmp_path: Path) -> None:
    ema, plain = checkpoints.compact("prelu", seed=1), checkpoints.compact("prelu", seed=2)
    for within in ("params_ema", "params", "state_dict"):
        content = checkpoints.pth(ema, within=within)
        found = read_weights(written(tmp_path, content))
        assert np.array_equal(found["body.0.weight"], ema["body.0.weight"])
    # Both in one file: the pickles are joined into one dictionary.
    both = {f"params.{name}": values for name, values in plain.items()}
    found = read_weights(written(tmp_path, checkpoints.safetensors(both)))
    assert list(found) == list(plain)


@pytest.mark.parametrize("key", ["params_ema", "ema_state_dict", "net_g_ema"])
def test_of_several_sets_in_a_file_the_averaged_one_is_taken(tmp_path: Path, key: str) -> None:
    tensors = {}
    for seed, within in enumerate(("params", "state_dict", key, "optimizer", "discriminator")):
        tensors[within] = checkpoints.compact("prelu", seed=seed)
    found = read_weights(written(tmp_path, checkpoints.pth_of_sets(tensors)))
    assert np.array_equal(found["body.0.weight"], tensors[key]["body.0.weight"])


@pytest.mark.parametrize(("key", "taken"), [("net_z", True), ("optimizer", False)])
def test_a_set_under_another_name_is_taken_unless_it_is_not_for_use(
    tmp_path: Path, key: str, *, taken: bool
) -> None:
    content = checkpoints.pth_of_sets({key: TENSORS})
    if taken:
        assert list(read_weights(written(tmp_path, content))) == list(TENSORS)
    else:
        with pytest.raises(ConversionError, match="holds no weights"):
            read_weights(written(tmp_path, content))


class _Runs:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self._call


def archive(content: bytes, **files: bytes) -> bytes:
    """Return a ZIP archive with ``content`` as PyTorch's pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("archive/data.pkl", content)
        for name, data in files.items():
            file.writestr(f"archive/{name}", data)
    return made.getvalue()


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    """Return pickles that would make the file ``marker`` if they were run."""
    code = f"open({str(marker)!r}, 'w').close()"
    text = struct.pack("<I", len(code)) + code.encode()

    def call(name: bytes) -> bytes:
        return b"\x80\x02c" + name + b"\n(X" + text + b"tR."

    return {
        "exec": call(b"builtins\nexec"),
        "eval": call(b"builtins\neval"),
        "exec of Python 2": call(b"__builtin__\nexec"),
        "system": b"\x80\x02cposix\nsystem\n(X" + struct.pack("<I", len(f"touch {marker}"))
        + f"touch {marker}".encode() + b"tR.",
        "open": pickle.dumps(_Runs(open, str(marker), "w")),
        "getattr": b"\x80\x04cbuiltins\ngetattr\n(ccollections\nOrderedDict\nX\x08\x00\x00\x00"
        b"__init__tR.",
        "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x17OrderedDict.__reduce__\x93.",
        "torch's own loader": b"\x80\x02ctorch.storage\n_load_from_bytes\n(U\x01xtR.",
        "numpy": b"\x80\x02cnumpy\nload\n(X\x01\x00\x00\x00xtR.",
        "an extension": b"\x80\x02\x82\x01.",
        "an instance of Python 1": b"(S'x'\nios\nsystem\n.",
    }  # fmt: skip


@pytest.mark.parametrize("wrap", [archive, lambda content: content], ids=["archive", "legacy"])
@pytest.mark.parametrize("what", hostile_pickles(Path("x")))
def test_a_program_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, what: str, wrap: Callable[[bytes], bytes]
) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(ConversionError) as caught:
        read_weights(written(tmp_path, wrap(hostile_pickles(marker)[what])))
    assert not marker.exists()
    assert caught.value.message.endswith(".")


def test_a_pickle_cannot_change_what_later_files_mean(tmp_path: Path) -> None:
    # BUILD on the class of storages: {"kind": "<f8"}.
    changing = b"\x80\x02ctorch\nFloatStorage\n}X\x04\x00\x00\x00kindX\x03\x00\x00\x00<f8sb."
    twice = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00xK\x01sb."
    for content in (changing, twice):
        with pytest.raises(ConversionError):
            read_weights(written(tmp_path, archive(content)))
    found = read_weights(written(tmp_path, checkpoints.pth(TENSORS)))
    assert np.array_equal(found["body.0.weight"], TENSORS["body.0.weight"])


def _tensor_of(size: bytes, stride: bytes, count: int = 4) -> bytes:
    """Return a pickle of one tensor with a size and a stride of one's own."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ"
        + struct.pack("<i", count) + b"tQ"
    )  # fmt: skip
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n("
        + storage + b"K\x00" + size + stride + b"\x89}tRs."
    )  # fmt: skip


@pytest.mark.parametrize(
    "pickled",
    [
        _tensor_of(b"(J\xff\xff\xff\x7ft", b"(K\x00t"),  # 2^31 numbers of one
        _tensor_of(b"(K\x05t", b"(K\x01t"),  # one more than there are
        _tensor_of(b"(K\x02t", b"(J\xff\xff\xff\xfft"),  # backwards
        _tensor_of(b"(J\xff\xff\xff\xfft", b"(K\x01t"),  # a negative size
        _tensor_of(b"(K\x02K\x02t", b"(K\x01t"),  # two sizes, one stride
        _tensor_of(b"(K\x04t", b"(K\x01t", count=2**31 - 1),  # a storage that is not there
        _tensor_of(b"X\x01\x00\x00\x00a", b"(K\x01t"),
    ],
)
def test_a_tensor_reaches_no_memory_but_its_own(tmp_path: Path, pickled: bytes) -> None:
    data = {"data/0": np.ones(4, "<f4").tobytes()}
    with pytest.raises(ConversionError):
        read_weights(written(tmp_path, archive(pickled, **data)))


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", checkpoints.pickled(TENSORS))
    with pytest.raises(ConversionError, match="compressed, which PyTorch never does"):
        read_weights(written(tmp_path, made.getvalue()))


def test_a_pickle_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="larger than"):
        read_weights(written(tmp_path, b"\x80\x02" + b"]" * (8 << 20) + b"."))


def test_tensors_that_share_their_data_cannot_fill_the_memory(tmp_path: Path) -> None:
    one = _tensor_of(b"(M\x00\x01M\x00\x01t", b"(K\x01M\x00\x01t", count=1 << 16)
    tensor = one[one.index(b"ctorch._utils") : -2]
    items = b"".join(b"X\x04\x00\x00\x00" + b"%04d" % number + tensor for number in range(1000))
    data = {"data/0": bytes(4 << 16)}
    with pytest.raises(ConversionError, match="made to fill the memory"):
        read_weights(written(tmp_path, archive(b"\x80\x02}(" + items + b"u.", **data)))


def _busy() -> bytes:
    """Return a file whose reader puts 50,000 numbers of one hash into a dictionary.

    Python's hash of a number is its remainder by 2^61 - 1.
    """
    numbers = range(1, 50_001)
    keys = b"".join(b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in numbers)
    return archive(b"\x80\x02}(" + keys + b"u.")


async def test_a_pickle_that_keeps_its_reader_busy_ends_soon(
    tmp_path: Path,
) -> None:
    # The process that reads gets one second instead of sixty.
    quick = "from upscaled.models.conversion import confined_work, worker\n"
    quick += "confined_work._READING_SECONDS = 1\nworker.main()\n"
    (tmp_path / "quick_reader.py").write_text(quick)
    with pytest.raises(ConversionError) as caught:
        await converted(
            written(tmp_path, _busy()), tmp_path, name="laugh.pth", activation=None,
            on_step=lambda _: None, seconds=60, module="quick_reader", memory_mb=1000,
            env={"PYTHONPATH": str(tmp_path)},
        )  # fmt: skip
    assert str(caught.value) == (
        "laugh.pth takes far too long to read; it is damaged, or made to keep its reader busy."
    )


def _overlapping() -> bytes:
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
    header = f'{{"a":{entry % (0, 8)},"b":{entry % (4, 12)}}}'.encode()
    return struct.pack("<Q", len(header)) + header + bytes(12)


def _twice() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            file.writestr("archive/data.pkl", checkpoints.pickled(TENSORS))
    return made.getvalue()


def _encrypted() -> bytes:
    content = bytearray(archive(checkpoints.pickled(TENSORS)))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    return bytes(content)


def _packed() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("model.pth", checkpoints.pth(TENSORS))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_overlapping(), "two of its tensors lie in the same place"),
        (_twice(), "holds a file twice"),
        (_encrypted(), "encrypted, which PyTorch never does"),
        (archive(b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s."), "holds no weights"),
        (b"", "model.pth is empty; download it again"),
        (b"<!DOCTYPE html><title>Sorry</title>", "is a web page, not a model"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a reference of Git LFS"),
        (b"\x08\x07\x12\x07pytorch", "is an ONNX file, .* Send the .pth or .safetensors file"),
        (b"7767517\n2 2\n", "is an ncnn file and needs no import"),
        (b"\x1f\x8b\x08", "is a packed archive. Unpack it"),
        (_packed(), "without PyTorch's data.pkl. If it holds a .pth"),
        (archive(b"\x80\x02cos\nsystem\n)\x81."), "state_dict only"),
        (b"GIF89a and so on", "not a .pth, .pt or .safetensors"),
        (archive(checkpoints.pickled(TENSORS), **{"constants.pkl": b"x"}), "TorchScript"),
        (archive(b"\x80\x02K\x07."), "holds no state_dict"),
        (archive(b"\x80\x02}."), "holds no weights"),
        (struct.pack("<Q", 1 << 40) + b"{}", "cut off"),
        (checkpoints.safetensors(TENSORS)[:-100], "beyond its end"),
        (checkpoints.pth(TENSORS)[:-200], "damaged"),
        (checkpoints.safetensors({"w": np.array([np.nan], np.float32)}), "not finite"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        read_weights(written(tmp_path, content))


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_damaged_files_end_with_a_sentence_or_with_weights(
    tmp_path: Path, write: Callable[..., bytes]
) -> None:
    content, chance = write(checkpoints.compact("prelu", features=4)), random.Random(5)
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            # Most of the damage goes where the structure is.
            reach = chance.choice([400, len(damaged)])
            damaged[chance.randrange(min(reach, len(damaged)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        try:
            recognise(read_weights(written(tmp_path, bytes(damaged))), "relu")
        except ConversionError as error:
            assert error.message.endswith("."), error.message
        assert [path.name for path in tmp_path.iterdir()] == ["model.pth"]

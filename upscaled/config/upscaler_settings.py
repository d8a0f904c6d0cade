"""The settings of the section ``upscaler``."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled.config import types as allowed
from upscaled.config.types import setting


@dataclass(frozen=True)
class UpscalerSettings:
    """Which engine, models and devices are used, and how."""

    engine: str = setting(
        "auto",
        "binary: the native program; builtin: a worker process with ncnn or OpenVINO; auto: binary "
        "where the program and a real GPU are present, else builtin.",
        choices=("auto", "binary", "builtin"),
        flag="--engine",
    )
    binary_path: str = setting(
        "",
        "The native program (realesrgan-ncnn-vulkan or upscayl-bin); empty: the first one found in "
        "bin/, then in PATH.",
    )
    models_path: str = setting("models", "Folder of the models: pairs of .param and .bin files.")
    default_model: str = setting("realesrgan-x4plus", "Model for requests that name none.")
    commercial_models_only: bool = setting(
        False,
        "Offer only models whose licence is known to allow commercial use.",
    )
    default_scale: int = setting(4, "Scale for requests that name none.", minimum=2, maximum=4)
    gpu_ids: tuple[int, ...] = setting(
        (),
        "Vulkan devices to use, by index as `upscaled doctor` lists them; "
        "empty: the best one; -1: the CPU (builtin engine only).",
        check=lambda v: (
            None if all(-1 <= i <= 255 for i in v) else "a list of indices between -1 and 255"
        ),
    )
    tile_size: int = setting(
        0,
        "Tile side in pixels for requests that name none; 0: chosen by available memory.",
        check=allowed.tile,
    )
    memory_limit_mb: int = setting(
        0,
        "Memory limit of the whole service in MiB; tile sizes are chosen to stay below it. 0: half "
        "of the memory that the machine or its control group has free at start.",
        minimum=0,
        maximum=100_000_000,
    )
    threads: int = setting(
        0, "CPU threads of the builtin engine; 0: one per core.", minimum=0, maximum=1024
    )
    cpu_library: str = setting(
        "auto",
        "Library and precision of the builtin engine on the CPU. auto: the quickest, as measured "
        "(calibrate); until then openvino where it is installed and the processor has AVX-512, in "
        "bfloat16 where it has AMX, else ncnn. On GPUs ncnn is always used.",
        choices=("auto", "ncnn", "openvino", "openvino-bf16"),
    )
    calibrate: bool = setting(
        True,
        "Measure, while the server is idle, which library, precision and tiles are quickest on "
        "this processor for the models in use, and use those where cpu_library is auto.",
    )
    job_timeout_seconds: int = setting(
        86_400,
        "Longest run of any job in seconds. Waiting in the queue does not count.",
        minimum=1,
        maximum=1_000_000,
    )
    job_seconds_per_megapixel: float = setting(
        3600.0,
        "Time limit of a job in seconds per megapixel of its picture, in addition to two minutes; "
        "eight times as much with tta. At most job_timeout_seconds.",
        minimum=0.1,
        maximum=1_000_000,
    )
    stall_seconds: float = setting(
        300.0,
        "Kill an engine that completes no tile for this many seconds, and retry the job another "
        "way.",
        minimum=1,
        maximum=1_000_000,
    )
    fallback: str = setting(
        "cpu",
        "What happens when every attempt on the GPU failed. cpu: try the CPU; none: the job fails.",
        choices=("cpu", "none"),
    )
    max_crashes: int = setting(
        3,
        "A job fails when the server has crashed this many times while it worked on it without "
        "finishing a band. In a cluster: when this many workers, and two at least, were lost.",
        minimum=1,
        maximum=100,
        former="max_attempts",
    )

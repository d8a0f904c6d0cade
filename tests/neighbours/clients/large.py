"""Send a large picture and continue a download with urllib: BASE_URL PICTURE JOB_ID RESULT."""

import sys
import urllib.request
from pathlib import Path

base, picture, job, result = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
with picture.open("rb") as body:
    request = urllib.request.Request(
        f"{base}/upscale?model_name=realesrgan-x4plus",
        data=body,
        headers={"Content-Type": "image/bmp", "Content-Length": str(picture.stat().st_size)},
    )
    with urllib.request.urlopen(request) as answer:
        sys.stdout.write(answer.read().decode())
request = urllib.request.Request(
    f"{base}/download/{job}", headers={"Range": f"bytes={result.stat().st_size}-"}
)
with urllib.request.urlopen(request) as answer, result.open("ab") as file:
    assert answer.status == 206, answer.status
    file.write(answer.read())

#!/bin/sh
# Send a large picture and continue a download with curl: BASE_URL PICTURE JOB_ID RESULT.
set -eu
curl -sS --fail-with-body -H 'Content-Type: image/bmp' --data-binary "@$2" \
  "$1/upscale?model_name=realesrgan-x4plus"
curl -sS --fail -C - -o "$4" "$1/download/$3"

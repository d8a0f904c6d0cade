#!/bin/sh
# Send a large picture and continue a download with wget: BASE_URL PICTURE JOB_ID RESULT.
set -eu
wget -q -O - --header 'Content-Type: image/bmp' --post-file "$2" \
  "$1/upscale?model_name=realesrgan-x4plus"
wget -q -c -O "$4" "$1/download/$3"

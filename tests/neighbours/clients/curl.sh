#!/bin/sh
# Upscale a picture with curl: BASE_URL PICTURE RESULT.
set -eu
job=$(curl -sS --fail-with-body -F "image=@$2" -F model_name=realesr-animevideov3 -F scale=2 \
  "$1/upscale" | grep -o '[0-9]\{19\}' | head -n 1)
curl -sS --fail-with-body "$1/status/$job?wait=45" | grep -q '"status":"completed"'
curl -sS --fail -o "$3" "$1/download/$job"

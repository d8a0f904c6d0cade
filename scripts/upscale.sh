#!/bin/sh
# Send a picture to an upscaled server, wait, and fetch the result: an example to copy.
#
#   scripts/upscale.sh IN OUT [FIELD=VALUE ...]
#   scripts/upscale.sh photo.jpg large.png scale=2 model_name=realesr-animevideov3
#
# It needs curl and what every POSIX system has.
#   UPSCALED_URL      the server; http://127.0.0.1:8089 if it is not set
#   UPSCALED_TOKEN    its token, if it needs one
#   UPSCALED_SECONDS  how long to wait for the result; 3600 if it is not set
# Exit status: 0 done; 1 the job failed or its time is over; 2 a wrong command line; 3 the server was
# not reached, or refused the picture. Ctrl-C cancels the job.
set -eu

URL=${UPSCALED_URL:-http://127.0.0.1:8089}
API=${URL%/}/api/v1
SECONDS_LEFT=${UPSCALED_SECONDS:-3600}

complain() {
  printf '%s: %s\n' "${0##*/}" "$2" >&2
  exit "$1"
}

[ $# -ge 2 ] || complain 2 "give a picture and a name for the result: upscale.sh IN OUT [FIELD=VALUE ...]"
IN=$1 OUT=$2
shift 2
[ -f "$IN" ] || complain 2 "there is no file $IN"
[ ! -d "$OUT" ] || complain 2 "$OUT is a folder; name a file"

# The fields, each as an option of curl. --form-string takes a value as it is: @ and < mean nothing.
count=$#
while [ "$count" -gt 0 ]; do
  case $1 in
    [a-z]*=*) set -- "$@" --form-string "$1" ;;
    *) complain 2 "$1 is no field; write FIELD=VALUE, such as scale=2" ;;
  esac
  shift
  count=$((count - 1))
done

# All that is temporary lies beside the result, so that the end is a rename.
WORK=$OUT.upscale.$$
JOB=
stop() {
  trap - EXIT
  [ -z "$JOB" ] || call "$WORK.cancel" 10 -X POST "$API/cancel/$JOB" >/dev/null 2>&1 || :
  rm -f "$WORK" "$WORK".*
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# call FILE SECONDS OPTION...: send a request; the answer goes into FILE, its status to standard output.
# The token goes through standard input, where the list of processes does not show it. Nothing that
# arrives more slowly than 1 byte a second for a minute is waited for.
call() {
  into=$1 limit=$2
  shift 2
  if [ -n "${UPSCALED_TOKEN:-}" ]; then
    printf 'header = "Authorization: Bearer %s"\n' "$UPSCALED_TOKEN"
  fi | curl --silent --show-error --config - --connect-timeout 20 --max-time "$limit" \
    --speed-limit 1 --speed-time 60 --output "$into" --write-out '%{http_code}' "$@"
}

# field NAME FILE: print the value of a member of the answer, which is compact JSON.
field() {
  sed -n -e "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" -e "s/.*\"$1\":\([0-9.][0-9.]*\).*/\1/p" "$2" 2>/dev/null |
    head -n 1
}

# wait_after HEADERS: sleep as long as Retry-After says, else a little longer each time.
pause=1
wait_after() {
  asked=$(sed -n 's/^[Rr][Ee][Tt][Rr][Yy]-[Aa][Ff][Tt][Ee][Rr]: *\([0-9]\{1,5\}\).*/\1/p' "$1" 2>/dev/null | tail -n 1)
  [ -n "$asked" ] || asked=$pause
  [ "$asked" -le "$SECONDS_LEFT" ] || complain 3 "the server is busy for another $asked s"
  sleep "$asked"
  SECONDS_LEFT=$((SECONDS_LEFT - asked))
  [ "$pause" -ge 30 ] || pause=$((2 * pause))
}

# --- submit -----------------------------------------------------------------------------------------
# The key stays the same when the submission is repeated, so that the server makes one job of it.
KEY=upscale-sh-$(date +%s)-$$-$(od -An -N8 -tx1 /dev/urandom 2>/dev/null | tr -d ' \n')
tries=0
until [ -n "$JOB" ]; do
  tries=$((tries + 1))
  : >"$WORK.headers"
  status=$(call "$WORK.answer" 600 --dump-header "$WORK.headers" -H "Idempotency-Key: $KEY" "$@" \
    --form "image=@\"$(printf %s "$IN" | sed 's/[\\"]/\\&/g')\"" "$API/upscale" 2>"$WORK.error") || status=000
  case $status in
    200 | 202)
      JOB=$(field job_id "$WORK.answer")
      case $JOB in
        '' | *[!0-9]*) JOB='' && complain 3 "$URL does not answer as an upscaled server does" ;;
      esac
      ;;
    000 | 408 | 429 | 502 | 503 | 504)
      [ "$tries" -lt 8 ] || complain 3 "$(field error "$WORK.answer" | grep . || cat "$WORK.error")"
      wait_after "$WORK.headers"
      ;;
    *) complain 3 "the server refused $IN ($status): $(field error "$WORK.answer")" ;;
  esac
done

# --- wait -------------------------------------------------------------------------------------------
# Each request waits up to 30 s for the job's end.
pause=1
began=$(date +%s)
failures=0
while :; do
  status=$(call "$WORK.answer" 60 "$API/status/$JOB?wait=30" 2>"$WORK.error") || status=000
  case $status in
    200)
      failures=0
      state=$(field status "$WORK.answer")
      case $state in
        completed) break ;;
        failed) JOB='' && complain 1 "$IN: $(field error "$WORK.answer")" ;;
        cancelled) JOB='' && complain 1 "$IN: somebody cancelled the job" ;;
      esac
      [ ! -t 2 ] || printf '\r%s: %s %%  ' "$IN" "$(field progress "$WORK.answer")" >&2
      sleep 1
      ;;
    404 | 401 | 403) JOB='' && complain 3 "$(field error "$WORK.answer")" ;;
    *)
      failures=$((failures + 1))
      [ "$failures" -lt 8 ] || complain 3 "the server is gone: $(cat "$WORK.error")"
      sleep "$failures"
      ;;
  esac
  [ $(($(date +%s) - began)) -lt "$SECONDS_LEFT" ] || complain 1 "$IN: not done in time; the job is cancelled"
done
[ ! -t 2 ] || printf '\r%s: 100 %%\n' "$IN" >&2

# --- download ---------------------------------------------------------------------------------------
# What has come is kept and continued: -C - asks for the rest. The server deletes the result once all
# of it has arrived.
failures=0 digest=
while :; do
  : >"$WORK.headers"
  status=$(call "$WORK" 3600 --fail -C - --dump-header "$WORK.headers" "$API/download/$JOB" \
    2>"$WORK.error") && ended=0 || ended=$?
  # It is of the whole file, whichever part of it has come.
  told=$(sed -n 's/^[Rr]epr-[Dd]igest: *sha-256=:\([A-Za-z0-9+\/=]*\):.*/\1/p' "$WORK.headers" | tail -n 1)
  [ -z "$told" ] || digest=$told
  case $status in
    416) break ;; # there is no rest
    404 | 410) JOB='' && complain 1 "$IN: the result is no longer there" ;;
  esac
  [ "$ended" != 0 ] || break
  failures=$((failures + 1))
  [ "$failures" -lt 20 ] || complain 3 "the download breaks off: $(cat "$WORK.error")"
  sleep 1
done
JOB=

# The digest is compared where there is a program for that.
if [ -n "$digest" ] && command -v openssl >/dev/null 2>&1; then
  [ "$(openssl dgst -sha256 -binary "$WORK" | openssl base64)" = "$digest" ] ||
    complain 1 "$IN: the result arrived damaged"
fi
mv -f "$WORK" "$OUT"

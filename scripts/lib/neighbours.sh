# shellcheck shell=bash
# Shared by the scripts: what the tests in tests/neighbours run the server with. It is sourced after
# env.sh, not run.
#
# Proxies and promtool are unpacked into .tools/servers, since installing their Debian packages would
# start services. So is PostgreSQL, into .tools/postgresql. Generators of clients go into
# .tools/generators, and with them a compiler of Go and Traefik, which are Python packages.

SERVERS=$ROOT/.tools/servers
GENERATORS=$ROOT/.tools/generators
POSTGRESQL=$ROOT/.tools/postgresql
readonly server_packages=(nginx caddy haproxy lighttpd prometheus varnish)

# Tell whether the program $1 of the unpacked packages, or the system's own, runs with arguments $2….
runs_server() {
  local name=$1
  shift
  PATH=$SERVERS/usr/sbin:$SERVERS/usr/bin:$PATH:/usr/sbin:/sbin "$name" "$@" >/dev/null 2>&1
}

has_servers() {
  runs_server nginx -v && runs_server caddy version && runs_server haproxy -v &&
    runs_server lighttpd -v && runs_server promtool --version && runs_server varnishd -V
}

# Print the Debian packages with libraries that the servers need, as far as they are not installed.
server_libraries() {
  command -v apt-cache >/dev/null && command -v dpkg >/dev/null || return 0
  local library
  apt-cache depends "${server_packages[@]}" 2>/dev/null |
    sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p' | sort -u |
    while read -r library; do
      dpkg -s "$library" >/dev/null 2>&1 || printf '%s\n' "$library"
    done
}

fetch_servers() (
  command -v apt-get >/dev/null || { say "Without apt-get the proxies can't be fetched."; return 1; }
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  chmod 755 "$folder" # apt-get downloads as another user where root runs it
  if [ "$(id -u)" = 0 ]; then
    mapfile -t libraries < <(apt-get update >/dev/null 2>&1 && server_libraries)
    [ ${#libraries[@]} -eq 0 ] || apt_get_install "${libraries[@]}" || return 1
  fi
  packages=() missing=()
  for package in "${server_packages[@]}"; do
    # A testing release lacks a package now and then; the others' tests run all the same.
    if apt-cache show "$package" >/dev/null 2>&1; then packages+=("$package"); else missing+=("$package"); fi
  done
  # From Debian 13 on, promtool is a package of its own.
  if apt-cache show promtool >/dev/null 2>&1; then packages+=(promtool); fi
  (cd "$folder" && apt-get download "${packages[@]}" >/dev/null 2>&1) ||
    { say "apt-get could not download all of: ${packages[*]}"; return 1; }
  for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/unpacked"
  done
  rm -rf "$SERVERS" "$folder/unpacked/usr/share"
  mkdir -p "$ROOT/.tools"
  mv "$folder/unpacked" "$SERVERS"
  [ ${#missing[@]} -eq 0 ] || { say "apt knows no package ${missing[*]}."; return 1; }
)

# Tell whether there are a PostgreSQL server and its programs for backups, with their libraries.
has_postgresql() {
  local folder program
  for folder in "$POSTGRESQL"/usr/lib/postgresql/*/bin /usr/lib/postgresql/*/bin; do
    for program in initdb postgres pg_basebackup pg_dump pg_restore; do
      "$folder/$program" --version >/dev/null 2>&1 || continue 2
    done
    return 0
  done
  return 1
}

# Unpack the server that Debian's package postgresql stands for, such as postgresql-15, and its client
# programs. Installing it would start a service.
fetch_postgresql() (
  command -v apt-get >/dev/null || { say "Without apt-get PostgreSQL can't be fetched."; return 1; }
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  chmod 755 "$folder" # apt-get downloads as another user where root runs it
  [ "$(id -u)" != 0 ] || apt-get update >/dev/null 2>&1
  package=$(apt-cache depends postgresql | sed -n 's/^ *Depends: \(postgresql-[0-9]*\)$/\1/p')
  [ -n "$package" ] || { say "apt knows no package postgresql."; return 1; }
  if [ "$(id -u)" = 0 ]; then
    mapfile -t libraries < <(apt-cache depends "$package" | sed -n 's/^ *Depends: \(lib[^ ]*\)$/\1/p')
    [ ${#libraries[@]} -eq 0 ] || apt_get_install "${libraries[@]}" || return 1
  fi
  client=${package/postgresql-/postgresql-client-}
  (cd "$folder" && apt-get download "$package" "$client" >/dev/null 2>&1) ||
    { say "apt-get could not download $package and $client."; return 1; }
  for archive in "$folder"/*.deb; do
    dpkg-deb -x "$archive" "$folder/unpacked"
  done
  rm -rf "$POSTGRESQL"
  mkdir -p "$ROOT/.tools"
  mv "$folder/unpacked" "$POSTGRESQL"
  chmod 755 "$POSTGRESQL" # as root, nobody runs it
)

# Print what the generators depend on; they are installed again when that changes.
generators_identity() {
  cat "$ROOT/tests/neighbours/generators/requirements.txt" \
    "$ROOT/tests/neighbours/generators/package.json" | sha256sum
}

has_generators() {
  [ -f "$GENERATORS/.installed" ] && [ "$(cat "$GENERATORS/.installed")" = "$(generators_identity)" ]
}

fetch_generators() {
  local sources=$ROOT/tests/neighbours/generators log=$GENERATORS/log.txt
  rm -rf "$GENERATORS"
  mkdir -p "$GENERATORS"
  if "$PYTHON" -m venv "$GENERATORS/python" >"$log" 2>&1 &&
    "$GENERATORS/python/bin/python" -m pip install --disable-pip-version-check --no-input \
      --requirement "$sources/requirements.txt" >>"$log" 2>&1 &&
    cp "$sources/package.json" "$GENERATORS/" &&
    (cd "$GENERATORS" && npm install --no-audit --no-fund >>"$log" 2>&1); then
    generators_identity >"$GENERATORS/.installed"
  else
    tail -n 5 "$log" >&2
    return 1
  fi
}

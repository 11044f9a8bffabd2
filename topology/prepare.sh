# Sourced by Tests/run, Bench/run and topology/demo: checks for Swift and installs the Debian packages that are missing.

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# lightpath_prepare [more packages…]
lightpath_prepare() {
  command -v swift >/dev/null 2>&1 || die "no 'swift' on PATH. Lightpath needs a Swift 6.2 or newer toolchain for Debian 12: see https://www.swift.org/install/linux"
  local version
  version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)
  if [ -n "$version" ] && [ "$(printf '%s\n6.2\n' "$version" | sort -V | head -n 1)" != 6.2 ]; then
    die "Swift $version is too old: Lightpath needs 6.2 or newer"
  fi
  local need=() package
  for package in libsecp256k1-dev libsodium-dev libsqlite3-dev liburing-dev pkg-config "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] && continue
    # pkgconf replaces pkg-config, and a python3 from elsewhere is as good as Debian's.
    case $package in pkg-config | python3) command -v "$package" >/dev/null 2>&1 && continue ;; esac
    need+=("$package")
  done
  [ ${#need[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null 2>&1 || die "these Debian packages are missing and there is no apt-get to install them: ${need[*]}"
  local sudo=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || die "these packages are missing: ${need[*]}. Run as root or install sudo, or: apt-get install ${need[*]}"
    sudo=(sudo)
  fi
  say "installing ${need[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}" >/dev/null 2>&1 && return 0
  "${sudo[@]}" apt-get update >/dev/null || die "apt-get update failed; missing packages: ${need[*]}"
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${need[@]}" >/dev/null \
    || die "apt-get could not install: ${need[*]}"
}

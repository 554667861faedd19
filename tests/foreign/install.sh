# What the steps of tests/all need: sourced by it. Each function installs what is missing, once, or ends the step with
# a line that says why it is skipped. `scratch` is the caller's folder for this run.
# shellcheck shell=bash disable=SC2154

skipped_code=77 # a step's exit code

skip() { # WHY: ends the step
  echo "skipped - $1"
  exit "$skipped_code"
}

need() { # COMMAND PACKAGE...: Debian's packages, where the command is missing
  command -v "$1" >/dev/null || apt_install "${@:2}" || skip "$1 is missing and cannot be installed"
}

apt_install() { apt_update && "${apt[@]}" install --no-install-recommends "$@"; }

apt_update() { # once a run; sets `apt`
  apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 --quiet --yes)
  [[ $(id -u) == 0 ]] || apt=(sudo -n "${apt[@]}")
  [[ -e $scratch/updated ]] || { "${apt[@]}" update && touch "$scratch/updated"; }
}

installed() { # FOLDER LIST...: true when the folder was made from these lists; otherwise sets `mark` for it
  mark=$(cat "${@:2}" | sha256sum)
  [[ -e $1/.installed && $(<"$1/.installed") == "$mark" ]]
}

python_packages() { # NAME: installs requirements-NAME.txt; sets `venv`
  local list=tests/foreign/requirements-$1.txt
  venv=target/venv-$1
  installed "$venv" "$list" && return
  need python3 python3
  python3 -c 'import ensurepip' || apt_install python3-venv || skip "python3-venv is missing and cannot be installed"
  { python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet -r "$list"; } ||
    skip "the Python packages of $list cannot be installed"
  echo "$mark" >"$venv/.installed"
}

npm_packages() {
  installed target/npm tests/foreign/package.json tests/foreign/package-lock.json && return
  need node nodejs
  need npm npm
  rm -rf target/npm && mkdir -p target/npm
  cp tests/foreign/package.json tests/foreign/package-lock.json target/npm
  npm ci --prefix target/npm --ignore-scripts --no-audit --no-fund || skip "the npm packages cannot be installed"
  echo "$mark" >target/npm/.installed
}

autobahn_packages() { # sets `venv`
  local python
  venv=target/venv-autobahn
  installed "$venv" tests/autobahn/{setup.sh,requirements.txt,port_wstest.py} && return
  python=$(python_with_lib2to3) || { apt_install python3 python3-venv && python=$(python_with_lib2to3); } ||
    skip "autobahntestsuite needs Python 3.10 to 3.12 with venv"
  tests/autobahn/setup.sh "$python" "$venv" || skip "autobahntestsuite cannot be installed"
  echo "$mark" >"$venv/.installed"
}

python_with_lib2to3() {
  local python probe='import ensurepip, lib2to3, sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))'
  for python in python3 python3.12 python3.11 python3.10 /usr/bin/python3; do
    if "$python" -W ignore -c "$probe" 2>/dev/null; then echo "$python" && return; fi
  done
  return 1
}

cargo_deny() { # sets `cargo_deny`
  local version=0.20.2
  cargo_deny=target/tools/bin/cargo-deny
  [[ -x $cargo_deny && $("$cargo_deny" --version) == "cargo-deny $version" ]] && return
  # It works for a second: to optimize it would take longer than everything that it ever does here.
  timeout 20m cargo install cargo-deny --version "$version" --locked --debug --no-default-features --quiet \
    --root target/tools --target-dir target/tools/build || skip "cargo-deny cannot be installed"
  rm -rf target/tools/build
}

debian_program() { # PACKAGE PATH: a program of a package that is not installed, for that might start a service; sets `program`
  local folder=target/debian-$1
  program=$folder/$2
  [[ -x $program ]] && return
  rm -rf "$folder" && mkdir -p "$folder"
  apt_update && (cd "$folder" && apt-get --quiet download "$1" && dpkg -x ./*.deb .) || skip "$1 cannot be fetched"
}

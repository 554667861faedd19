#!/usr/bin/env bash
# Installs Autobahn's fuzzing client for Python 3 into a new virtual environment.
#
# usage: setup.sh PYTHON VENV
#
# PYTHON is 3.10 to 3.12: the port needs lib2to3, which later versions do not have.
set -euo pipefail
python=$1 venv=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

"$python" -m venv --clear "$venv"
# The suite and its old autobahn know no pyproject.toml: they are built by the setuptools and wheel of the list.
mapfile -t builders < <(grep -E '^(setuptools|wheel)==' "$here/requirements.txt")
"$venv/bin/pip" install --quiet "${builders[@]}"
"$venv/bin/pip" install --quiet --no-build-isolation -r "$here/requirements.txt"
"$venv/bin/pip" install --quiet --no-build-isolation --no-deps --no-compile autobahntestsuite==25.10.1
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$venv/bin/python" "$here/port_wstest.py" "$packages/autobahntestsuite"

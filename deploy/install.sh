#!/bin/sh
# install.sh LIST [OPTION…]: puts one list of requirements into /venv, pinned, from wheels alone, so that no image needs
# a compiler. The installer lives in /tmp and is gone before the layer ends.
set -eu
list=/requirements/$1
shift
pip install --quiet --no-cache-dir --target /tmp/uv uv
UV_HTTP_TIMEOUT=300 /tmp/uv/bin/uv pip install --quiet --no-cache --python /venv/bin/python --no-build \
  --compile-bytecode --requirement "$list" --constraints /requirements/constraints.txt "$@"
rm -rf /tmp/uv

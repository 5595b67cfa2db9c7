#!/usr/bin/env bash
# The GPU path, ready: what a machine without a network needs is packed here, carried there, and run.
#
#   bench/gpu.sh pack [--python 3.12]... [NAME...]                  on a machine with a network
#   bench/gpu.sh weigh                                              what would travel, by kind
#   bench/gpu.sh run [--device cuda|cpu] [--small] [--out FILE]     on the machine with the card
#
# pack fills wheels/ (ignored by git; carry it along with the checkout): wheels for the Pythons named (default
# 3.11 and 3.12, x86-64 Linux) of the packages in CARRIED and of further NAMEs, and the 28 px file of
# BloodMNIST, packed closer. It refuses above 60 MiB for all that travels: the checkout's files (without
# .git), wheels, data.
#
# A machine with nothing but torch and CUDA cannot be served within 60 MiB: numpy, scipy, pandas,
# scikit-image, scikit-learn, matplotlib, Pillow, torchvision, numba and llvmlite alone are 167 MiB of wheels.
# They are taken as there, as in a usual torch image, and so is what else EXPECTED in gpu.py names; `run`
# names what is not there.
#
# run makes .venv-gpu over the python3 that holds torch ($PYTHON names another), fills it from wheels/, and
# measures with bench/gpu.py within 8 minutes ($LIMIT, in seconds). Without wheels the environment of $PYTHON
# is used as it is. Results go to bench/results/gpu.json (gpu_small.json with --small; in the folder $OUT if
# that is set), logs to gpu_logs/ beside it. The exit status is 1 if any part failed: its reason is in the
# results, the rest goes on.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

MOST=$((60 * 1024 * 1024))
LIMIT=${LIMIT:-480}
# jedi and debugpy, which ipython and ipykernel ask for, are left out: 9 MB for completion and a debugger
CARRIED='papermill nbclient nbformat jupyter_client jupyter_core ipykernel ipython ipython_pygments_lexers
prompt_toolkit stack_data asttokens executing pure_eval matplotlib-inline pexpect ptyprocess wcwidth
traitlets pyzmq tornado comm nest-asyncio2 platformdirs fastjsonschema jsonschema
jsonschema-specifications referencing rpds-py tenacity entrypoints fastcore ipywidgets medmnist fire
termcolor captum shap slicer lightning-fabric lightning-utilities pooch'
BUILT='lime'      # published as source only; pure Python
PLATFORMS=''
for glibc in 5 12 17 24 26 27 28 31 34; do PLATFORMS+=" --platform manylinux_2_${glibc}_x86_64"; done
for old in 1 2010 2014; do PLATFORMS+=" --platform manylinux${old}_x86_64"; done

say() { echo "gpu.sh: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' bench/gpu.sh >&2
  exit 2
}

# The Python to start from: $PYTHON, else the checkout's environment, else python3.
python_here() {
  if [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON"
  elif [ -x .venv/bin/python ]; then
    echo .venv/bin/python
  else
    echo python3
  fi
}

# The 28 px file where the library looks for it, or nothing.
data_file() {
  local folder
  for folder in "${BLOOD_UNET_DATA:-data}" data; do
    if [ -f "$folder/bloodmnist.npz" ]; then
      echo "$folder/bloodmnist.npz"
      return
    fi
  done
}

# Bytes of files whose names come in, each ended by a zero byte.
bytes_of() { xargs -0 -r stat -L -c %s 2>/dev/null | awk '{ sum += $1 } END { printf "%d", sum }'; }

mib() { awk -v bytes="$1" 'BEGIN { printf "%.1f MiB", bytes/1048576 }'; }

# download PYTHON PINS NAME...: wheels for one version of Python.
download() {
  local version=$1 pins=$2
  shift 2
  # shellcheck disable=SC2086
  "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
    --python-version "$version" $PLATFORMS -c "$pins" -d wheels "$@"
}

pack() {
  local python names=() pythons=() version data
  while [ $# -gt 0 ]; do
    case $1 in
      --python) [ $# -gt 1 ] || usage; pythons+=("$2"); shift ;;
      -*) usage ;;
      *) names+=("$1") ;;
    esac
    shift
  done
  [ ${#pythons[@]} -gt 0 ] || pythons=(3.11 3.12)
  python=$(python_here)
  data=$(data_file)
  [ -n "$data" ] || fail "no bloodmnist.npz in \$BLOOD_UNET_DATA or data/: fetch it first (data/README.md)"
  mkdir -p wheels
  rm -f wheels/*.whl wheels/bloodmnist.npz
  # exact versions: those that the numbers were measured with, and those that settings.ini asks for
  pins=$(mktemp)
  trap 'rm -f "$pins"' EXIT
  { cat constraints.txt; grep -oE '\b[a-z][a-z0-9_-]*==[0-9][0-9.]*' settings.ini; } | sort -u >"$pins"
  for version in "${pythons[@]}"; do
    # shellcheck disable=SC2086
    download "$version" "$pins" $CARRIED "${names[@]}" || fail "not every wheel is there for Python $version"
  done
  # shellcheck disable=SC2086
  "$python" -m pip wheel -q --disable-pip-version-check --no-deps -c "$pins" -w wheels $BUILT ||
    fail "cannot build $BUILT"
  "$python" bench/gpu.py repack "$data" wheels/bloodmnist.npz bzip2 || fail "cannot pack $data"
  weigh
}

# What travels, by kind; refuses above the limit.
weigh() {
  local tree wheels data total
  git rev-parse --git-dir >/dev/null 2>&1 || fail 'no git checkout: what travels cannot be told'
  tree=$(git ls-files -z --cached --others --exclude-standard | bytes_of)
  wheels=$(find wheels -name '*.whl' -print0 | bytes_of)
  data=$(printf 'wheels/bloodmnist.npz\0' | bytes_of)
  total=$((tree + wheels + data))
  echo "checkout, without .git   $(mib "$tree")"
  echo "wheels ($(find wheels -name '*.whl' | wc -l) files)        $(mib "$wheels")"
  echo "bloodmnist.npz, bzip2    $(mib "$data")"
  echo "together                 $(mib "$total"), of $(mib "$MOST")"
  [ "$total" -lt "$MOST" ] || fail "$(mib $((total - MOST))) too much: name one --python, or leave a NAME out"
}

# An environment of its own over the Python that holds torch, filled from wheels/. That Python may be one of a
# virtual environment, whose packages --system-site-packages would not show: a .pth file names its folders.
install() {
  local base=$1 site
  rm -rf .venv-gpu
  "$base" -m venv --without-pip .venv-gpu || return 1
  site=$(.venv-gpu/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || return 1
  "$base" -c 'import sys
for path in dict.fromkeys(sys.path):
    if path.endswith("-packages"):
        print(f"import site; site.addsitedir({path!r})")' >"$site/base.pth" || return 1
  .venv-gpu/bin/python -m pip --version >/dev/null 2>&1 || .venv-gpu/bin/python -m ensurepip || return 1
  # names only: pip chooses among the wheels those for this Python, and leaves what is there already
  find wheels -name '*.whl' -printf '%f\n' | sed 's/-.*//' | sort -u >build/gpu/names.txt
  .venv-gpu/bin/python -m pip install -q --disable-pip-version-check --no-index --no-deps --no-compile \
    --find-links wheels -r build/gpu/names.txt || return 1
  echo "installed; what pip misses in this environment (jedi and debugpy were left out):"
  .venv-gpu/bin/python -m pip check --disable-pip-version-check 2>&1 | head -n 40
  return 0
}

# part NAME SECONDS LOG: one part of the measuring, within its time and what is left of all.
part() {
  local name=$1 most=$2 log=$logs/$3.log left code=0
  left=$((LIMIT - 25 - SECONDS))
  [ "$most" -lt "$left" ] || most=$left
  if [ "$most" -lt 10 ]; then
    say "$name: no time left"
    "$python" bench/gpu.py ended --out "$out" --name "$name" --code 1 --limit 0 --log "$log"
    return
  fi
  say "$name, at $SECONDS s, $most s at most"
  echo "== $name, at $SECONDS s of $LIMIT s, $most s at most" >>"$log"
  # shellcheck disable=SC2086
  timeout -k 20 "$most" "$python" bench/gpu.py "$name" --out "$out" --device "$device" $small --log "$log" \
    >>"$log" 2>&1 || code=$?
  [ "$code" = 0 ] || say "$name: exit status $code: $(tail -n 1 "$log")"
  "$python" bench/gpu.py ended --out "$out" --name "$name" --code "$code" --limit "$most" --log "$log"
}

run() {
  local device=cuda small='' name=gpu out='' logs base data code
  while [ $# -gt 0 ]; do
    case $1 in
      --device) [ $# -gt 1 ] || usage; device=$2; shift ;;
      --small) small=--small; name=gpu_small ;;
      --out) [ $# -gt 1 ] || usage; out=$2; shift ;;
      *) usage ;;
    esac
    shift
  done
  case $device in cuda|cpu) ;; *) usage ;; esac
  SECONDS=0
  out=${out:-${OUT:-bench/results}/$name.json}
  logs=${out%.json}_logs
  base=$(python_here)
  python=$base
  export PYTHONUNBUFFERED=1 MPLBACKEND=agg JUPYTER_PREFER_ENV_PATH=1 BLOOD_UNET_OFFLINE=1
  mkdir -p "$logs" && rm -f "$logs"/*.log || exit 1
  "$base" bench/gpu.py begin --out "$out" --device "$device" $small || exit 1

  # the 28 px file, and no other, for every part
  data=$(data_file)
  mkdir -p build/gpu/data
  if [ -f wheels/bloodmnist.npz ]; then
    "$base" bench/gpu.py repack wheels/bloodmnist.npz build/gpu/data/bloodmnist.npz none ||
      say 'wheels/bloodmnist.npz cannot be read'
  elif [ -n "$data" ]; then
    ln -s "$(realpath "$data")" build/gpu/data/bloodmnist.npz
  else
    say "no bloodmnist.npz in wheels/, \$BLOOD_UNET_DATA or data/"
  fi
  export BLOOD_UNET_DATA=$PWD/build/gpu/data PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

  if compgen -G 'wheels/*.whl' >/dev/null; then
    say 'installing from wheels/'
    if install "$base" >"$logs/setup.log" 2>&1; then
      python=.venv-gpu/bin/python
    else
      say "the wheels cannot be installed ($(tail -n 1 "$logs/setup.log")); going on with $base"
      "$base" bench/gpu.py ended --out "$out" --name install --code 1 --limit 1 --log "$logs/setup.log"
    fi
  else
    say "no wheels: $base is used as it is"
  fi

  part machine 60 setup
  part prepare 60 setup
  part train_28 60 training
  part train_64 60 training
  part train_paper_128 90 training
  part explain 75 explain
  part figures_on_device $(((LIMIT - SECONDS) / 2)) figures_on_device
  part figures_on_cpu "$LIMIT" figures_on_cpu
  "$python" bench/gpu.py finish --out "$out" --seconds "$SECONDS"
  code=$?
  say "logs: $logs"
  return $code
}

command=${1:-}
[ $# -gt 0 ] && shift
case $command in
  pack) pack "$@" ;;
  weigh) weigh ;;
  run) run "$@" ;;
  *) usage ;;
esac

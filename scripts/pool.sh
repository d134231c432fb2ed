#!/usr/bin/env bash
# Operate a running pool by its HTTP routes. All but status and reload need --enable-admin.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
url="${HEADRACE_URL:-http://127.0.0.1:8000}"
ca_file="${HEADRACE_CA_FILE:-}"
key="${HEADRACE_ADMIN_KEY:-${HEADRACE_API_KEY:-}}"
max_time="" kind="" # of a call: its longest seconds; "text" if it is answered in plain text
unset HEADRACE_ADMIN_KEY HEADRACE_API_KEY # no program that is started here needs them

usage() {
    cat <<'USAGE'
usage: scripts/pool.sh [--url URL] [--ca-file FILE] COMMAND

  status                        what each worker is doing
  sleep [LEVEL] [QUERY]         give memory back (1: caches, 2: weights too); QUERY: mode=wait&model=...
  wake [QUERY]                  take the memory again
  drain WORKER                  migrate the requests of one worker, and put it to sleep
  pause [MODE] [QUERY]          start no requests: abort (ends running ones), wait or keep
  resume [QUERY]                start requests again
  scale N [QUERY]               set the number of workers; QUERY: model=...
  models                        what requests may name: models and LoRA adapters
  load NAME PATH [QUERY]        serve a LoRA adapter; unload NAME: stop when its requests have ended
  reload RUN_DIR | PID          replace workers and frontends one at a time (SIGHUP to the launcher);
                                reload --wait ...: until all are replaced, or fail as the reload does

The URL is that of --url, else of HEADRACE_URL, else http://127.0.0.1:8000; unix:PATH is a socket.
The key is that of HEADRACE_ADMIN_KEY, else of HEADRACE_API_KEY. --ca-file (HEADRACE_CA_FILE) has the
certificates that may sign that of an https server, if they are not the system's.
USAGE
}

# call METHOD PATH?QUERY [JSON]: prints the answer as a table; fails if the server reports an error.
call() {
    local answer base="$url" socket=()
    if [[ "$url" == unix:* ]]; then
        socket=(--unix-socket "${url#unix:}") base=http://localhost
    fi
    # Calls to sleep and pause are answered when they are done: only the server limits their time.
    # The key is read from a pipe: all users of the machine may read the words of a command.
    answer="$(curl --silent --show-error --connect-timeout 5 --request "$1" \
        ${max_time:+--max-time "$max_time"} "${socket[@]}" ${ca_file:+--cacert "$ca_file"} \
        ${key:+--header @<(printf 'Authorization: Bearer %s\n' "$key")} \
        ${3:+--header Content-Type:application/json --data "$3"} \
        --write-out '\n%{http_code}' "$base/$2")" || exit 1
    printf '%s\n%s' "${answer##*$'\n'}" "${answer%$'\n'*}" |
        "$python" -P -m headrace.console.answer_table ${kind:+"$kind"}
}

# object KEY VALUE...: a JSON object.
object() {
    "$python" -c 'import json, sys; a = sys.argv[1:]; print(json.dumps(dict(zip(a[::2], a[1::2]))))' "$@"
}

# launcher_pid RUN_DIR|PID: prints the launcher's pid; fails if there is none.
launcher_pid() {
    "$python" -P -m headrace.console.find_launcher "$1"
}

while [ "${1:-}" = "--url" ] || [ "${1:-}" = "--ca-file" ]; do
    [ $# -ge 2 ] || { usage >&2; exit 2; }
    if [ "$1" = "--url" ]; then url="${2%/}"; else ca_file="$2"; fi
    shift 2
done
command="${1:-}"
[ $# -gt 0 ] && shift
case "$command" in
status) max_time=10 call GET "health?verbose" ;;
sleep) call POST "sleep?verbose&level=${1:-1}&${2:-}" ;;
wake) call POST "wake_up?verbose&${1:-}" ;;
drain)
    [ $# -eq 1 ] || { usage >&2; exit 2; }
    call POST "sleep?verbose&mode=drain&worker=$1"
    ;;
pause) call POST "pause?verbose&mode=${1:-abort}&${2:-}" ;;
resume) call POST "resume?verbose&${1:-}" ;;
scale)
    [[ "${1:-}" =~ ^[0-9]+$ ]] || { usage >&2; exit 2; }
    call POST "scale_elastic_ep?${2:-}" "{\"new_data_parallel_size\": $1}"
    max_time=10 call GET "health?verbose"
    ;;
models) max_time=10 call GET "v1/models" ;;
load)
    [ $# -ge 2 ] || { usage >&2; exit 2; }
    kind=text call POST "v1/load_lora_adapter?${3:-}" "$(object lora_name "$1" lora_path "$2")"
    ;;
unload)
    [ $# -ge 1 ] || { usage >&2; exit 2; }
    kind=text call POST "v1/unload_lora_adapter?${2:-}" "$(object lora_name "$1")"
    ;;
reload)
    if [ $# -eq 2 ] && [ "$1" = "--wait" ]; then
        HEADRACE_ADMIN_KEY="$key" exec "$python" -P -m headrace.console.await_reload "$2" "$url" "$ca_file"
    fi
    [ $# -eq 1 ] || { usage >&2; exit 2; }
    pid="$(launcher_pid "$1")"
    kill -HUP "$pid"
    echo "asked the launcher (pid $pid); its log and status say when all are replaced"
    ;;
-h | --help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac

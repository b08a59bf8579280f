#!/bin/sh
# A hook for a server with an API of its own: opamp-conformance server --hook './hook.sh' …
# Needs curl and jq. Exit status 0: done; 77: not supported; any other: failed.
set -eu
api=${API:-http://127.0.0.1:4321}
action=$(cat)
uid=$(printf %s "$action" | jq -r '.instance_uid // ""')
call() { curl --silent --show-error --fail-with-body --output /dev/null "$@"; }
case $(printf %s "$action" | jq -r .hook) in
offer_config)
    # Each file becomes {content_type, body_base64}.
    printf %s "$action" |
        jq '.files | map_values({content_type: (.content_type // ""), body_base64: .body})' |
        call -X PUT --json @- "$api/v1/agents/$uid/config-files" ;;
restart_agent) call -X POST "$api/v1/agents/$uid/restart" ;;
request_full_state) call -X POST "$api/v1/agents/$uid/report-full-state" ;;
show_agent)
    agent=$(curl --silent --fail "$api/v1/agents/$uid") || agent=null
    printf '{"agent": %s}\n' "$agent" ;;
*) exit 77 ;;
esac
